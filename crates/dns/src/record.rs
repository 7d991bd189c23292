//! Resource records, and how nodes and addresses become some. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{Name, RData, RecordType};
use lictor_model::meta::Meta;

/// A TXT record is made of strings of at most so many bytes (RFC 1035 section 3.3).
const MAX_STRING: usize = 255;

/// A resource record; all are of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: Name,
    /// In seconds.
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

/// What a record says. These are all kinds this server ever gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ns(Name),
    Ptr(Name),
    Soa(Box<Soa>),
    /// The priority is always 1.
    Srv {
        weight: u16,
        port: u16,
        target: Name,
    },
    Txt(Vec<Vec<u8>>),
}

/// The data of an SOA record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Soa {
    pub(crate) server: Name,
    pub(crate) mailbox: Name,
    pub(crate) serial: u32,
    pub(crate) refresh: u32,
    pub(crate) retry: u32,
    pub(crate) expire: u32,
    pub(crate) min_ttl: u32,
}

impl Data {
    pub(crate) fn kind(&self) -> RecordType {
        match self {
            Data::A(_) => RecordType::A,
            Data::Aaaa(_) => RecordType::AAAA,
            Data::Cname(_) => RecordType::CNAME,
            Data::Ns(_) => RecordType::NS,
            Data::Ptr(_) => RecordType::PTR,
            Data::Soa(_) => RecordType::SOA,
            Data::Srv { .. } => RecordType::SRV,
            Data::Txt(_) => RecordType::TXT,
        }
    }
}

impl Record {
    /// A record of a recursor's answer, if it is of a kind that is passed on behind an alias.
    pub(crate) fn behind_alias(record: hickory_proto::rr::Record) -> Option<Record> {
        let data = match record.data {
            RData::A(ip) => Data::A(ip.0),
            RData::AAAA(ip) => Data::Aaaa(ip.0),
            RData::CNAME(target) => Data::Cname(target.0),
            RData::TXT(text) => Data::Txt(text.txt_data.into_iter().map(Vec::from).collect()),
            _ => return None,
        };
        Some(Record { owner: record.name, ttl: record.ttl, data })
    }
}

/// What an address of the catalog is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Name(Name),
    /// Neither.
    Unusable,
}

impl Host {
    /// Reads an address of the catalog. An IPv4 address written as IPv6 counts as IPv4.
    pub(crate) fn read(address: &str) -> Host {
        if let Ok(ip) = address.parse::<IpAddr>() {
            return Host::Ip(ip.to_canonical());
        }
        match Name::from_ascii(address) {
            Ok(mut name) if name.num_labels() > 0 => {
                name.set_fqdn(true);
                Host::Name(name)
            }
            _ => Host::Unusable,
        }
    }
}

/// The A or AAAA record of an address, if that is what is asked for.
pub(crate) fn address(owner: &Name, ttl: u32, ip: IpAddr, asked: RecordType) -> Option<Record> {
    let data = match ip {
        IpAddr::V4(ip) if matches!(asked, RecordType::A | RecordType::ANY) => Data::A(ip),
        IpAddr::V6(ip) if matches!(asked, RecordType::AAAA | RecordType::ANY) => Data::Aaaa(ip),
        _ => return None,
    };
    Some(Record { owner: owner.clone(), ttl, data })
}

/// A CNAME record.
pub(crate) fn alias(owner: &Name, ttl: u32, target: &Name) -> Record {
    Record { owner: owner.clone(), ttl, data: Data::Cname(target.clone()) }
}

/// One TXT record for each pair of a node's metadata.
pub(crate) fn metadata<'a>(owner: &'a Name, ttl: u32, meta: Option<&'a Meta>) -> impl Iterator<Item = Record> + 'a {
    meta.into_iter().flatten().map(move |(key, value)| {
        let text = pair(key, value);
        let strings = match text.is_empty() {
            true => vec![Vec::new()],
            false => text.as_bytes().chunks(MAX_STRING).map(<[u8]>::to_vec).collect(),
        };
        Record { owner: owner.clone(), ttl, data: Data::Txt(strings) }
    })
}

