//! Names of addresses: PTR answers from the catalog.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use lictor_state::Reader;
use lictor_state::reader::{Filter, Side};

use crate::answer::{Outcome, Reply};
use crate::config::Settings;
use crate::record::{self, Data, Host, Record};

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
    let nodes = reader.nodes(&Filter::default()).value;
    nodes
        .iter()
        .filter(|row| Host::read(&row.node.address) == Host::Ip(ip))
        .find_map(|row| record::below(row.node.name.as_str(), &settings.node_suffix))
}

fn service_at(settings: &Settings, reader: &Reader, ip: IpAddr) -> Option<Name> {
    let services = reader.services(&Filter::default()).value;
    services
        .keys()
        .filter(|name| {
            let instances = reader.instances(name, Side::Ordinary, &Filter::default()).value;
            instances.iter().any(|instance| Host::read(&instance.service.service.address) == Host::Ip(ip))
        })
        .find_map(|name| record::below(name, &settings.service_suffix))
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
