//! Names of addresses: PTR answers from the catalog.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use lictor_state::Reader;

use crate::answer::{Outcome, Reply};
use crate::config::Settings;
use crate::record::{self, Data, Record};

/// Answers a question about a name below `arpa.`; `None` when the catalog does not know the address.
pub(crate) fn lookup(
    settings: &Settings,
    reader: &Reader,
    owner: &Name,
    asked: RecordType,
    ip: Option<IpAddr>,
) -> Option<Reply> {
    let ip = ip?.to_canonical();
    let target = node_at(settings, reader, ip).or_else(|| service_at(settings, reader, ip))?;
    let mut reply = Reply::new(Outcome::Answered);
    // Whatever was asked, the name is the answer: resolvers drop what they did not ask for, and `dig -x` variants in
    // scripts rely on it.
    reply.answers.push(Record { owner: owner.clone(), ttl: 0, data: Data::Ptr(target) });
    if asked == RecordType::SOA {
        reply.authorities.push(settings.soa());
    }
    Some(reply)
}

/// When the catalog does not know the address and there is nobody to ask: nobody else can know a private address
/// (RFC 6303), so there is no such name; about others we cannot say anything.
pub(crate) fn unknown(ip: Option<IpAddr>) -> Reply {
    if ip.is_some_and(is_private) { Reply::new(Outcome::NoSuchName) } else { Reply::new(Outcome::NobodyAnswered) }
}

fn node_at(settings: &Settings, reader: &Reader, ip: IpAddr) -> Option<Name> {
    let named = |name: &str| record::below(name, &settings.node_suffix);
    reader.find_node(|node| if is(&node.address, ip) { named(node.name.as_str()) } else { None })
}

fn service_at(settings: &Settings, reader: &Reader, ip: IpAddr) -> Option<Name> {
    let named = |name: &str| record::below(name, &settings.service_suffix);
    reader.find_service(|service| if is(&service.address, ip) { named(service.name.as_str()) } else { None })
}

/// Whether an address of the catalog is this one. An IPv4 address written as IPv6 counts as IPv4.
fn is(address: &str, ip: IpAddr) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == ip)
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback() || ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_know_a_private_address() {
        let outcome = |ip: &str| unknown(Some(ip.parse().unwrap())).outcome;
        for private in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.1.1", "fd00::1", "fe80::1"] {
            assert_eq!(outcome(private), Outcome::NoSuchName, "{private}");
        }
        for public in ["9.9.9.9", "172.32.0.1", "2001:db8::1"] {
            assert_eq!(outcome(public), Outcome::NobodyAnswered, "{public}");
        }
        assert_eq!(unknown(None).outcome, Outcome::NobodyAnswered);
    }
}
