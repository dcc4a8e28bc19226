//! What the first process of a job is told of the network: which name servers there are, what the job may reach whatever kind of address it
//! is, and what it may not.

use crate::config::{AwsSource, Config, Connection};
use crate::net::proxy::Proxy;
use shared_proto::address::{Address, host_port};
use shared_proto::credentials::Endpoint;
use shared_proto::sources::Pattern;
use shared_proto::states::bucket_address;
use shared_proto::v1::target::Kind as Target;
use shared_proto::v1::{JobFirst, JobTarget, SourceAccess, StatePlace, state_place};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Where name servers are written down.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where they listen.
const NAME_SERVER: u16 = 53;
/// As many as libc asks.
const NAME_SERVERS_MAX: usize = 3;
/// How long one name may take.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// For a job with these connections, whose source is fetched with that and whose states are there. Names that lead nowhere are left out.
pub(crate) async fn first_word(
    config: &Config,
    control_plane: &[&Endpoint],
    targets: &[JobTarget],
    source: Option<&SourceAccess>,
    states: Option<&StatePlace>,
) -> JobFirst {
    let (mut granted, mut proxies) = (Vec::new(), Vec::new());
    if let Some(proxy) = &config.proxy.url {
        proxies.push((proxy.host.clone(), proxy.port));
    }
    let (mut hosts, mut others) = (config.jobs.hosts.clone(), Vec::new());
    let of_states = states.and_then(|place| place.target.as_ref());
    granted.extend(states.and_then(place_of_states));
    // of a bucket that is where it is, and what its connection has besides is not for it
    let of_states = of_states.filter(|_| states.is_some_and(|place| !is_bucket(place)));
    for target in targets.iter().chain(of_states).filter_map(|t| t.target.as_ref()?.kind.as_ref()) {
        let (urls, proxy) = match target {
            Target::Kubernetes(cluster) => (&cluster.server, cluster.proxy_url.as_str()),
            Target::Aws(account) => (&account.endpoint_url, ""),
            Target::Gcp(projects) => (&projects.endpoint_url, ""),
            Target::Azure(subscriptions) => (&subscriptions.endpoint_url, ""),
        };
        granted.extend(Address::parse(urls).map(|a| (a.host, a.port)));
        match Proxy::parse(proxy) {
            Ok(proxy) if proxy.is_http() => proxies.push((proxy.host, proxy.port)),
            // what is asked of another kind is not read
            Ok(proxy) => others.push((proxy.host, proxy.port)),
            Err(_) => {}
        }
    }
    // the entry names its host, as a connection's does
    let source = source.and_then(|access| Pattern::parse(&access.pattern).ok());
    granted.extend(source.map(|pattern| (pattern.place().host.clone(), pattern.place().port)));
    let names = |hosts: &[(String, u16)]| hosts.iter().map(|(host, port)| host_port(host, *port)).collect();
    let granted_names = names(&granted);
    granted.extend(proxies.iter().chain(&others).cloned());
    if !hosts.is_empty() {
        // what a connection is for may be asked for by its name too
        hosts.extend(granted.iter().map(|(host, _)| host.clone()));
    }
    let refused: Vec<_> = control_plane.iter().map(|e| (e.host.clone(), e.port)).collect();
    JobFirst {
        name_servers: name_servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
        proxies: addresses(proxies).await,
        granted_names,
        refused_names: names(&refused),
        granted: addresses(granted).await,
        refused: addresses(refused).await,
        metadata: targets.iter().any(|t| is_own_role(config, &t.connection)),
        hosts,
        grace_seconds: 0,
        takes_over: config.jobs.take_over,
    }
}

fn is_bucket(place: &StatePlace) -> bool {
    matches!(place.kind, Some(state_place::Kind::Bucket(_)))
}

/// Where a bucket of states is asked for.
fn place_of_states(place: &StatePlace) -> Option<(String, u16)> {
    let Some(state_place::Kind::Bucket(bucket)) = &place.kind else { return None };
    let Some(Target::Aws(account)) = place.target.as_ref()?.target.as_ref()?.kind.as_ref() else { return None };
    bucket_address(bucket, account).ok().map(|address| (address.host, address.port))
}

fn is_own_role(config: &Config, connection: &str) -> bool {
    // of a role that is assumed with it a job has the session, and no need of what it was assumed with
    let entry = config.connections.get(connection);
    matches!(entry, Some(Connection::Aws { source: AwsSource::InstanceRole, session: None, .. }))
}

/// Every address of every one of them.
async fn addresses(hosts: Vec<(String, u16)>) -> Vec<String> {
    let mut found = Vec::new();
    for (host, port) in hosts {
        let looked_up = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((host.as_str(), port))).await;
        if let Ok(Ok(addresses)) = looked_up {
            found.extend(addresses.map(|a| a.to_string()));
        }
    }
    found
}

/// The servers that a resolv.conf names; libc's own default where it names none.
fn name_servers(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        // an interface after a percent sign is of no use elsewhere
        (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse::<IpAddr>().ok())?
    });
    let mut servers: Vec<_> = named.take(NAME_SERVERS_MAX).collect();
    if servers.is_empty() {
        servers.push(IpAddr::from([127, 0, 0, 1]));
    }
    servers.into_iter().map(|ip| SocketAddr::new(ip, NAME_SERVER).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_proto::v1::{self, AwsTarget};

    #[test]
    fn name_servers_as_libc_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch example\nnameserver 10.0.0.2\nnameserver\nnameserver fd00::1%eth0\nnameserver x\n\
                    nameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        assert_eq!(name_servers(text), ["10.0.0.2:53", "[fd00::1]:53", "10.0.0.3:53"]);
        assert_eq!(name_servers(""), ["127.0.0.1:53"]);
    }

    #[tokio::test]
    async fn where_states_are_is_reached_and_nothing_else_of_that_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runner.toml");
        let text = "[jobs]\nhosts = \"registry.example\"\n\
                    [jobs.states]\nplace = \"s3\"\nconnection = \"keeps\"\nbucket = \"states\"\n\
                    [connections.keeps]\nprovider = \"aws\"\nsource = \"instance_role\"\n";
        std::fs::write(&path, text).expect("writes");
        let config = Config::load(Some(&path), &Default::default(), &Default::default()).expect("loads");
        let none = first_word(&config, &[], &[], None, None).await;
        assert_eq!((none.granted.len(), none.hosts.as_slice()), (0, &["registry.example".to_owned()][..]));
        let mut place = config.jobs.states.word().expect("a place");
        let refused = first_word(&config, &[], &[], None, Some(&place)).await;
        assert!(refused.granted.is_empty(), "there are no credentials to be used there");
        let account = AwsTarget { endpoint_url: "http://127.0.0.1:5000/".into(), ..AwsTarget::default() };
        let target = v1::Target { kind: Some(Target::Aws(account)) };
        place.target.get_or_insert_default().target = Some(target);
        let first = first_word(&config, &[], &[], None, Some(&place)).await;
        assert_eq!(
            (first.granted.as_slice(), first.granted_names.as_slice()),
            (&["127.0.0.1:5000".to_owned()][..], &["127.0.0.1:5000".to_owned()][..])
        );
        assert!(first.hosts.contains(&"127.0.0.1".to_owned()));
        assert!(!first.metadata, "the role is the worker's way to nothing");
    }
}
