//! Addresses that nothing is connected to for a worker, whatever name led there: where clouds hand out their credentials, and what is
//! no host at all. Loopback is none of them: a kubeconfig may name it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network and what it is.
type Row<A> = (A, u32, &'static str);

const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "a cloud's metadata service";
const UNSPECIFIED: &str = "no address of a host";
const MULTICAST: &str = "a multicast address";
const BROADCAST: &str = "the broadcast address";

const V4: &[Row<Ipv4Addr>] = &[
    (Ipv4Addr::new(169, 254, 0, 0), 16, LINK_LOCAL),
    (Ipv4Addr::new(168, 63, 129, 16), 32, METADATA),
    (Ipv4Addr::new(0, 0, 0, 0), 8, UNSPECIFIED),
    (Ipv4Addr::new(224, 0, 0, 0), 4, MULTICAST),
    (Ipv4Addr::new(255, 255, 255, 255), 32, BROADCAST),
];

const V6: &[Row<Ipv6Addr>] = &[
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, LINK_LOCAL),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, METADATA),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23), 128, METADATA),
    (Ipv6Addr::UNSPECIFIED, 128, UNSPECIFIED),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, MULTICAST),
];

/// Why nothing is connected to that address; `None`: it may be.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => {
            let within = |(network, bits, _): &&Row<Ipv6Addr>| {
                let mask = u128::MAX << (128 - bits);
                address.to_bits() & mask == network.to_bits() & mask
            };
            let itself = V6.iter().find(within).map(|(_, _, reason)| *reason);
            itself.or_else(|| embedded(address).into_iter().find_map(forbidden_v4))
        }
    }
}

/// Whether a cloud hands out the credentials of this machine's own role there, by an address that no other spelling stands for. Azure's wire
/// server is none of them: it has more than that.
pub fn is_metadata(address: IpAddr) -> bool {
    const V4: [Ipv4Addr; 3] =
        [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(169, 254, 170, 2), Ipv4Addr::new(169, 254, 170, 23)];
    const V6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];
    match address {
        IpAddr::V4(address) => V4.contains(&address),
        IpAddr::V6(address) => V6.contains(&address),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    let within = |(network, bits, _): &&Row<Ipv4Addr>| {
        let mask = u32::MAX << (32 - bits);
        address.to_bits() & mask == network.to_bits() & mask
    };
    V4.iter().find(within).map(|(_, _, reason)| *reason)
}

