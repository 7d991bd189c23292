//! Writing a message: header, question, records and EDNS, with names compressed (RFC 1035 section 4.1.4).
//!
//! hickory-proto reads what comes in; what goes out is written here. Its encoder stops compressing after 120 names,
//! and an answer over TCP has thousands, and it allocates for every label, which is most of the cost of a small answer.

use std::net::IpAddr;

use hickory_proto::op::{Metadata, Query};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::opt::ClientSubnet;

use crate::few::Few;
use crate::record::{Data, Record};

/// The highest place that a compression pointer can point to.
const MAX_POINTER: u16 = 0x3fff;
const CLASS_IN: u16 = 1;
const TYPE_OPT: u16 = 41;
const OPTION_SUBNET: u16 = 8;

/// Whether names may refer to earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    On,
    Off,
}

/// What the OPT record of an answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    /// The size the client named.
    pub(crate) size: u16,
    /// The client's network, with the scope of the answer.
    pub(crate) subnet: Option<ClientSubnet>,
}

/// All of a message but for its limits.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) metadata: Metadata,
    pub(crate) query: Option<&'a Query>,
    pub(crate) answers: &'a [Record],
    pub(crate) authorities: &'a [Record],
    pub(crate) additionals: &'a [Record],
    pub(crate) opt: Option<Opt>,
}

/// The message is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Writes a message of at most `limit` bytes; what is in `out` after a failure is of no use.
pub(crate) fn write(
    content: &Content<'_>,
    limit: usize,
    compression: Compression,
    out: &mut Vec<u8>,
) -> Result<(), TooLarge> {
    out.clear();
    let mut writer = Writer { out, limit, compression, names: Few::new() };
    writer.header(content)?;
    if let Some(query) = content.query {
        writer.name(&query.name, compression);
        writer.u16(query.query_type.into());
        writer.u16(query.query_class.into());
    }
    for record in [content.answers, content.authorities, content.additionals].into_iter().flatten() {
        writer.record(record)?;
    }
    if let Some(opt) = content.opt {
        writer.opt(content.metadata.response_code.high(), opt);
    }
    writer.fits()
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    compression: Compression,
    /// Where the tails of names written so far begin, by a hash of the tail. A collision costs a compression, since
    /// what is found is compared.
    names: Few<u64, u16>,
}

