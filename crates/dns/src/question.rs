//! What a name means: from the labels of a question to what has to be looked up. Pure.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use lictor_state::reader::Side;

/// Whose name it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A name below our zone, or the zone itself.
    Zone(Target),
    /// A name below `arpa.`, with the address it spells, if it does.
    Reverse(Option<IpAddr>),
    /// Somebody else's.
    Outside,
}

/// What has to be looked up, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The datacenter named, in lower case; absent means here.
    pub(crate) datacenter: Option<String>,
    /// What was named there.
    pub(crate) lookup: Lookup,
}

/// What a name below the zone can stand for. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Instances of a service.
    Service {
        /// The service.
        name: String,
        /// One tag; it may contain dots.
        tag: Option<String>,
        /// The service itself or what takes its mesh traffic.
        side: Side,
    },
    /// A node.
    Node(String),
    /// A prepared query by name or id.
    Query(String),
    /// An address spelled in hexadecimal digits.
    Address(IpAddr),
    /// Hexadecimal digits, but no address: the name exists and has nothing.
    Empty,
    /// No name of ours.
    Nothing,
}

/// Says what a name means to a server of `zone`.
pub(crate) fn read(name: &Name, asked: RecordType, zone: &Name) -> Scope {
    let labels: Vec<&[u8]> = name.iter().collect();
    if let Some(left) = left_of(&labels, zone) {
        return Scope::Zone(target(left, asked));
    }
    match labels.split_last() {
        Some((last, left)) if last.eq_ignore_ascii_case(b"arpa") => Scope::Reverse(spelled_backwards(left)),
        _ => Scope::Outside,
    }
}

fn left_of<'a, 'n>(labels: &'a [&'n [u8]], zone: &Name) -> Option<&'a [&'n [u8]]> {
    let at = labels.len().checked_sub(usize::from(zone.num_labels()))?;
    let (left, right) = labels.split_at(at);
    right.iter().zip(zone.iter()).all(|(label, wanted)| label.eq_ignore_ascii_case(wanted)).then_some(left)
}

fn target(labels: &[&[u8]], asked: RecordType) -> Target {
    match keyword(labels, asked) {
        Some(lookup) => Target { datacenter: None, lookup },
        // A last label that is no keyword is a datacenter; there is only one of them.
        None => match labels.split_last() {
            Some((datacenter, left)) => {
                Target { datacenter: text(&[datacenter]), lookup: keyword(left, asked).unwrap_or(Lookup::Nothing) }
            }
            None => Target { datacenter: None, lookup: Lookup::Nothing },
        },
    }
}

/// Reads the keyword at the end and what stands before it; `None` when the last label is no keyword.
fn keyword(labels: &[&[u8]], asked: RecordType) -> Option<Lookup> {
    let (last, left) = labels.split_last()?;
    if asked == RecordType::SRV && last.starts_with(b"_") {
        return Some(service(labels));
    }
    Some(match last.to_ascii_lowercase().as_slice() {
        b"service" => service(left),
        b"connect" => match left.last().and_then(|name| text(&[name])) {
            Some(name) => Lookup::Service { name, tag: None, side: Side::Connect },
            None => Lookup::Nothing,
        },
        b"node" => text(left).map_or(Lookup::Nothing, Lookup::Node),
        b"query" => text(left).map_or(Lookup::Nothing, Lookup::Query),
        b"addr" => match left {
            [digits] => address(digits),
            _ => Lookup::Nothing,
        },
        _ => return None,
    })
}

fn service(labels: &[&[u8]]) -> Lookup {
    let (name, tag) = match labels {
        [] => return Lookup::Nothing,
        // RFC 2782; `_tcp` says nothing here, since services do not say what they speak.
        [name, tag] if name.starts_with(b"_") && tag.starts_with(b"_") => {
            let tag = &tag[1..];
            (&name[1..], if tag.eq_ignore_ascii_case(b"tcp") { Some(String::new()) } else { text(&[tag]) })
        }
        [name] => (*name, Some(String::new())),
        [tags @ .., name] => (*name, text(tags)),
    };
    match (text(&[name]), tag) {
        (Some(name), Some(tag)) => {
            Lookup::Service { name, tag: (!tag.is_empty()).then_some(tag), side: Side::Ordinary }
        }
        _ => Lookup::Nothing,
    }
}