/// The IPv4 addresses that this one stands for, or is a way to.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        // loopback, which reads as the IPv4-compatible 0.0.0.1
        [0, 0, 0, 0, 0, 0, 0, 1] => Vec::new(),
        // IPv4-compatible, IPv4-mapped, IPv4-translated
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => vec![v4(high, low)],
        // NAT64 of everybody
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![v4(high, low)],
        // NAT64 of a site, as its prefix is written out whole …
        [0x64, 0xff9b, 1, 0, 0, 0, high, low] => vec![v4(high, low)],
        // … or of any length from 48 to 96 bits (RFC 6052; byte 8 is left out). Only one of the readings is meant, so nothing of 0.0.0.0/8
        // counts: it is what the gaps of the others read as
        [0x64, 0xff9b, 1, a, b, c, d, e] => {
            let byte = |n: u16| n & 0xff;
            let readings = [
                v4(a, byte(b) << 8 | c >> 8),
                v4(byte(a) << 8 | byte(b), c),
                v4(byte(b) << 8 | c >> 8, byte(c) << 8 | d >> 8),
                v4(d, e),
            ];
            readings.into_iter().filter(|r| r.octets()[0] != 0).collect()
        }
        // 6to4
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo: the server, and the client with its bits turned over
        [0x2001, 0, server_high, server_low, _, _, high, low] => vec![v4(server_high, server_low), v4(!high, !low)],
        // ISATAP, under any prefix
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => vec![v4(high, low)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (address, reason) in [
            // IPv4, both sides of each network
            ("169.253.255.255", None),
            ("169.254.0.0", Some(LINK_LOCAL)),
            ("169.254.169.254", Some(LINK_LOCAL)),
            ("169.254.170.2", Some(LINK_LOCAL)),
            ("169.254.255.255", Some(LINK_LOCAL)),
            ("169.255.0.0", None),
            ("168.63.129.15", None),
            ("168.63.129.16", Some(METADATA)),
            ("168.63.129.17", None),
            ("0.0.0.0", Some(UNSPECIFIED)),
            ("0.255.255.255", Some(UNSPECIFIED)),
            ("1.0.0.0", None),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(MULTICAST)),
            ("239.255.255.255", Some(MULTICAST)),
            ("240.0.0.1", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some(BROADCAST)),
            ("127.0.0.1", None),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("100.100.100.1", None),
            ("8.8.8.8", None),
            // IPv6
            ("::", Some(UNSPECIFIED)),
            ("::1", None),
            ("fe7f:ffff::1", None),
            ("fe80::1", Some(LINK_LOCAL)),
            ("febf::1", Some(LINK_LOCAL)),
            ("fec0::1", None),
            ("fd00:ec2::253", None),
            ("fd00:ec2::254", Some(METADATA)),
            ("fd00:ec2::23", Some(METADATA)),
            ("fd00:ec2::1:254", None),
            ("ff02::1", Some(MULTICAST)),
            ("2600::1", None),
            ("fd12:3456::1", None),
            // mapped, compatible, translated
            ("::ffff:169.254.169.254", Some(LINK_LOCAL)),
            ("::ffff:a9fe:a9fe", Some(LINK_LOCAL)),
            ("::ffff:168.63.129.16", Some(METADATA)),
            ("::ffff:0.0.0.0", Some(UNSPECIFIED)),
            ("::ffff:255.255.255.255", Some(BROADCAST)),
            ("::ffff:127.0.0.1", None),
            ("::ffff:10.0.0.1", None),
            ("::169.254.169.254", Some(LINK_LOCAL)),
            ("::2", Some(UNSPECIFIED)),
            ("::10.0.0.1", None),
            ("::ffff:0:169.254.169.254", Some(LINK_LOCAL)),
            ("::ffff:0:10.0.0.1", None),
            // NAT64
            ("64:ff9b::169.254.169.254", Some(LINK_LOCAL)),
            ("64:ff9b::224.0.0.1", Some(MULTICAST)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::169.254.169.254", Some(LINK_LOCAL)),
            ("64:ff9b:1::168.63.129.16", Some(METADATA)),
            ("64:ff9b:1::10.0.0.1", None),
            ("64:ff9b:1:a9fe:a9:fe00::", Some(LINK_LOCAL)),
            ("64:ff9b:1:a9:fe:a9fe::", Some(LINK_LOCAL)),
            ("64:ff9b:1:0:a9:fea9:fe00:0", Some(LINK_LOCAL)),
            ("64:ff9b:1:a00:0:100::", None),
            ("64:ff9b:1:7:0:0:10.0.0.1", None),
            // 6to4, Teredo, ISATAP
            ("2002:a9fe:a9fe::1", Some(LINK_LOCAL)),
            ("2002:808:808::1", None),
            ("2001:0:a9fe:a9fe:0:0:f7f7:f7f7", Some(LINK_LOCAL)),
            ("2001:0:808:808:0:0:5601:5601", Some(LINK_LOCAL)),
            ("2001:0:808:808:0:0:f7f7:f7f7", None),
            ("2600::5efe:169.254.169.254", Some(LINK_LOCAL)),
            ("fd00::200:5efe:169.254.169.254", Some(LINK_LOCAL)),
            ("2600::5efe:10.0.0.1", None),
        ] {
            assert_eq!(forbidden(address.parse().expect(address)), reason, "{address}");
        }
    }
}