impl Writer<'_> {
    fn header(&mut self, content: &Content<'_>) -> Result<(), TooLarge> {
        let Metadata { id, op_code, response_code, .. } = content.metadata;
        let bit = |set: bool, at: u16| u16::from(set) << at;
        let flags = bit(true, 15)
            | u16::from(u8::from(op_code)) << 11
            | bit(content.metadata.authoritative, 10)
            | bit(content.metadata.truncation, 9)
            | bit(content.metadata.recursion_desired, 8)
            | bit(content.metadata.recursion_available, 7)
            | bit(content.metadata.checking_disabled, 4)
            | u16::from(response_code.low());
        self.u16(id);
        self.u16(flags);
        self.u16(u16::from(content.query.is_some()));
        for count in [
            content.answers.len(),
            content.authorities.len(),
            content.additionals.len() + usize::from(content.opt.is_some()),
        ] {
            self.u16(u16::try_from(count).map_err(|_| TooLarge)?);
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<(), TooLarge> {
        self.name(&record.owner, self.compression);
        self.u16(record.data.kind().into());
        self.u16(CLASS_IN);
        self.u32(record.ttl);
        let length_at = self.out.len();
        self.u16(0);
        match &record.data {
            Data::A(ip) => self.out.extend(ip.octets()),
            Data::Aaaa(ip) => self.out.extend(ip.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name, self.compression),
            Data::Soa(soa) => {
                self.name(&soa.server, self.compression);
                self.name(&soa.mailbox, self.compression);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.min_ttl] {
                    self.u32(number);
                }
            }
            Data::Srv { weight, port, target } => {
                self.u16(1);
                self.u16(*weight);
                self.u16(*port);
                // RFC 2782: the target is not compressed.
                self.name(target, Compression::Off);
            }
            Data::Txt(strings) => {
                for string in strings {
                    let string = &string[..string.len().min(usize::from(u8::MAX))];
                    self.out.push(string.len().try_into().unwrap_or(u8::MAX));
                    self.out.extend(string);
                }
            }
        }
        let length = u16::try_from(self.out.len() - length_at - 2).map_err(|_| TooLarge)?;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.fits()
    }

    fn opt(&mut self, code_high: u8, opt: Opt) {
        self.out.push(0);
        self.u16(TYPE_OPT);
        self.u16(opt.size);
        self.u32(u32::from(code_high) << 24);
        let Some(subnet) = opt.subnet else { return self.u16(0) };
        let (family, octets) = match subnet.addr() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (2, ip.octets().to_vec()),
        };
        let used = subnet.source_prefix().div_ceil(8);
        let Some(octets) = octets.get(..usize::from(used)) else { return self.u16(0) };
        let length = 4 + u16::from(used);
        self.u16(4 + length);
        self.u16(OPTION_SUBNET);
        self.u16(length);
        self.u16(family);
        self.out.extend([subnet.source_prefix(), subnet.scope_prefix()]);
        self.out.extend(octets);
    }

    /// Writes a name, up to the first tail that was written before. Comparison is by bytes: the question's spelling
    /// must not leak into other names.
    fn name(&mut self, name: &Name, compression: Compression) {
        let spelled = Spelled::new(name);
        for (start, hash) in spelled.tails() {
            let tail = &spelled.bytes[start..spelled.length];
            let place = self.out.len();
            if self.compression == Compression::On {
                match self.names.get(&hash).copied() {
                    Some(earlier) if compression == Compression::On && self.is_at(earlier.into(), tail) => {
                        return self.u16(0xc000 | earlier);
                    }
                    Some(_) => {}
                    None => {
                        if let Some(pointer) = u16::try_from(place).ok().filter(|place| *place <= MAX_POINTER) {
                            self.names.insert(hash, pointer);
                        }
                    }
                }
            }
            let label = tail.first().map_or(0, |length| 1 + usize::from(*length));
            self.out.extend_from_slice(&tail[..label]);
        }
        self.out.push(0);
    }

    /// Whether the name written at `place` is this one (labels with their lengths, without the final zero).
    fn is_at(&self, mut place: usize, mut wanted: &[u8]) -> bool {
        loop {
            match self.out.get(place) {
                None => return false,
                Some(0) => return wanted.is_empty(),
                Some(length) if length & 0xc0 == 0xc0 => {
                    let Some(low) = self.out.get(place + 1) else { return false };
                    // What we write points backwards only, so this ends.
                    place = usize::from(length & 0x3f) << 8 | usize::from(*low);
                }
                Some(length) => {
                    let end = 1 + usize::from(*length);
                    match (self.out.get(place..place + end), wanted.split_at_checked(end)) {
                        (Some(written), Some((label, rest))) if written == label => {
                            wanted = rest;
                            place += end;
                        }
                        _ => return false,
                    }
                }
            }
        }
    }

    fn u16(&mut self, value: u16) {
        self.out.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend(value.to_be_bytes());
    }

    fn fits(&self) -> Result<(), TooLarge> {
        if self.out.len() <= self.limit { Ok(()) } else { Err(TooLarge) }
    }
}

/// Most labels that a name can have.
const MOST_LABELS: usize = Name::MAX_LENGTH / 2 + 1;

/// A name as it goes onto the wire, without the final zero.
struct Spelled {
    bytes: [u8; Name::MAX_LENGTH],
    length: usize,
    /// Where labels start.
    starts: [u8; MOST_LABELS],
    labels: usize,
}