/// A pair in the form of RFC 1464, or the value alone if the key says that it is meant so.
fn pair(key: &str, value: &str) -> String {
    if key.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("rfc1035-")) {
        return value.to_owned();
    }
    let mut text = String::with_capacity(key.len() + value.len() + 1);
    let start = key.len() - key.trim_start_matches(' ').len();
    let end = key.trim_end_matches(' ').len();
    for (at, c) in key.char_indices() {
        if matches!(c, '`' | '=') || (c == ' ' && (at < start || at >= end)) {
            text.push('`');
        }
        text.push(c);
    }
    text.push('=');
    text.push_str(&value.replace('`', "``"));
    text
}

/// The name of a node (or any dotted text) below a suffix; `None` when it cannot be written.
pub(crate) fn below(text: &str, suffix: &Name) -> Option<Name> {
    let mut name = Name::new();
    for label in text.split('.') {
        name = name.append_label(label.as_bytes()).ok()?;
    }
    name.append_domain(suffix).ok()
}

/// The name that spells an address, 8 digits for IPv4 and 32 for IPv6.
pub(crate) fn spelled(ip: IpAddr, suffix: &Name) -> Option<Name> {
    let digits = match ip {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    below(&digits, suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_quoted_as_rfc_1464_has_it() {
        assert_eq!(pair("k", "v"), "k=v");
        assert_eq!(pair("a=b", "c=d"), "a`=b=c=d");
        assert_eq!(pair("a`b", "`c"), "a``b=``c");
        assert_eq!(pair("  a b ", " v "), "` ` a b` = v ");
        assert_eq!(pair(" ", ""), "` =");
        assert_eq!(pair("rfc1035-x", "y=`"), "y=`");
        assert_eq!(pair("RFC1035-", ""), "");
    }

    #[test]
    fn long_texts_become_several_strings() {
        let owner = Name::from_ascii("n.node.consul.").unwrap();
        let meta = Meta::from([("rfc1035-a".into(), "x".repeat(600)), ("rfc1035-b".into(), String::new())]);
        let lengths: Vec<Vec<usize>> = metadata(&owner, 0, Some(&meta))
            .map(|record| match record.data {
                Data::Txt(strings) => strings.iter().map(Vec::len).collect(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [vec![255, 255, 90], vec![0]]);
    }

    #[test]
    fn addresses_are_told_from_names() {
        assert_eq!(Host::read("10.0.0.1"), Host::Ip("10.0.0.1".parse().unwrap()));
        assert_eq!(Host::read("::ffff:10.0.0.1"), Host::Ip("10.0.0.1".parse().unwrap()));
        assert_eq!(Host::read("2001:db8::6"), Host::Ip("2001:db8::6".parse().unwrap()));
        let name = Name::from_ascii("db.example.com.").unwrap();
        assert_eq!(Host::read("db.example.com"), Host::Name(name.clone()));
        assert_eq!(Host::read("db.example.com."), Host::Name(name));
        for odd in ["", ".", "a..b", &"x".repeat(64)] {
            assert_eq!(Host::read(odd), Host::Unusable, "{odd:?}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_not_written() {
        let suffix = Name::from_ascii("node.dc1.consul.").unwrap();
        assert_eq!(below("n1", &suffix).unwrap().to_ascii(), "n1.node.dc1.consul.");
        assert_eq!(below("a.b", &suffix).unwrap().num_labels(), 5);
        for odd in ["", "a..b", &"x".repeat(64), &"x.".repeat(130)] {
            assert_eq!(below(odd, &suffix), None, "{odd:?}");
        }
        let ip = "2001:db8::6".parse().unwrap();
        assert!(spelled(ip, &suffix).unwrap().to_ascii().starts_with("20010db8000000000000000000000006."));
    }
}
