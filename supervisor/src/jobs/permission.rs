//! A job as the rules of the policy see it.

use crate::policy::{JobCall, JobSource, Request, What};
use shared_proto::v1::{JobKind, JobRequest, source};

/// What is asked of the policy about a job: who made it, with the groups of then.
pub fn asked_of_policy(request: &JobRequest) -> Request {
    let source = match request.source.as_ref().and_then(|source| source.kind.as_ref()) {
        Some(source::Kind::Git(git)) => of_git(&git.url),
        Some(source::Kind::Archive(_)) | None => JobSource::Upload,
    };
    let job = JobCall {
        // what ends with its plan changes nothing
        kind: super::owner::kind_name(if request.preview_only { JobKind::Preview } else { request.kind() }).to_owned(),
        engine: request.engine.clone(),
        stack: request.stack_name.clone(),
        source,
    };
    Request {
        person: Some(request.created_by.clone()).filter(|name| !name.is_empty()),
        groups: request.groups.as_ref().map(|groups| groups.names.clone()),
        connections: request.connections.clone(),
        what: What::Job(job),
    }
}

/// Where git gets it from. What is no address of a host's is taken for a path, which is what git does (gitprotocol-common, "git clone" URLS).
fn of_git(url: &str) -> JobSource {
    let authority = match url.split_once("://") {
        Some(("file", _)) => return JobSource::File,
        Some((_, rest)) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
        // user@host:path, with no slash before the colon
        None => match url.split_once(':') {
            Some((host, _)) if !host.contains('/') && !host.is_empty() => host,
            _ => return JobSource::File,
        },
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // what is no host's name may be read in another way by whoever connects: no pattern but one for all is to match it
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
    JobSource::Host(if plain { host.to_ascii_lowercase() } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_git_gets_it_from() {
        for (url, expected) in [
            ("https://git.example.com/a/b.git", "git.example.com"),
            ("https://user:pw@Git.Example.com:8443/a", "git.example.com"),
            ("https://a@evil.example@git.example.com/x", "git.example.com"),
            ("https://git.example.com?@other.example/", "git.example.com"),
            ("ssh://git@git.example.com:22/a", "git.example.com"),
            ("git@git.example.com:a/b.git", "git.example.com"),
            ("ssh://[::1]:22/a", "::1"),
            ("file:///srv/x", "@file"),
            ("/srv/x", "@file"),
            ("./a:b", "@file"),
            ("https://git.example.com\\@other.example/", "other.example"),
            ("https://git.example.com%2f.other.example/", ""),
        ] {
            assert_eq!(of_git(url).as_str(), expected, "{url}");
        }
    }
}