impl Spelled {
    fn new(name: &Name) -> Spelled {
        let mut spelled = Spelled { bytes: [0; Name::MAX_LENGTH], length: 0, starts: [0; MOST_LABELS], labels: 0 };
        for label in name {
            let (start, end) = (spelled.length, spelled.length + 1 + label.len());
            // A `Name` is never longer than it may be, nor a label of it; were one, the rest would be left out.
            let (Ok(said), Ok(at)) = (u8::try_from(label.len()), u8::try_from(start)) else { break };
            let (Some(place), Some(noted)) =
                (spelled.bytes.get_mut(start..end), spelled.starts.get_mut(spelled.labels))
            else {
                break;
            };
            place[0] = said;
            place[1..].copy_from_slice(label);
            *noted = at;
            spelled.labels += 1;
            spelled.length = end;
        }
        spelled
    }

    /// Where the tails of the name start, the longest first, each with its hash (FNV-1a from the end).
    fn tails(&self) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (mut hashes, mut hash, mut end) = ([0; MOST_LABELS], 0xcbf2_9ce4_8422_2325_u64, self.length);
        for label in (0..self.labels).rev() {
            let start = usize::from(self.starts[label]);
            for byte in self.bytes[start..end].iter().rev() {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            (hashes[label], end) = (hash, start);
        }
        let starts = self.starts;
        (0..self.labels).map(move |label| (usize::from(starts[label]), hashes[label]))
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_proto::rr::RecordType;
    use proptest::prelude::*;

    use super::*;
    use crate::record::Soa;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn content<'a>(query: &'a Query, answers: &'a [Record]) -> Content<'a> {
        let mut metadata = Metadata::new(7, MessageType::Response, OpCode::Query);
        metadata.authoritative = true;
        metadata.response_code = ResponseCode::NXDomain;
        Content { metadata, query: Some(query), answers, authorities: &[], additionals: &[], opt: None }
    }

    fn written(content: &Content<'_>, compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        write(content, 65_535, compression, &mut out).unwrap();
        out
    }

    #[test]
    fn another_decoder_reads_every_kind_of_record() {
        let query = Query::query(name("Db.service.consul."), RecordType::ANY);
        let owner = query.name.clone();
        let of = |data| Record { owner: owner.clone(), ttl: 9, data };
        let soa = Soa {
            server: name("ns.consul."),
            mailbox: name("hostmaster.consul."),
            serial: 5,
            refresh: 1,
            retry: 2,
            expire: 3,
            min_ttl: 4,
        };
        let answers = [
            of(Data::A([10, 0, 0, 1].into())),
            of(Data::Aaaa("2001:db8::6".parse().unwrap())),
            of(Data::Cname(name("other.service.consul."))),
            of(Data::Ns(name("n1.node.dc1.consul."))),
            of(Data::Ptr(name("."))),
            of(Data::Soa(Box::new(soa))),
            of(Data::Srv { weight: 3, port: 80, target: name("n1.node.dc1.consul.") }),
            of(Data::Txt(vec![b"a=b".to_vec(), Vec::new()])),
        ];
        for compression in [Compression::On, Compression::Off] {
            let message = Message::from_vec(&written(&content(&query, &answers), compression)).unwrap();
            assert_eq!(message.metadata, content(&query, &[]).metadata);
            assert_eq!(message.queries, std::slice::from_ref(&query));
            let shown: Vec<String> = message.answers.iter().map(ToString::to_string).collect();
            let line = |rest: &str| format!("Db.service.consul. 9 IN {rest}");
            assert_eq!(
                shown,
                [
                    line("A 10.0.0.1"),
                    line("AAAA 2001:db8::6"),
                    line("CNAME other.service.consul."),
                    line("NS n1.node.dc1.consul."),
                    line("PTR ."),
                    line("SOA ns.consul. hostmaster.consul. 5 1 2 3 4"),
                    line("SRV 1 3 80 n1.node.dc1.consul."),
                    line("TXT a=b"),
                ]
            );
        }
    }

    #[test]
    fn repeated_owners_cost_two_bytes_however_many_there_are() {
        let query = Query::query(name("db.service.consul."), RecordType::A);
        let record = Record { owner: query.name.clone(), ttl: 0, data: Data::A([10, 0, 0, 1].into()) };
        let answers = vec![record; 1900];
        assert_eq!(written(&content(&query, &answers), Compression::On).len(), 12 + 23 + 1900 * 16);
        assert_eq!(written(&content(&query, &answers), Compression::Off).len(), 12 + 23 + 1900 * 33);
    }

    #[test]
    fn srv_targets_are_written_in_full_but_can_be_referred_to() {
        let query = Query::query(name("db.service.consul."), RecordType::SRV);
        let target = name("n1.node.dc1.consul.");
        let srv = Record {
            owner: query.name.clone(),
            ttl: 0,
            data: Data::Srv { weight: 1, port: 80, target: target.clone() },
        };
        let address = Record { owner: target, ttl: 0, data: Data::A([10, 0, 0, 1].into()) };
        let records = [srv, address];
        let bytes = written(&content(&query, &records), Compression::On);
        assert_eq!(bytes.len(), 12 + 23 + (2 + 10 + 6 + 20) + 16);
        assert_eq!(Message::from_vec(&bytes).unwrap().answers[1].name.to_ascii(), "n1.node.dc1.consul.");
    }

    #[test]
    fn edns_says_the_size_and_the_network() {
        let query = Query::query(name("consul."), RecordType::A);
        for (ip, prefix) in [("198.51.100.0", 24), ("2001:db8::", 33), ("0.0.0.0", 0)] {
            let subnet = ClientSubnet::new(ip.parse().unwrap(), prefix, prefix);
            let mut content = content(&query, &[]);
            content.metadata.response_code = ResponseCode::BADVERS;
            content.opt = Some(Opt { size: 4096, subnet: Some(subnet) });
            let message = Message::from_vec(&written(&content, Compression::On)).unwrap();
            assert_eq!(u16::from(message.metadata.response_code), u16::from(ResponseCode::BADVERS));
            let edns = message.edns.unwrap();
            assert_eq!(edns.max_payload(), 4096);
            let option = hickory_proto::rr::rdata::opt::EdnsOption::Subnet(subnet);
            assert_eq!(edns.options().options, [((&option).into(), option)]);
        }
    }

    fn any_name() -> impl Strategy<Value = Name> {
        let label = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'B'), any::<u8>()], 1..4);
        proptest::collection::vec(label, 0..5).prop_map(|labels| Name::from_labels(labels).unwrap())
    }

    proptest! {
        #[test]
        fn compressed_names_are_read_as_they_were_meant(names in proptest::collection::vec(any_name(), 1..40)) {
            let query = Query::query(names[0].clone(), RecordType::ANY);
            let answers: Vec<Record> = names
                .iter()
                .map(|name| Record { owner: name.clone(), ttl: 0, data: Data::Cname(name.clone()) })
                .collect();
            let message = Message::from_vec(&written(&content(&query, &answers), Compression::On)).unwrap();
            for (record, name) in message.answers.iter().zip(&names) {
                prop_assert!(record.name.eq_case(name));
                prop_assert_eq!(&record.data.to_string(), &name.to_string());
            }
            prop_assert_eq!(message.answers.len(), names.len());
        }

        #[test]
        fn nothing_is_larger_than_the_limit(count in 0_usize..30, limit in 0_usize..600) {
            let query = Query::query(name("db.service.consul."), RecordType::A);
            let record = Record { owner: query.name.clone(), ttl: 0, data: Data::A([10, 0, 0, 1].into()) };
            let answers = vec![record; count];
            let mut out = Vec::new();
            let outcome = write(&content(&query, &answers), limit, Compression::On, &mut out);
            prop_assert_eq!(outcome.is_ok(), 12 + 23 + count * 16 <= limit);
            prop_assert!(outcome.is_err() || out.len() <= limit);
        }
    }
}
