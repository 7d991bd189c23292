//! The network interfaces of this machine and what is special about their addresses.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// Name of the interface.
    pub(crate) name: String,
    /// The address.
    pub(crate) ip: IpAddr,
    /// Length of the network's prefix.
    pub(crate) prefix: u8,
    /// `up`, `loopback`, `broadcast`, `multicast`, `point-to-point` of the interface.
    pub(crate) flags: Vec<&'static str>,
    /// Whether the interface holds the default route.
    pub(crate) default_route: bool,
}

/// All addresses of all interfaces, in the system's order.
pub(crate) fn system() -> io::Result<Vec<InterfaceAddress>> {
    const FLAGS: &[(InterfaceFlags, &str)] = &[
        (InterfaceFlags::IFF_UP, "up"),
        (InterfaceFlags::IFF_LOOPBACK, "loopback"),
        (InterfaceFlags::IFF_BROADCAST, "broadcast"),
        (InterfaceFlags::IFF_MULTICAST, "multicast"),
        (InterfaceFlags::IFF_POINTOPOINT, "point-to-point"),
    ];
    let default = default_interface();
    let mut all = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let mask = interface.netmask;
        let (ip, prefix) = if let Some(v4) = address.as_sockaddr_in() {
            let mask = mask.and_then(|mask| mask.as_sockaddr_in().map(|mask| u32::from(mask.ip())));
            (IpAddr::V4(v4.ip()), mask.map_or(32, u32::count_ones))
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let mask = mask.and_then(|mask| mask.as_sockaddr_in6().map(|mask| u128::from(mask.ip())));
            (IpAddr::V6(v6.ip()), mask.map_or(128, u128::count_ones))
        } else {
            continue;
        };
        let flags = FLAGS.iter().filter(|(flag, _)| interface.flags.contains(*flag)).map(|(_, name)| *name);
        all.push(InterfaceAddress {
            default_route: default.as_deref() == Some(interface.interface_name.as_str()),
            name: interface.interface_name,
            ip,
            prefix: u8::try_from(prefix).unwrap_or(u8::MAX),
            flags: flags.collect(),
        });
    }
    Ok(all)
}

/// The interface with the best default route; `None` where there is none or it cannot be found out.
fn default_interface() -> Option<String> {
    if let Some(name) = fs::read_to_string("/proc/net/route").ok().and_then(|table| best_default_v4(&table)) {
        return Some(name);
    }
    fs::read_to_string("/proc/net/ipv6_route").ok().and_then(|table| best_default_v6(&table))
}

fn best_default_v4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, destination, _, _, _, _, metric, mask, ..] = columns.as_slice() else { return None };
        let is_default = *destination == "00000000" && *mask == "00000000";
        is_default.then(|| (metric.parse::<u32>().unwrap_or(u32::MAX), (*name).to_owned()))
    });
    routes.min().map(|(_, name)| name)
}