fn address(digits: &[u8]) -> Lookup {
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Lookup::Nothing;
    }
    let value = std::str::from_utf8(digits).ok().and_then(|digits| u128::from_str_radix(digits, 16).ok());
    match (digits.len(), value) {
        (8, Some(value)) => {
            u32::try_from(value).map_or(Lookup::Empty, |bits| Lookup::Address(IpAddr::from(bits.to_be_bytes())))
        }
        (32, Some(value)) => Lookup::Address(IpAddr::from(value.to_be_bytes())),
        _ => Lookup::Empty,
    }
}

/// Labels as one text in lower case. Dots inside labels are kept, as names of nodes and tags may contain them; what
/// is not UTF-8 cannot be a name of ours.
fn text(labels: &[&[u8]]) -> Option<String> {
    if labels.is_empty() {
        return None;
    }
    let mut bytes = labels.join(&b'.');
    bytes.make_ascii_lowercase();
    String::from_utf8(bytes).ok()
}

/// The address that the labels left of `arpa` spell backwards (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn spelled_backwards(labels: &[&[u8]]) -> Option<IpAddr> {
    let (family, digits) = labels.split_last()?;
    if family.eq_ignore_ascii_case(b"in-addr") {
        let mut octets = [0_u8; 4];
        if digits.len() != octets.len() {
            return None;
        }
        for (octet, label) in octets.iter_mut().rev().zip(digits) {
            *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
        }
        Some(IpAddr::from(octets))
    } else if family.eq_ignore_ascii_case(b"ip6") {
        if digits.len() != 32 {
            return None;
        }
        let mut value = 0_u128;
        for label in digits.iter().rev() {
            let [digit] = label else { return None };
            value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
        }
        Some(IpAddr::from(value.to_be_bytes()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in(zone: &str, name: &str, asked: RecordType) -> Scope {
        read(&Name::from_ascii(name).unwrap(), asked, &Name::from_ascii(zone).unwrap())
    }

    fn lookup(name: &str, asked: RecordType) -> Target {
        match read_in("consul.", name, asked) {
            Scope::Zone(target) => target,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn a(name: &str) -> Lookup {
        lookup(name, RecordType::A).lookup
    }

    fn service_of(name: &str, tag: &str) -> Lookup {
        let tag = (!tag.is_empty()).then(|| tag.to_owned());
        Lookup::Service { name: name.to_owned(), tag, side: Side::Ordinary }
    }

    #[test]
    fn everything_left_of_a_service_is_one_tag() {
        assert_eq!(a("db.service.consul."), service_of("db", ""));
        assert_eq!(a("main.db.service.consul."), service_of("db", "main"));
        assert_eq!(a("v1.2.db.service.consul."), service_of("db", "v1.2"));
        assert_eq!(a("BLUE.WebApp.Service.Consul."), service_of("webapp", "blue"));
        assert_eq!(a("service.consul."), Lookup::Nothing);
    }

    #[test]
    fn a_datacenter_may_stand_before_the_zone_once() {
        let target = lookup("db.service.DC1.consul.", RecordType::A);
        assert_eq!(target, Target { datacenter: Some("dc1".into()), lookup: service_of("db", "") });
        assert_eq!(lookup("x.node.dc9.consul.", RecordType::A).datacenter.as_deref(), Some("dc9"));
        assert_eq!(a("db.service.a.b.consul."), Lookup::Nothing);
        assert_eq!(a("a.b.nosuch.consul."), Lookup::Nothing);
        assert_eq!(a("nosuch.consul."), Lookup::Nothing);
        assert_eq!(a("consul."), Lookup::Nothing);
    }

    #[test]
    fn rfc_2782_names_need_the_keyword_unless_srv_is_asked() {
        assert_eq!(a("_db._tcp.service.consul."), service_of("db", ""));
        assert_eq!(a("_db._TCP.service.consul."), service_of("db", ""));
        assert_eq!(a("_db._udp.service.consul."), service_of("db", "udp"));
        assert_eq!(a("_db._tcp.consul."), Lookup::Nothing);
        let srv = |name| lookup(name, RecordType::SRV);
        assert_eq!(srv("_db._tcp.consul.").lookup, service_of("db", ""));
        assert_eq!(
            srv("_db._main.dc1.consul."),
            Target { datacenter: Some("dc1".into()), lookup: service_of("db", "main") }
        );
        assert_eq!(srv("x._db._tcp.service.consul.").lookup, service_of("_tcp", "x._db"));
    }

    #[test]
    fn labels_left_of_a_connect_service_mean_nothing() {
        let db = Lookup::Service { name: "db".into(), tag: None, side: Side::Connect };
        assert_eq!(a("db.connect.consul."), db);
        assert_eq!(a("foo.bar.DB.Connect.consul."), db);
        assert_eq!(a("connect.consul."), Lookup::Nothing);
    }

    #[test]
    fn nodes_and_queries_may_contain_dots() {
        assert_eq!(a("a.b.node.consul."), Lookup::Node("a.b".into()));
        assert_eq!(a("Q.x.query.dc1.consul."), Lookup::Query("q.x".into()));
        assert_eq!(a("node.consul."), Lookup::Nothing);
        assert_eq!(a("query.consul."), Lookup::Nothing);
    }

    #[test]
    fn addresses_are_eight_or_thirty_two_digits() {
        assert_eq!(a("0a010203.addr.consul."), Lookup::Address("10.1.2.3".parse().unwrap()));
        assert_eq!(a("0A010203.addr.dc1.consul."), Lookup::Address("10.1.2.3".parse().unwrap()));
        let six = a("20010db8000000000000000000000006.addr.consul.");
        assert_eq!(six, Lookup::Address("2001:db8::6".parse().unwrap()));
        assert_eq!(a("0a0102.addr.consul."), Lookup::Empty);
        assert_eq!(a(&format!("{}.addr.consul.", "0".repeat(60))), Lookup::Empty);
        assert_eq!(a("0a01020.addr.consul."), Lookup::Nothing);
        assert_eq!(a("zzzzzzzz.addr.consul."), Lookup::Nothing);
        assert_eq!(address(b"+a010203"), Lookup::Nothing);
        assert_eq!(a("x.0a010203.addr.consul."), Lookup::Nothing);
        assert_eq!(a("addr.consul."), Lookup::Nothing);
    }

    #[test]
    fn reverse_names_spell_addresses_backwards() {
        let of = |name: &str| read_in("consul.", name, RecordType::PTR);
        assert_eq!(of("3.2.1.10.in-addr.arpa."), Scope::Reverse(Some("10.1.2.3".parse().unwrap())));
        let six = format!("6.{}8.b.d.0.1.0.0.2.IP6.ARPA.", "0.".repeat(23));
        assert_eq!(of(&six), Scope::Reverse(Some("2001:db8::6".parse().unwrap())));
        for odd in ["2.1.10.in-addr.arpa.", "256.2.1.10.in-addr.arpa.", "x.arpa.", "arpa.", "1.ip6.arpa."] {
            assert_eq!(of(odd), Scope::Reverse(None), "{odd}");
        }
    }

    #[test]
    fn other_names_are_outside() {
        assert_eq!(read_in("consul.", "example.com.", RecordType::A), Scope::Outside);
        assert_eq!(read_in("consul.", "notconsul.", RecordType::A), Scope::Outside);
        assert_eq!(read_in("mesh.example.", "example.", RecordType::A), Scope::Outside);
        assert_eq!(read_in("consul.", ".", RecordType::A), Scope::Outside);
        let ours = read_in("mesh.example.", "db.service.mesh.example.", RecordType::A);
        assert!(matches!(ours, Scope::Zone(_)));
    }

    #[test]
    fn labels_that_are_no_text_name_nothing() {
        let name = Name::from_labels([&b"\xff\xfe"[..], b"service", b"consul"]).unwrap();
        let zone = Name::from_ascii("consul.").unwrap();
        let Scope::Zone(target) = read(&name, RecordType::A, &zone) else { panic!("outside") };
        assert_eq!(target.lookup, Lookup::Nothing);
    }
}
