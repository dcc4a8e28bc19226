//! Addresses, good ones and hostile ones, and what patterns cover.

use super::*;

#[test]
fn addresses_of_git() {
    for (url, shown) in [
        ("https://example.com/a/b.git", "https://example.com/a/b.git"),
        ("https://Example.com:8443/a", "https://example.com:8443/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("ssh://git@example.com/a.git", "ssh://git@example.com/a.git"),
        ("ssh://git@example.com:2222/a.git", "ssh://git@example.com:2222/a.git"),
        ("git@example.com:a/b.git", "ssh://git@example.com/a/b.git"),
        ("git@example.com:/a/b.git", "ssh://git@example.com/a/b.git"),
        ("example.com:a", "ssh://example.com/a"),
    ] {
        assert_eq!(Place::of_git(url).map(|place| place.to_string()).as_deref(), Ok(shown), "{url}");
    }
    for bad in [
        "",
        "ext::sh -c touch% /tmp/x",
        "ext::/bin/true",
        "fd::3",
        "https::https://x/y",
        "ext::https://[::1]/x",
        "https://[ext::sh]/x",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x",
        "ssh://-oProxyCommand=x/y",
        "ssh://git@-oProxyCommand=x/y",
        "ssh://-x@host/y",
        "-x@host:path",
        "host:-path",
        "file:///etc",
        "/etc",
        "./x",
        "x",
        "../x:y",
        "http://example.com/a",
        "git://example.com/a",
        "ftp://example.com/a",
        "https://user:password@example.com/a",
        "https://token@example.com/a",
        "ssh://git:password@example.com/a",
        "https://",
        "https://example.com",
        "https:///a",
        "https://exa mple.com/a",
        "https://example.com/a\n",
        "https://example.com/a\0b",
        "https://$(x)/a",
        "https://example.com:0/a",
        "https://example.com:99999/a",
        "https://example.com:+1/a",
        "https://example.com:/a",
        ":path",
        &format!("https://example.com/{}", "a".repeat(ADDRESS_MAX)),
    ] {
        let why = Place::of_git(bad).expect_err(bad);
        assert!(!why.contains("password@"), "{why}");
    }
}

#[test]
fn what_patterns_cover() {
    for (pattern, place, covered) in [
        ("https://example.com/org/*", "https://example.com/org/a.git", true),
        ("https://example.com/org/*", "https://EXAMPLE.com/org/a/b", true),
        ("https://example.com/org/*", "https://example.com:443/org/a", true),
        ("https://example.com/*", "https://example.com/org/a", true),
        ("https://example.com/org/a", "https://example.com/org/a.git", true),
        ("https://example.com/org/a.git", "https://example.com/org/a", true),
        ("git@example.com:org/*", "git@example.com:org/a.git", true),
        ("git@example.com:org/*", "ssh://git@example.com/org/a.git", true),
        ("git@example.com:*", "ssh://git@example.com/a.git", true),
        ("ssh://git@example.com:2222/org/*", "ssh://git@example.com:2222/org/a", true),
        ("https://example.com/org/*", "https://example.com/org", false),
        ("https://example.com/org/*", "https://example.com/organ/a", false),
        ("https://example.com/org/*", "https://example.com/Org/a", false),
        ("https://example.com/org/*", "https://example.com:8443/org/a", false),
        ("https://example.com/org/*", "https://example.com.evil.example/org/a", false),
        ("https://example.com/org/*", "https://sub.example.com/org/a", false),
        ("https://example.com/org/*", "https://example.com/org/../other/a", false),
        ("https://example.com/org/*", "https://example.com/org/%2e%2e/other/a", false),
        ("https://example.com/org/*", "https://example.com/org//a", false),
        ("https://example.com/org/*", "https://example.com/org/./a", false),
        ("https://example.com/org/*", "https://example.com/org/a?x=y", false),
        ("https://example.com/org/*", "https://example.com/org/a#x", false),
        ("https://example.com/org/*", "https://example.com/org/a\\b", false),
        ("https://example.com/org/*", "ssh://example.com/org/a", false),
        ("https://example.com/org/a", "https://example.com/org/a/b", false),
        ("git@example.com:org/*", "root@example.com:org/a", false),
        ("git@example.com:org/*", "example.com:org/a", false),
        ("git@example.com:org/*", "ssh://git@example.com:2222/org/a", false),
        ("git@example.com:org/*", "git@example.com:org/../other", false),
        ("git@example.com:org/*", "git@example.com:~other/org/a", false),
    ] {
        let (parsed, place) = (Pattern::parse(pattern).expect(pattern), Place::of_git(place).expect(place));
        assert_eq!(parsed.covers(&place), covered, "{pattern} {place}");
    }
    for bad in [
        "",
        "*",
        "https://example.com",
        "https://example.com/or*",
        "https://*/org/x",
        "https://*.example.com/org/*",
        "https://example.com/*/x",
        "https://example.com/../*",
        "https://example.com/a%2fb",
        "https://example.com/a//*",
        "https://user:pw@example.com/*",
        "https://token@example.com/*",
        "http://example.com/*",
        "file:///srv/*",
        "oci://example.com",
        "-x@host:*",
    ] {
        assert!(Pattern::parse(bad).is_err(), "{bad}");
    }
    let narrow = |text: &str| Pattern::parse(text).expect(text).narrowness();
    assert!(narrow("https://h/a/b") > narrow("https://h/a/*") && narrow("https://h/a/*") > narrow("https://h/*"));
}

#[test]
fn what_git_compares_with() {
    let addresses = |text: &str| Pattern::parse(text).expect(text).git_addresses();
    assert_eq!(addresses("https://h:8443/org/*"), ["https://h:8443/org"]);
    assert_eq!(addresses("https://h/*"), ["https://h/"]);
    assert_eq!(addresses("https://h/org/a.git"), ["https://h/org/a", "https://h/org/a.git"]);
    assert!(addresses("git@h:org/*").is_empty());
}

#[test]
fn references_of_artifacts() {
    let digest = format!("sha256:{}", "a1".repeat(32));
    for (text, path, reference) in [
        ("registry.example.com/a/b:v1", "a/b", "v1"),
        ("127.0.0.1:5000/a__b/c-d:1.0_x", "a__b/c-d", "1.0_x"),
        (&format!("registry.example.com/a@{digest}"), "a", &digest),
        (&format!("registry.example.com/a:v1@{digest}"), "a", &digest),
    ] {
        let parsed = OciReference::parse(text).expect(text);
        assert_eq!((parsed.place.path.as_str(), parsed.reference.as_str()), (path, reference), "{text}");
        assert_eq!(parsed.is_digest(), reference == digest);
    }
    let pattern = Pattern::parse("oci://registry.example.com/a/*").expect("a pattern");
    assert!(pattern.covers(&OciReference::parse("registry.example.com/a/b:v1").expect("a reference").place));
    assert!(!pattern.covers(&OciReference::parse("registry.example.com/b/a:v1").expect("a reference").place));
    for bad in [
        "",
        "a:v1",
        "registry.example.com/a",
        "registry.example.com/A:v1",
        "registry.example.com/../a:v1",
        "registry.example.com/a/:v1",
        "registry.example.com//a:v1",
        "registry.example.com/a:-v1",
        "registry.example.com/a:v 1",
        "registry.example.com/a@sha256:00",
        "registry.example.com/a@md5:00",
        &format!("registry.example.com/a@{}", digest.to_uppercase()),
        "user:pw@registry.example.com/a:v1",
        "https://registry.example.com/a:v1",
        "-x/a:v1",
        "registry.example.com/a?x:v1",
    ] {
        assert!(OciReference::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn modules_of_registries() {
    let good = RegistryAddress::parse("registry.example.com:8443/org/net-work/aws").expect("a module");
    assert_eq!(good.place.to_string(), "registry://registry.example.com:8443/org/net-work/aws");
    for bad in [
        "",
        "org/network/aws",
        "registry.example.com/org/network",
        "registry.example.com/org/network/aws/x",
        "registry.example.com/../network/aws",
        "registry.example.com/org/net work/aws",
        "registry.example.com/-org/network/aws",
        "registry.example.com/org//aws",
        "https://registry.example.com/org/network/aws",
        "u:p@registry.example.com/org/network/aws",
    ] {
        assert!(RegistryAddress::parse(bad).is_err(), "{bad}");
    }
}
