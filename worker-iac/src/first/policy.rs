//! Where a job may connect to. Addresses decide, never names: what a name leads to is checked where it is connected to.

use runner_sandbox::addresses;
use shared_proto::address::HostPattern;
use shared_proto::v1::JobFirst;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// Addresses that allowed names have led to, at most; beyond it nothing new is learnt.
const LEARNT_MAX: usize = 4096;

/// Names of clouds' metadata services: what they lead to is no secret, and a proxy would look it up.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "metadata", "instance-data.ec2.internal"];

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
    /// HTTP proxies among what is granted.
    proxies: HashSet<SocketAddr>,
    /// Hosts and ports that may be asked of them whatever they are, and that may not.
    granted_names: HashSet<(String, u16)>,
    refused_names: HashSet<(String, u16)>,
}

// === impl Policy ===

impl Policy {
    /// As the supervisor says; what is no address or host is left out.
    pub(super) fn new(first: &JobFirst, own_loopback: bool) -> Self {
        let addresses =
            |texts: &[String]| texts.iter().filter_map(|t| t.parse::<SocketAddr>().ok()).map(canonical).collect();
        let names = |texts: &[String]| texts.iter().filter_map(|t| name_and_port(t)).collect();
        Self {
            proxies: addresses(&first.proxies),
            granted_names: names(&first.granted_names),
            refused_names: names(&first.refused_names),
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

    /// Whether what is sent there is an HTTP proxy's, and read.
    pub(super) fn is_proxy(&self, to: SocketAddr) -> bool {
        self.proxies.contains(&canonical(to))
    }

    /// Whether a proxy may be asked for that host: a name or an address in lower case. What a name leads to is the proxy's to look up, and
    /// is not known here.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn asks(&self, host: &str, port: u16) -> Result<(), &'static str> {
        let named = (host.to_owned(), port);
        if self.granted_names.contains(&named) {
            return Ok(());
        }
        if self.refused_names.contains(&named) {
            return Err("the control plane");
        }
        let Some(literal) = literal(host) else {
            return match host {
                "localhost" => Err("a loopback address"),
                _ if host.ends_with(".localhost") => Err("a loopback address"),
                _ if METADATA_NAMES.contains(&host) => Err("a cloud's metadata service"),
                _ if self.allows_name(host) => Ok(()),
                _ => Err("no host that jobs may reach"),
            };
        };
        let ip = literal?;
        if self.granted.contains(&canonical(SocketAddr::new(ip, port))) {
            return Ok(());
        }
        if ip.to_canonical().is_loopback() {
            return Err("a loopback address");
        }
        if self.refused.contains(&canonical(SocketAddr::new(ip, port))) {
            return Err("the control plane");
        }
        if let Some(reason) = addresses::forbidden(ip) {
            // the machine's own role is asked for directly, if at all: the proxy's is nobody's here
            return Err(reason);
        }
        if self.hosts.is_empty() || self.hosts.iter().any(|host| host.holds(ip.to_canonical())) {
            return Ok(());
        }
        Err("no host that jobs may reach")
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

/// `host:port`, an IPv6 address in brackets, as a request's host and port are read.
fn name_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    // of an address the usual spelling
    let host = host.parse::<IpAddr>().map_or(host, |ip| ip.to_string());
    Some((host, port.parse().ok()?))
}

/// The address that a host is in any spelling that a proxy's libc may read as one; `None`: a name.
fn literal(host: &str) -> Option<Result<IpAddr, &'static str>> {
    if host.contains(':') {
        return Some(host.parse().map_err(|_| "no address of a host"));
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) || part.starts_with("0x");
    if last.is_empty() || !is_number(last) {
        return None;
    }
    // one to four numbers, decimal, octal or hexadecimal; the last one fills what is left (inet_aton)
    let number = |part: &str| match (part.strip_prefix("0x"), part.strip_prefix('0')) {
        (Some(""), _) => Some(0),
        (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => part.parse().ok(),
    };
    let parts: Option<Vec<u32>> = host.split('.').map(number).collect();
    let address = parts.filter(|parts| parts.len() <= 4).and_then(|parts| {
        let (last, leading) = parts.split_last()?;
        let room = u32::MAX.checked_shr(8 * leading.len() as u32)?;
        let high = leading
            .iter()
            .enumerate()
            .try_fold(0, |sum, (n, part)| u8::try_from(*part).ok().map(|byte| sum | u32::from(byte) << (24 - 8 * n)))?;
        (*last <= room).then(|| IpAddr::from((high | last).to_be_bytes()))
    });
    // what is no number of any kind is no name of a host either
    Some(address.ok_or("no address of a host"))
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
    fn what_a_proxy_may_be_asked_for() {
        let first = JobFirst {
            proxies: vec!["10.0.0.9:3128".into()],
            granted: vec!["10.0.0.9:3128".into(), "127.0.0.1:6443".into()],
            granted_names: vec!["127.0.0.1:6443".into(), "api.internal:6443".into(), "[::1]:7".into()],
            refused: vec!["203.0.113.5:443".into()],
            refused_names: vec!["Plane.example.:443".into()],
            metadata: true,
            ..Default::default()
        };
        let p = policy(&first);
        assert!(p.is_proxy("[::ffff:10.0.0.9]:3128".parse().expect("an address")));
        assert!(!p.is_proxy("10.0.0.9:3129".parse().expect("an address")));
        let link_local = Err("a link-local address");
        for (host, port, expected) in [
            ("registry.example", 443, Ok(())),
            ("8.8.8.8", 443, Ok(())),
            ("2600::1", 443, Ok(())),
            ("127.0.0.1", 6443, Ok(())),
            ("::1", 7, Ok(())),
            ("plane.example", 443, Err("the control plane")),
            ("plane.example", 444, Ok(())),
            ("203.0.113.5", 443, Err("the control plane")),
            ("::ffff:203.0.113.5", 443, Err("the control plane")),
            ("3405803781", 443, Err("the control plane")),
            ("127.0.0.1", 22, Err("a loopback address")),
            ("127.1", 22, Err("a loopback address")),
            ("::1", 22, Err("a loopback address")),
            ("::ffff:127.0.0.1", 22, Err("a loopback address")),
            ("localhost", 22, Err("a loopback address")),
            ("x.localhost", 22, Err("a loopback address")),
            ("metadata.google.internal", 80, Err("a cloud's metadata service")),
            ("168.63.129.16", 80, Err("a cloud's metadata service")),
            ("fd00:ec2::254", 80, Err("a cloud's metadata service")),
            ("169.254.169.254", 80, link_local),
            ("::ffff:169.254.169.254", 80, link_local),
            ("64:ff9b::a9fe:a9fe", 80, link_local),
            ("2852039166", 80, link_local),
            ("0xa9fea9fe", 80, link_local),
            ("0xa9.0xfe.0xa9.0xfe", 80, link_local),
            ("0251.0376.0251.0376", 80, link_local),
            ("169.254.43518", 80, link_local),
            ("169.16689662", 80, link_local),
            ("0", 80, Err("no address of a host")),
            ("0x", 80, Err("no address of a host")),
            ("256.1.1.1", 80, Err("no address of a host")),
            ("1.2.3.256", 80, Err("no address of a host")),
            ("1.2.65536", 80, Err("no address of a host")),
            ("4294967296", 80, Err("no address of a host")),
            ("1.2.3.4.5", 80, Err("no address of a host")),
            ("09.1.1.1", 80, Err("no address of a host")),
            ("a.1", 80, Err("no address of a host")),
            ("1.2.255.255", 80, Ok(())),
            ("1.2.65535", 80, Ok(())),
            ("1.example", 80, Ok(())),
        ] {
            assert_eq!(p.asks(host, port), expected, "{host}:{port}");
        }
        let hosts = ["*.good.example", "192.0.2.0/24", "127.0.0.0/8"].map(str::to_owned).to_vec();
        let p = policy(&JobFirst { hosts, ..first });
        let other = Err("no host that jobs may reach");
        for (host, expected) in [
            ("a.good.example", Ok(())),
            ("good.example", other),
            ("8.8.8.8", other),
            ("192.0.2.7", Ok(())),
            ("3221225991", Ok(())),
            ("::ffff:192.0.2.7", Ok(())),
            // what may be reached directly is another machine's there
            ("127.0.0.2", Err("a loopback address")),
            ("169.254.169.254", link_local),
        ] {
            assert_eq!(p.asks(host, 443), expected, "{host}");
        }
        assert_eq!(p.asks("api.internal", 6443), Ok(()));
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
