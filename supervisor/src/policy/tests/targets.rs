//! Targets: what the API server reads in them, and what is refused.

use super::*;
use proptest::prelude::*;

/// Method, target, and what `NewRequestInfo` of k8s.io/apiserver v0.36.1 made of them behind Go's own HTTP parser: is a resource, verb,
/// group, version, namespace, resource, subresource, name, path. The server's own table of tests is in it.
const REQUEST_INFO: &str = include_str!("../testdata/requestinfo.tsv");

fn get(target: &str) -> Result<Attributes, TargetError> {
    Attributes::parse("GET", target.as_bytes())
}

#[test]
fn the_server_reads_the_same() {
    let mut lines = 0;
    for line in REQUEST_INFO.lines() {
        let [method, target, expected @ ..] = &*line.split('\t').collect::<Vec<_>>() else { panic!("{line}") };
        let it = Attributes::parse(method, target.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
        let ours = [
            &*it.is_resource.to_string(),
            &it.server_verb,
            &it.group,
            &it.version,
            it.namespace.as_str(),
            &it.resource,
            &it.subresource,
            &it.name,
            &it.path,
        ];
        assert_eq!(expected, ours, "{line}");
        lines += 1;
    }
    assert!(lines > 100);
}

#[test]
fn what_is_refused() {
    type Is = fn(&TargetError) -> bool;
    let long = format!("/{}", "a".repeat(TARGET_MAX));
    let many = format!("/api/v1/pods?{}", "a&".repeat(PARAMETERS_MAX));
    let table: &[(&str, Is)] = &[
        ("", |e| matches!(e, TargetError::NotAPath)),
        ("*", |e| matches!(e, TargetError::NotAPath)),
        ("api/v1", |e| matches!(e, TargetError::NotAPath)),
        ("https://host/api/v1/pods", |e| matches!(e, TargetError::NotAPath)),
        ("host:443", |e| matches!(e, TargetError::NotAPath)),
        ("?watch=1", |e| matches!(e, TargetError::NotAPath)),
        (&long, |e| matches!(e, TargetError::TooLong(_))),
        (&many, |e| matches!(e, TargetError::Parameters(_))),
        ("/api/v1/pods#x", |e| matches!(e, TargetError::Fragment)),
        ("/api/v1/pods?a=b#", |e| matches!(e, TargetError::Fragment)),
        ("/api/v1/ pods", |e| matches!(e, TargetError::Byte { byte: b' ', at: 8 })),
        ("/api/v1/pods\t", |e| matches!(e, TargetError::Byte { .. })),
        ("/api/v1/pods\r\nX: y", |e| matches!(e, TargetError::Byte { .. })),
        ("/api/v1/pods\0", |e| matches!(e, TargetError::Byte { .. })),
        ("/api/v1/pods\u{7f}", |e| matches!(e, TargetError::Byte { .. })),
        ("/api/v1/pods/ä", |e| matches!(e, TargetError::Byte { .. })),
        ("/api\\v1", |e| matches!(e, TargetError::Byte { .. })),
        ("//api/v1/pods", |e| matches!(e, TargetError::EmptySegment)),
        ("//", |e| matches!(e, TargetError::EmptySegment)),
        ("/api//v1/pods", |e| matches!(e, TargetError::EmptySegment)),
        ("/api/v1/pods//", |e| matches!(e, TargetError::EmptySegment)),
        ("/api/v1/namespaces//pods", |e| matches!(e, TargetError::EmptySegment)),
        ("/.", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/../v1/pods", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/%2e%2E/secrets", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/.%2e/secrets", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/%2e/pods", |e| matches!(e, TargetError::DotSegment(_))),
        ("/version/%2e", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/pods/%", |e| matches!(e, TargetError::Encoding(_))),
        ("/api/v1/pods/%2", |e| matches!(e, TargetError::Encoding(_))),
        ("/api/v1/pods/%+1", |e| matches!(e, TargetError::Encoding(_))),
        ("/api/v1/pods/%zz", |e| matches!(e, TargetError::Encoding(_))),
        ("/api/v1/pods?watch=%", |e| matches!(e, TargetError::Encoding(_))),
        ("/api/v1/pods/%ff", |e| matches!(e, TargetError::NotUtf8(_))),
        ("/api/v1/pods/%c0%ae", |e| matches!(e, TargetError::NotUtf8(_))),
        ("/api/v1/pods?a=%ff", |e| matches!(e, TargetError::NotUtf8(_))),
        ("/api/v1/namespaces/a%2fpods", |e| matches!(e, TargetError::Character { character: '/', .. })),
        ("/api/v1%2Fnamespaces/a/pods", |e| matches!(e, TargetError::Character { character: '/', .. })),
        ("/api/v1/namespaces/a/pods/b%2fexec", |e| matches!(e, TargetError::Character { character: '/', .. })),
        ("/api/v1/namespaces/a/pods/b%5cc", |e| matches!(e, TargetError::Character { character: '\\', .. })),
        ("/api/v1/namespaces/a/pods/b%00", |e| matches!(e, TargetError::Character { character: '\0', .. })),
        ("/api/v1/namespaces/a/pods/b%0a", |e| matches!(e, TargetError::Character { character: '\n', .. })),
        ("/api/v1/namespaces/a/pods/b%c2%85", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/namespaces/a/pods/b%20", |e| matches!(e, TargetError::Character { character: ' ', .. })),
        ("/api/v1/namespaces/a/pods/b%c2%a0", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/namespaces/a/pods/%252e%252e", |e| matches!(e, TargetError::Character { character: '%', .. })),
        ("/api/v1/namespaces/a/pods/b%3fwatch=1", |e| matches!(e, TargetError::Character { character: '?', .. })),
        ("/api/v1/namespaces/a/pods/b%23", |e| matches!(e, TargetError::Character { character: '#', .. })),
        ("/api/v1/namespaces/a/pods/b;c=d", |e| matches!(e, TargetError::Character { character: ';', .. })),
        ("/version%2fx", |e| matches!(e, TargetError::Character { character: '/', .. })),
        ("/api/v1/namespaces/a/pods/b/proxy/%2e%2e/x", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/a%2f..%2fx", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/..;/x", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/..%3bx/x", |e| matches!(e, TargetError::DotSegment(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/a//x", |e| matches!(e, TargetError::EmptySegment)),
        ("/api/v1/namespaces/a/pods/b/proxy/a%2f", |e| matches!(e, TargetError::EmptySegment)),
        ("/api/v1/namespaces/a/pods/b/proxy/a%2f%2fx", |e| matches!(e, TargetError::EmptySegment)),
        ("/api/v1/namespaces/a/pods/b/proxy/a%5c..%5cx", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/namespaces/a/pods/b/proxy/%252e%252e/x", |e| matches!(e, TargetError::EncodedTwice(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/%25-%252f", |e| matches!(e, TargetError::EncodedTwice(_))),
        ("/api/v1/namespaces/a/pods/b/proxy/%0d", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/namespaces/a/services/b%2fc/proxy/x", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/proxy/nodes/a%2fb/x", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/pods?watch=1;x", |e| matches!(e, TargetError::Semicolon(_))),
        ("/api/v1/pods?;watch=1", |e| matches!(e, TargetError::Semicolon(_))),
        ("/api/v1/pods?watch=1&watch=0", |e| matches!(e, TargetError::Repeated("watch"))),
        ("/api/v1/pods?watch=1&wat%63h=1", |e| matches!(e, TargetError::Repeated("watch"))),
        ("/api/v1/pods?fieldSelector=a=b&fieldSelector=a=b", |e| matches!(e, TargetError::Repeated("fieldSelector"))),
        ("/api/v1/namespaces/a/pods/b/exec?container=c&container=d", |e| {
            matches!(e, TargetError::Repeated("container"))
        }),
        ("/api/v1/namespaces/a/pods/b/log?follow=1&follow=0", |e| matches!(e, TargetError::Repeated("follow"))),
        ("/api/v1/namespaces/a/pods/b?dryRun=All&dryRun=All", |e| matches!(e, TargetError::Repeated("dryRun"))),
        ("/api/v1/pods?namespace=a&namespace=a", |e| matches!(e, TargetError::Repeated("namespace"))),
        ("/api/v1/namespaces/a/pods?namespace=b", |e| matches!(e, TargetError::Value { parameter: "namespace", .. })),
        ("/api/v1/namespaces/a/pods/b?dryRun=all", |e| matches!(e, TargetError::Value { parameter: "dryRun", .. })),
        ("/api/v1/namespaces/a/pods/b?dryRun", |e| matches!(e, TargetError::Value { parameter: "dryRun", .. })),
        ("/api/v1/pods?fieldSelector=x", |e| matches!(e, TargetError::Value { parameter: "fieldSelector", .. })),
        ("/api/v1/pods?fieldSelector=metadata.name=a,metadata.name=b", |e| matches!(e, TargetError::Value { .. })),
        ("/api/v1/pods?labelSelector=a%00", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/pods?labelSelector=a%0ab", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/namespaces/a/pods/b/exec?command=%1b", |e| matches!(e, TargetError::Character { .. })),
        ("/api/v1/watch", |e| matches!(e, TargetError::NoKind(_))),
        ("/apis/apps/v1/proxy/", |e| matches!(e, TargetError::NoKind(_))),
    ];
    for (target, expected) in table {
        match get(target) {
            Err(e) => {
                assert!(expected(&e), "{target}: {e:?}");
                assert!(!e.to_string().chars().any(char::is_control), "{target}: {e}");
                assert!(e.to_string().len() < 400, "{e}");
            }
            Ok(it) => panic!("{target}: {it:?}"),
        }
    }
    for method in ["", "get", "Get", "CONNECT", "TRACE", "PURGE", "GET ", "GET\n", "M-SEARCH", &"A".repeat(1 << 20)] {
        assert!(matches!(Attributes::parse(method, b"/version"), Err(TargetError::Method(_))), "{method:.9}");
    }
}

#[test]
fn both_sides_of_the_bounds() {
    assert!(get(&format!("/{}", "a".repeat(TARGET_MAX - 1))).is_ok());
    assert!(get(&format!("/{}", "a".repeat(TARGET_MAX))).is_err());
    assert!(get(&format!("/api/v1/pods?{}", vec!["a"; PARAMETERS_MAX].join("&"))).is_ok());
    assert!(get(&format!("/api/v1/pods?{}", vec!["a"; PARAMETERS_MAX + 1].join("&"))).is_err());
}

#[test]
fn a_way_in_is_create_whatever_the_method() {
    for (sub, way) in [("exec", WayIn::Exec), ("attach", WayIn::Attach), ("portforward", WayIn::PortForward)] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            for prefix in ["/api/v1", "/api/v1/watch"] {
                let target = format!("{prefix}/namespaces/a/pods/b/{sub}");
                let it = Attributes::parse(method, target.as_bytes()).unwrap();
                assert_eq!(
                    (it.verb.as_str(), it.way_in(), it.is_read()),
                    ("create", Some(way), false),
                    "{method} {target}"
                );
            }
        }
    }
    for target in [
        "/api/v1/namespaces/a/pods/b/proxy",
        "/api/v1/namespaces/a/services/https:b:443/proxy/x",
        "/api/v1/nodes/n/proxy/exec/ns/pod/c",
        "/api/v1/proxy/nodes/n",
        "/api/v1/pro%78y/nodes/n/exec",
    ] {
        let it = get(target).unwrap();
        assert_eq!((it.way_in(), it.is_read()), (Some(WayIn::Proxy), false), "{target}");
    }
    assert_eq!(get("/api/v1/namespaces/a/pods/b/proxy").unwrap().verb, "get");
    let console = get("/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachineinstances/b/vnc").unwrap();
    assert_eq!((console.verb.as_str(), console.way_in()), ("create", Some(WayIn::Console)));
    let debug = "/api/v1/namespaces/a/pods/b/ephemeralcontainers";
    assert_eq!(Attributes::parse("PATCH", debug.as_bytes()).unwrap().way_in(), Some(WayIn::Debug));
    assert_eq!(get(debug).unwrap().way_in(), None);
    // names, not subresources
    for target in
        ["/api/v1/namespaces/a/pods/exec", "/api/v1/namespaces/exec/pods/proxy", "/proxy/exec", "/api/v1/pods/b"]
    {
        assert_eq!(get(target).unwrap().way_in(), None, "{target}");
    }
}

#[test]
fn what_the_query_says() {
    let it = get("/api/v1/namespaces/a/pods/b/exec?container=c&command=sh&command=-c&command=date+%2B%25Y%0Als&tty=1")
        .unwrap();
    assert_eq!(
        (it.container.as_deref(), it.command),
        (Some("c"), ["sh", "-c", "date +%Y\nls"].map(str::to_owned).to_vec())
    );
    let it = get("/api/v1/namespaces/a/pods/b/log?container=c&follow").unwrap();
    assert_eq!((it.container.as_deref(), it.follow), (Some("c"), true));
    assert!(!get("/api/v1/namespaces/a/pods/b/log?follow=false&container=").unwrap().follow);
    assert_eq!(get("/api/v1/namespaces/a/pods/b/log?container=").unwrap().container, None);
    assert_eq!(get("/api/v1/namespaces/a/pods/b?container=c&follow=1").unwrap().container, None);
    assert!(Attributes::parse("DELETE", b"/api/v1/namespaces/a/pods/b?dryRun=All").unwrap().dry_run);
    assert!(get("/api/v1/pods?watch=true").unwrap().is_watch());
    // of what is proxied, and none of ours
    let it = get("/api/v1/namespaces/a/services/b/proxy/query?namespace=x&watch=1&watch=2&command=a&query=sum%0Aby")
        .unwrap();
    assert!(it.command.is_empty() && it.verb == "get" && it.further == ["query"]);
}

#[test]
fn which_namespace_is_reached() {
    let named = |name: &str| Namespace::Named(name.to_owned());
    for (method, target, expected) in [
        ("GET", "/api/v1/namespaces/a/pods", named("a")),
        ("GET", "/api/v1/namespaces/a", named("a")),
        ("GET", "/api/v1/pods", Namespace::All),
        ("GET", "/api/v1/pods?watch=1", Namespace::All),
        ("GET", "/api/v1/watch/secrets", Namespace::All),
        ("DELETE", "/apis/example.com/v1/things", Namespace::All),
        ("GET", "/apis/example.com/v1/things/b", Namespace::None),
        ("GET", "/api/v1/nodes", Namespace::None),
        ("GET", "/api/v1/namespaces", Namespace::None),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", Namespace::None),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/roles", Namespace::All),
        ("GET", "/apis/example.com/v1/nodes", Namespace::All),
        ("GET", "/version", Namespace::None),
    ] {
        assert_eq!(Attributes::parse(method, target.as_bytes()).unwrap().namespace, expected, "{method} {target}");
    }
}

#[test]
fn what_carries_secrets() {
    for (target, expected) in [
        ("/api/v1/secrets", true),
        ("/api/v1/namespaces/a/secrets/b", true),
        ("/api/v1/watch/namespaces/a/secrets", true),
        ("/api/v1/namespaces/a/secrets/b/status", true),
        ("/apis/example.com/v1/secrets", false),
        ("/api/v1/namespaces/secrets", false),
        ("/api/v1/namespaces/a/pods/secrets", false),
        ("/api/v1", false),
    ] {
        assert_eq!(get(target).unwrap().carries_secrets(), expected, "{target}");
    }
}

/// Targets that mean something.
fn meant() -> impl Strategy<Value = String> {
    let words = "api|apis|v1|apps|namespaces|a|pods|exec|attach|log|proxy|watch|status|secrets|nodes|http:b:80|%61|p%6fds|pro%78y|%C3%A4|c\\*";
    let query =
        "|\\?watch=1|\\?watch|\\?fieldSelector=metadata\\.name%3Db|\\?container=c&command=ls&command=-l|\\?dryRun=All";
    let prefix = "|/api/v1|/apis/apps/v1|/api/v1/namespaces/a|/api/v1/namespaces/a/pods/b";
    (prefix, proptest::collection::vec(words, 0..6), "/?", query).prop_map(|(prefix, words, slash, query)| {
        let path = words.into_iter().fold(prefix, |path, word| format!("{path}/{word}"));
        let path = if path.is_empty() {
            "/".to_owned()
        } else if path.ends_with('/') {
            path
        } else {
            path + &slash
        };
        path + &query
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(method in ".{0,8}", target in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Attributes::parse(&method, &target);
        let _ = Attributes::parse("GET", &target);
        let _ = Attributes::parse("GET", &[b"/api/v1/namespaces/", target.as_slice()].concat());
        let _ = Attributes::parse("GET", &[b"/api/v1/namespaces/a/pods/b/proxy/", target.as_slice()].concat());
        let _ = Attributes::parse("GET", &[b"/api/v1/pods?", target.as_slice()].concat());
    }

    #[test]
    fn no_text_makes_it_panic(target in "/(api/v1|[a-z%2-5]{0,3}|[/.;?&=]){0,6}.{0,40}") {
        let _ = Attributes::parse("GET", target.as_bytes());
    }

    #[test]
    fn decoded_again_it_is_the_same(target in meant()) {
        let it = get(&target);
        prop_assume!(it.is_ok());
        let it = it.unwrap();
        // what is not ASCII cannot stand in a target, and needs no second look: it holds no percent sign
        let path: String = it.path.chars().map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => c.to_string().bytes().map(|b| format!("%{b:02X}")).collect(),
        }).collect();
        let query = target.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        prop_assert_eq!(get(&(path + &query)), Ok(it));
    }

    #[test]
    fn what_is_put_in_is_refused_or_changes_nothing(
        target in meant(),
        put in prop_oneof!["%2e", "%2E%2e", "/", "//", "/\\./", "/\\.\\./", "%2f", ";", "%3b", "\\\\", "%5c", "%00", "%0a", "#", " ", "%"],
        control in any::<bool>(),
        at in any::<prop::sample::Index>(),
    ) {
        let before = get(&target);
        prop_assume!(before.is_ok());
        let put = if control { "\u{1}".to_owned() } else { put };
        let at = at.index(target.len() + 1);
        let changed = format!("{}{put}{}", &target[..at], &target[at..]);
        let Ok(after) = get(&changed) else { return Ok(()) };
        // What is left is no trick but another name, or another path behind a proxy, and everybody reads it so.
        let plain = |it: &Attributes| it.path.split('/').all(|s| !matches!(s, "." | "..")) && !it.path.contains("//") && !it.path.contains(['\\', '\u{1}', '\0']);
        prop_assert!(plain(&after));
        if after.way_in() != Some(WayIn::Proxy) {
            prop_assert!(!after.path.contains(['%', ';', '#', ' ']));
            // nor do slashes hide in it: the raw path has as many
            let raw = changed.split('?').next().unwrap_or_default();
            prop_assert_eq!(after.path.matches('/').count(), raw.matches('/').count());
        }
    }

    #[test]
    fn dots_and_slashes_between_segments_are_refused(target in meant(), put in "(/|/%2e|/%2e%2e|/\\.|/\\.%2E|%2f|/%2f)", at in any::<prop::sample::Index>()) {
        let before = get(&target);
        prop_assume!(before.is_ok());
        let path = target.split('?').next().unwrap_or_default();
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        let at = slashes[at.index(slashes.len())];
        let changed = format!("{}{put}{}", &target[..at], &target[at..]);
        if let Ok(after) = get(&changed) {
            let before = before.unwrap();
            prop_assert_eq!(
                (after.verb, after.resource, after.subresource, after.namespace, after.name),
                (before.verb, before.resource, before.subresource, before.namespace, before.name)
            );
        }
    }
}
