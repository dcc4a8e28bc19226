//! Where a job may connect to. Addresses decide, never names: what a name leads to is checked where it is connected to.

use runner_sandbox::addresses;
use shared_proto::address::HostPattern;
use shared_proto::v1::JobFirst;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// Addresses that allowed names have led to, at most; beyond it nothing new is learnt.
const LEARNT_MAX: usize = 4096;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays inside: the job's own loopback.
    Inside,
    /// It is made outside.
    Outside,
    /// It is refused: why.
    Refused(&'static str),
}

/// The policy of one job.
#[derive(Debug)]
pub(super) struct Policy {
    granted: HashSet<SocketAddr>,
    refused: HashSet<SocketAddr>,
    metadata: bool,
    hosts: Vec<HostPattern>,
    learnt: HashSet<IpAddr>,
    /// Whether the job has a loopback of its own.
    own_loopback: bool,
}

// === impl Policy ===

impl Policy {
    /// As the supervisor says; what is no address or host is left out.
    pub(super) fn new(first: &JobFirst, own_loopback: bool) -> Self {
        let addresses =
            |texts: &[String]| texts.iter().filter_map(|t| t.parse::<SocketAddr>().ok()).map(canonical).collect();
        Self {
            granted: addresses(&first.granted),
            refused: addresses(&first.refused),
            metadata: first.metadata,
            hosts: first.hosts.iter().filter_map(|h| HostPattern::parse(h)).collect(),
            learnt: HashSet::new(),
            own_loopback,
        }
    }

    /// What becomes of a TCP connection there.
    pub(super) fn verdict(&self, to: SocketAddr) -> Verdict {
        let plain = canonical(to);
        let ip = plain.ip();
        if self.granted.contains(&plain) {
            return Verdict::Outside;
        }
        if ip.is_loopback() {
            return if self.own_loopback { Verdict::Inside } else { Verdict::Refused("this machine's loopback") };
        }
        if self.refused.contains(&plain) {
            return Verdict::Refused("the control plane");
        }
        if let Some(reason) = addresses::forbidden(to.ip()) {
            // the address itself, in no disguise
            let allowed = self.metadata && addresses::is_metadata(to.ip());
            return if allowed { Verdict::Outside } else { Verdict::Refused(reason) };
        }
        if self.hosts.is_empty() || self.learnt.contains(&ip) || self.hosts.iter().any(|host| host.holds(ip)) {
            return Verdict::Outside;
        }
        Verdict::Refused("no host that jobs may reach")
    }

    /// Whether that name may be asked for.
    pub(super) fn allows_name(&self, asked: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| host.names(asked))
    }

    /// Whether what names lead to has to be learnt.
    pub(super) fn learns(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// An allowed name leads there.
    pub(super) fn learn(&mut self, address: IpAddr) {
        if self.learnt.len() < LEARNT_MAX {
            self.learnt.insert(address.to_canonical());
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Inside, Outside, Refused};

    fn policy(first: &JobFirst) -> Policy {
        Policy::new(first, true)
    }

    fn verdict(policy: &Policy, address: &str) -> Verdict {
        policy.verdict(address.parse().expect(address))
    }

    #[test]
    fn all_but_what_is_nobodys_business() {
        let first = JobFirst {
            granted: vec!["127.0.0.1:6443".into(), "[::1]:6443".into(), "169.254.7.7:80".into(), "nonsense".into()],
            refused: vec!["203.0.113.5:443".into()],
            ..Default::default()
        };
        let p = policy(&first);
        for (address, expected) in [
            ("8.8.8.8:443", Outside),
            ("10.0.0.1:22", Outside),
            ("127.0.0.1:6443", Outside),
            ("[::ffff:127.0.0.1]:6443", Outside),
            ("127.0.0.1:6444", Inside),
            ("[::1]:6443", Outside),
            ("[::1]:1", Inside),
            ("169.254.7.7:80", Outside),
            ("169.254.7.7:81", Refused("a link-local address")),
            ("169.254.169.254:80", Refused("a link-local address")),
            ("[::ffff:169.254.169.254]:80", Refused("a link-local address")),
            ("[fd00:ec2::254]:80", Refused("a cloud's metadata service")),
            ("168.63.129.16:80", Refused("a cloud's metadata service")),
            ("0.0.0.0:80", Refused("no address of a host")),
            ("203.0.113.5:443", Refused("the control plane")),
            ("[::ffff:203.0.113.5]:443", Refused("the control plane")),
            ("203.0.113.5:444", Outside),
        ] {
            assert_eq!(verdict(&p, address), expected, "{address}");
        }
        // where the loopback is this machine's
        let shared = Policy::new(&first, false);
        assert_eq!(verdict(&shared, "127.0.0.1:6443"), Outside);
        assert_eq!(verdict(&shared, "127.0.0.1:6444"), Refused("this machine's loopback"));
    }

    #[test]
    fn metadata_for_whom_it_is_and_in_no_disguise() {
        let p = policy(&JobFirst { metadata: true, ..Default::default() });
        for (address, expected) in [
            ("169.254.169.254:80", Outside),
            ("169.254.170.2:80", Outside),
            ("169.254.170.23:80", Outside),
            ("[fd00:ec2::254]:80", Outside),
            ("[fd00:ec2::23]:80", Outside),
            ("168.63.129.16:80", Refused("a cloud's metadata service")),
            ("[::ffff:169.254.169.254]:80", Refused("a link-local address")),
            ("169.254.0.1:80", Refused("a link-local address")),
        ] {
            assert_eq!(verdict(&p, address), expected, "{address}");
        }
    }

    #[test]
    fn only_some_hosts() {
        let hosts =
            ["registry.example", "*.cloud.example", "10.1.0.0/16", "192.0.2.7", "fd12::/16", "10.0.0.0/33", "a b"];
        let mut p = policy(&JobFirst { hosts: hosts.map(str::to_owned).to_vec(), ..Default::default() });
        for (name, allowed) in [
            ("registry.example", true),
            ("REGISTRY.example", true),
            ("x.registry.example", false),
            ("a.cloud.example", true),
            ("a.b.Cloud.example", true),
            ("cloud.example", false),
            (".cloud.example", false),
            ("evilcloud.example", false),
            ("other.example", false),
            ("", false),
        ] {
            assert_eq!(p.allows_name(name), allowed, "{name}");
        }
        for (address, expected) in [
            ("10.1.255.255:1", Outside),
            ("10.2.0.0:1", Refused("no host that jobs may reach")),
            ("192.0.2.7:1", Outside),
            ("192.0.2.8:1", Refused("no host that jobs may reach")),
            ("[fd12:1::1]:1", Outside),
            ("[fd13::1]:1", Refused("no host that jobs may reach")),
            ("169.254.169.254:80", Refused("a link-local address")),
            ("198.51.100.1:443", Refused("no host that jobs may reach")),
        ] {
            assert_eq!(verdict(&p, address), expected, "{address}");
        }
        // an allowed name that leads to a forbidden address leads nowhere
        p.learn("198.51.100.1".parse().expect("an address"));
        p.learn("169.254.169.254".parse().expect("an address"));
        assert_eq!(verdict(&p, "198.51.100.1:443"), Outside);
        assert_eq!(verdict(&p, "[::ffff:198.51.100.1]:443"), Outside);
        assert_eq!(verdict(&p, "169.254.169.254:80"), Refused("a link-local address"));
    }
}
