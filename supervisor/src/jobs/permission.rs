//! A job as the rules of the policy see it.

use crate::policy::{JobCall, JobSource, Request, What};
use shared_proto::failure::{Code, Failure};
use shared_proto::hooks;
use shared_proto::sources::{OciReference, Place, RegistryAddress};
use shared_proto::v1::{JobKind, JobRequest, Source, source};
use std::collections::BTreeSet;

/// What is asked of the policy about a job: who made it, with the groups of then.
pub fn asked_of_policy(request: &JobRequest) -> Request {
    let source = match request.source.as_ref().and_then(|source| source.kind.as_ref()) {
        Some(source::Kind::Git(git)) => of_git(&git.url),
        // what is no address is refused by whoever would fetch it: no pattern but one for all is to match it
        Some(source::Kind::Oci(_) | source::Kind::Registry(_)) => {
            let place = request.source.as_ref().and_then(place_of);
            JobSource::Host(place.map(|place| place.host).unwrap_or_default())
        }
        Some(source::Kind::Archive(_)) | None => JobSource::Upload,
    };
    let job = JobCall {
        // what ends with its plan changes nothing
        kind: super::owner::kind_name(if request.preview_only { JobKind::Preview } else { request.kind() }).to_owned(),
        engine: request.engine.clone(),
        stack: request.stack_name.clone(),
        source,
        secret_stores: stores(request),
    };
    Request {
        person: Some(request.created_by.clone()).filter(|name| !name.is_empty()),
        groups: request.groups.as_ref().map(|groups| groups.names.clone()),
        connections: request.connections.clone(),
        what: What::Job(job),
    }
}

/// Whether a job may be taken for its hooks. `allowed`: the runner's own configuration lets jobs run them. One of a source that nobody has vouched
/// for is given none, and so is refused none.
///
/// # Errors
/// `hooks_refused`.
pub fn admit_hooks(request: &JobRequest, allowed: bool) -> Result<(), Failure> {
    let named: Vec<_> = request.hooks.iter().flat_map(hooks::of).map(|(hook, _)| hook.name()).collect();
    if allowed || request.untrusted || named.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the stack {} has hooks ({}), and `hooks` under [jobs] of this runner's configuration is false",
        request.stack_name,
        named.join(", ")
    );
    Err(Code::HooksRefused.on(message))
}

/// The stores of secrets that its variables refer to, each once.
fn stores(request: &JobRequest) -> Vec<String> {
    let all: BTreeSet<_> = request.secrets.values().map(|reference| reference.from.clone()).collect();
    all.into_iter().collect()
}

/// Where a source is fetched from, if it is, and has an address that can be fetched from.
pub fn place_of(source: &Source) -> Option<Place> {
    match source.kind.as_ref()? {
        source::Kind::Git(git) => Place::of_git(&git.url).ok(),
        source::Kind::Oci(oci) => OciReference::parse(&oci.reference).ok().map(|reference| reference.place),
        source::Kind::Registry(module) => RegistryAddress::parse(&module.address).ok().map(|address| address.place),
        source::Kind::Archive(_) => None,
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
    use shared_proto::v1;

    #[test]
    fn hooks_are_run_where_the_runner_says_so_and_a_strangers_are_not_asked_about() {
        let asked = |hooks: Option<v1::Hooks>, untrusted: bool, allowed: bool| {
            let request = JobRequest { stack_name: "shop".into(), hooks, untrusted, ..Default::default() };
            admit_hooks(&request, allowed)
        };
        let hooks = Some(v1::Hooks { before_plan: "a.sh".into(), after_apply: "b.sh".into(), ..Default::default() });
        assert_eq!(asked(hooks.clone(), false, true), Ok(()));
        assert_eq!(asked(hooks.clone(), true, false), Ok(()));
        assert_eq!(asked(None, false, false), Ok(()));
        assert_eq!(asked(Some(v1::Hooks::default()), false, false), Ok(()));
        let refused = asked(hooks, false, false).expect_err("refused");
        assert_eq!(refused.code, Code::HooksRefused);
        assert!(refused.message.contains("shop has hooks (before-plan, after-apply)"), "{refused}");
        assert!(refused.next_step.contains("`hooks = true` under [jobs]"), "{refused}");
    }

    #[test]
    fn where_the_others_are_got_from() {
        let host = |kind: source::Kind| {
            let source = Some(Source { kind: Some(kind), path: String::new() });
            let request = asked_of_policy(&JobRequest { source, ..Default::default() });
            match request.what {
                What::Job(call) => call.source.as_str().to_owned(),
                other => panic!("{other:?}"),
            }
        };
        let oci = |reference: &str| host(source::Kind::Oci(v1::OciSource { reference: reference.into() }));
        assert_eq!(oci("Registry.example.com:5000/a/b:v1"), "registry.example.com");
        assert_eq!((oci("registry.example.com/a"), oci("")), (String::new(), String::new()));
        let module = |address: &str| {
            host(source::Kind::Registry(v1::RegistrySource { address: address.into(), version: String::new() }))
        };
        assert_eq!(module("registry.example.com/org/net/aws"), "registry.example.com");
        assert_eq!(module("registry.example.com/../x"), "");
    }

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