fn best_default_v6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, length, _, _, _, metric, _, _, _, name] = columns.as_slice() else { return None };
        let is_default = *length == "00" && destination.bytes().all(|byte| byte == b'0') && *name != "lo";
        is_default.then(|| (u32::from_str_radix(metric, 16).unwrap_or(u32::MAX), (*name).to_owned()))
    });
    routes.min().map(|(_, name)| name)
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    ip: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`. Bits of the host are allowed and do not count.
    pub(crate) fn parse(text: &str) -> Option<Network> {
        let (ip, prefix) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let decimal = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = if decimal { prefix.parse::<u8>().ok()? } else { return None };
        (prefix <= longest).then_some(Network { ip, prefix })
    }

    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
        Network { ip: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(segments: [u16; 3], prefix: u8) -> Network {
        let [a, b, c] = segments;
        Network { ip: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
    }

    /// The first address.
    pub(crate) fn base(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & mask_v4(self.prefix)).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & mask_v6(self.prefix)).into()),
        }
    }

    /// How long its prefix is.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is inside.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (u32::from(own) ^ u32::from(other)) & mask_v4(self.prefix) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (u128::from(own) ^ u128::from(other)) & mask_v6(self.prefix) == 0,
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

/// The mask of an IPv4 prefix.
pub(crate) fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// The mask of an IPv6 prefix.
pub(crate) fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// RFC 6890: addresses for special purposes, which includes all private ones.
const SPECIAL: &[Network] = &[
    Network::v4(0, 0, 0, 0, 8),
    Network::v4(10, 0, 0, 0, 8),
    Network::v4(100, 64, 0, 0, 10),
    Network::v4(127, 0, 0, 0, 8),
    Network::v4(169, 254, 0, 0, 16),
    Network::v4(172, 16, 0, 0, 12),
    Network::v4(192, 0, 0, 0, 24),
    Network::v4(192, 0, 2, 0, 24),
    Network::v4(192, 88, 99, 0, 24),
    Network::v4(192, 168, 0, 0, 16),
    Network::v4(198, 18, 0, 0, 15),
    Network::v4(198, 51, 100, 0, 24),
    Network::v4(203, 0, 113, 0, 24),
    Network::v4(240, 0, 0, 0, 4),
    Network { ip: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    Network { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 128 },
    Network { ip: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), prefix: 96 },
    Network::v6([0x64, 0xff9b, 0], 96),
    Network::v6([0x100, 0, 0], 64),
    Network::v6([0x2001, 0, 0], 23),
    Network::v6([0x2001, 0xdb8, 0], 32),
    Network::v6([0x2002, 0, 0], 16),
    Network::v6([0xfc00, 0, 0], 7),
    Network::v6([0xfe80, 0, 0], 10),
];

/// Addresses that no router forwards.
const NOT_FORWARDED: &[Network] = &[
    Network::v4(0, 0, 0, 0, 8),
    Network::v4(127, 0, 0, 0, 8),
    Network::v4(169, 254, 0, 0, 16),
    Network::v4(192, 0, 0, 0, 24),
    Network::v4(192, 0, 2, 0, 24),
    Network::v4(198, 51, 100, 0, 24),
    Network::v4(203, 0, 113, 0, 24),
    Network::v4(224, 0, 0, 0, 4),
    Network::v4(240, 0, 0, 0, 4),
    Network { ip: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    Network { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 128 },
    Network { ip: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), prefix: 96 },
    Network::v6([0x2001, 0xdb8, 0], 32),
    Network::v6([0xfe80, 0, 0], 10),
    Network::v6([0xff00, 0, 0], 8),
];

/// Whether an address is inside the networks of an RFC; `None` for an RFC nobody here knows.
pub(crate) fn in_rfc(ip: IpAddr, rfc: u32) -> Option<bool> {
    let networks: &[Network] = match rfc {
        1122 => &[Network::v4(0, 0, 0, 0, 8), Network::v4(127, 0, 0, 0, 8)],
        1918 => &[Network::v4(10, 0, 0, 0, 8), Network::v4(172, 16, 0, 0, 12), Network::v4(192, 168, 0, 0, 16)],
        3927 => &[Network::v4(169, 254, 0, 0, 16)],
        4193 => &[Network::v6([0xfc00, 0, 0], 7)],
        4291 => &[
            Network { ip: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
            Network { ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 128 },
            Network::v6([0xfe80, 0, 0], 10),
            Network::v6([0xff00, 0, 0], 8),
        ],
        5735 => &[
            Network::v4(0, 0, 0, 0, 8),
            Network::v4(10, 0, 0, 0, 8),
            Network::v4(127, 0, 0, 0, 8),
            Network::v4(169, 254, 0, 0, 16),
            Network::v4(172, 16, 0, 0, 12),
            Network::v4(192, 0, 0, 0, 24),
            Network::v4(192, 0, 2, 0, 24),
            Network::v4(192, 88, 99, 0, 24),
            Network::v4(192, 168, 0, 0, 16),
            Network::v4(198, 18, 0, 0, 15),
            Network::v4(198, 51, 100, 0, 24),
            Network::v4(203, 0, 113, 0, 24),
            Network::v4(224, 0, 0, 0, 4),
            Network::v4(240, 0, 0, 0, 4),
        ],
        5737 => &[Network::v4(192, 0, 2, 0, 24), Network::v4(198, 51, 100, 0, 24), Network::v4(203, 0, 113, 0, 24)],
        6598 => &[Network::v4(100, 64, 0, 0, 10)],
        6890 => SPECIAL,
        _ => return None,
    };
    Some(networks.iter().any(|network| network.contains(ip)))
}

impl InterfaceAddress {
    /// Its network.
    pub(crate) fn network(&self) -> Network {
        Network { ip: self.ip, prefix: self.prefix }
    }

    /// Whether the address is private (RFC 6890).
    pub(crate) fn is_private(&self) -> bool {
        in_rfc(self.ip, 6890) == Some(true)
    }

    /// Whether routers forward it.
    pub(crate) fn is_forwardable(&self) -> bool {
        !NOT_FORWARDED.iter().any(|network| network.contains(self.ip))
    }

    /// Whether it has a flag, of the interface or of the address.
    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        match flag {
            "forwardable" => self.is_forwardable(),
            "loopback" => self.ip.is_loopback() || self.flags.contains(&"loopback"),
            "multicast" => self.flags.contains(&"multicast"),
            "link-local unicast" | "link_local" => match self.ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            },
            "global unicast" => {
                let link_local = self.has_flag("link-local unicast");
                !self.ip.is_unspecified() && !self.ip.is_loopback() && !self.ip.is_multicast() && !link_local
            }
            "unspecified" => self.ip.is_unspecified(),
            other => self.flags.contains(&other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let all = system().unwrap();
        let loopback = all.iter().find(|address| address.ip == IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        assert!(loopback.has_flag("loopback") && loopback.has_flag("up") && !loopback.is_forwardable());
        assert_eq!(loopback.prefix, 8);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     eth1\t00000000\t0100000A\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth2\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(best_default_v4(table).as_deref(), Some("eth0"));
        assert_eq!(best_default_v4("Iface\n"), None);
        let zero = "0".repeat(32);
        let table = format!("{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0\n");
        assert_eq!(best_default_v6(&table).as_deref(), Some("eth0"));
    }

    #[test]
    fn networks_contain_their_addresses() {
        let network = Network::parse("10.1.2.3/8").unwrap();
        assert!(network.contains("10.255.0.1".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
        assert_eq!(network.base(), "10.0.0.0".parse::<IpAddr>().unwrap());
        for bad in ["1.2.3.4", "1.2.3.4/33", "x/8", "::/129", "1.2.3.4/", "1.2.3.4/+8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
        assert!(Network::parse("::/0").unwrap().contains("fe80::1".parse().unwrap()));
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("1.1.1.1".parse().unwrap()));
    }
}
