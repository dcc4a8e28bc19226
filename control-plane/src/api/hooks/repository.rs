//! Whether two addresses are of one repository, whatever way leads to it: by https, by ssh, with `.git` or without.

/// Whether any of these is the address of that repository.
pub(in crate::api) fn same_repository(stack: &str, told: &[String]) -> bool {
    let Some(stack) = place(stack) else { return false };
    told.iter().any(|told| place(told).as_ref() == Some(&stack))
}

/// Host, with its port where that is not its scheme's own, and path; without regard to case, of which no host lets two repositories differ.
fn place(url: &str) -> Option<(String, String)> {
    let (authority, path, usual) = match url.split_once("://") {
        Some(("file", path)) => return Some(("file:".to_owned(), plain(path))),
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/')?;
            let usual = match scheme {
                "https" => ":443",
                "http" => ":80",
                "ssh" => ":22",
                _ => return None,
            };
            (authority, path, usual)
        }
        // user@host:path
        None => {
            let (authority, path) = url.split_once(':')?;
            (authority, path, ":22")
        }
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    let host = host.strip_suffix(usual).unwrap_or(&host).to_owned();
    let path = plain(path).to_ascii_lowercase();
    (!host.is_empty() && !path.is_empty()).then_some((host, path))
}

fn plain(path: &str) -> String {
    let path = path.trim_matches('/');
    path.strip_suffix(".git").unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repository_has_many_addresses() {
        let told = [
            "https://github.com/Codertocat/Hello-World.git".to_owned(),
            "git@github.com:Codertocat/Hello-World.git".to_owned(),
        ];
        for (stack, expected) in [
            ("https://github.com/codertocat/hello-world", true),
            ("https://github.com/Codertocat/Hello-World.git/", true),
            ("https://user@github.com:443/Codertocat/Hello-World", true),
            ("git@github.com:Codertocat/Hello-World", true),
            ("ssh://git@github.com/Codertocat/Hello-World.git", true),
            ("ssh://git@github.com:22/Codertocat/Hello-World.git", true),
            ("ssh://git@github.com:2222/Codertocat/Hello-World.git", false),
            ("https://github.com:8443/Codertocat/Hello-World.git", false),
            ("https://github.com.evil.example/Codertocat/Hello-World.git", false),
            ("https://evil.example/github.com/Codertocat/Hello-World.git", false),
            ("https://github.com@evil.example/Codertocat/Hello-World.git", false),
            ("https://github.com/Codertocat/Hello-World2", false),
            ("https://github.com/Codertocat", false),
            ("https://github.com/", false),
            ("", false),
            ("ftp://github.com/Codertocat/Hello-World", false),
            ("file:///srv/Hello-World", false),
        ] {
            assert_eq!(same_repository(stack, &told), expected, "{stack}");
        }
        assert!(same_repository("file:///srv/x.git", &["file:///srv/x".into()]));
        assert!(!same_repository("file:///srv/X", &["file:///srv/x".into()]));
        assert!(!same_repository("", &[String::new()]));
    }
}
