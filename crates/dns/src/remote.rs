//! Looking a question up somewhere else: what a client agent sends to a server, and what it gets.
//!
//! A client agent has no state. It reads packets and writes answers as every agent does, with its own settings and its own
//! recursors; only what a name means is looked up by a server, by these settings. What comes back is what a look-up here
//! would have given, so one code fits it into a message.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

use crate::answer::{Chase, Counted, Outcome, Reply, Section, SubnetScope};
use crate::config::{Config, Settings, Soa};
use crate::record::{Data, Record, Soa as SoaData};
use crate::request::{self, Packet, Request, Transport};
use crate::server::{Backend, look_up};

/// Whoever asks a server.
pub trait Elsewhere: Send + Sync {
    /// Has a question looked up. The error is for the log; the client is told that the server failed.
    fn look_up<'a>(&'a self, asked: &'a Asked) -> Pin<Box<dyn Future<Output = Result<Found, String>> + Send + 'a>>;
}

/// How long a look-up elsewhere may take: clients ask again after some seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// A question, with the settings by which it is looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    packet: Vec<u8>,
    over_tcp: bool,
    from: IpAddr,
    settings: By,
}

/// The settings of a client that say what is found; how that is fitted into a message is its own business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct By {
    domain: String,
    datacenter: String,
    node_ttl: u64,
    service_ttl: Vec<(String, u64)>,
    only_passing: bool,
    a_record_limit: usize,
    udp_answer_limit: usize,
    node_meta_txt: bool,
    soa: [u32; 4],
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// `None` when nobody here knows the name, and recursors may.
    reply: Option<Said>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    outcome: Word,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    answers: Vec<Line>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    authorities: Vec<Line>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    additionals: Vec<Line>,
    limited: bool,
    of_subnet: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chases: Vec<Hunt>,
}

/// Those outcomes that a look-up has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Answered,
    Empty,
    NoSuchName,
    NoSuchDatacenter,
    QueryFailed,
    Transfer,
    NobodyToAsk,
    NobodyAnswered,
    UnknownEdns,
}

/// A name by its labels, which need not be text.
type Labels = Vec<Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    owner: Labels,
    ttl: u32,
    data: Content,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Content {
    Address(IpAddr),
    Cname(Labels),
    Ns(Labels),
    Ptr(Labels),
    Soa { server: Labels, mailbox: Labels, numbers: [u32; 5] },
    Srv { weight: u16, port: u16, target: Labels },
    Txt(Vec<Vec<u8>>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hunt {
    in_answer: bool,
    at: usize,
    target: Labels,
    room: usize,
}

/// What makes no sense of what was asked or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonsense(&'static str);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad {}", self.0)
    }
}

impl std::error::Error for Nonsense {}

impl Asked {
    /// A packet that was read, and the settings of now.
    pub(crate) fn new(packet: &[u8], transport: Transport, from: IpAddr, settings: &Settings) -> Asked {
        let Config {
            domain,
            datacenter,
            node_name: _,
            node_ttl,
            service_ttl,
            only_passing,
            a_record_limit,
            udp_answer_limit,
            enable_truncate: _,
            disable_compression: _,
            enable_additional_node_meta_txt,
            soa: Soa { refresh, retry, expire, min_ttl },
            recursors: _,
            recursor_timeout: _,
        } = &settings.config;
        Asked {
            packet: packet.to_vec(),
            over_tcp: transport == Transport::Tcp,
            from,
            settings: By {
                domain: domain.clone(),
                datacenter: datacenter.clone(),
                node_ttl: node_ttl.as_secs(),
                service_ttl: service_ttl.iter().map(|(name, ttl)| (name.clone(), ttl.as_secs())).collect(),
                only_passing: *only_passing,
                a_record_limit: *a_record_limit,
                udp_answer_limit: *udp_answer_limit,
                node_meta_txt: *enable_additional_node_meta_txt,
                soa: [*refresh, *retry, *expire, *min_ttl],
            },
        }
    }

    /// The packet, to be sent to somebody else.
    pub(crate) fn into_packet(self) -> Vec<u8> {
        self.packet
    }

    fn read(&self) -> Result<(Request, Settings), Nonsense> {
        let transport = if self.over_tcp { Transport::Tcp } else { Transport::Udp };
        let Packet::Question(request) = request::read(&self.packet, transport) else {
            return Err(Nonsense("packet"));
        };
        let By {
            domain,
            datacenter,
            node_ttl,
            service_ttl,
            only_passing,
            a_record_limit,
            udp_answer_limit,
            node_meta_txt,
            soa: [refresh, retry, expire, min_ttl],
        } = self.settings.clone();
        let settings = Settings::new(Config {
            domain,
            datacenter,
            node_ttl: Duration::from_secs(node_ttl),
            service_ttl: service_ttl.into_iter().map(|(name, ttl)| (name, Duration::from_secs(ttl))).collect(),
            only_passing,
            a_record_limit,
            udp_answer_limit,
            enable_additional_node_meta_txt: node_meta_txt,
            soa: Soa { refresh, retry, expire, min_ttl },
            ..Config::default()
        });
        Ok((*request, settings.map_err(|_| Nonsense("settings"))?))
    }
}

/// Looks up for a client what it has asked.
pub fn answer(asked: &Asked, backend: &Backend) -> Result<Found, Nonsense> {
    let (request, settings) = asked.read()?;
    // Whom else the client can ask, it knows.
    let reply = look_up(&request, asked.from, &settings, backend, true);
    Ok(Found { reply: reply.map(|reply| said(&reply)) })
}

impl Found {
    /// The reply, as a look-up here would have given it.
    pub(crate) fn reply(self) -> Result<Option<Reply>, Nonsense> {
        self.reply.map(heard).transpose()
    }
}

fn labels(name: &Name) -> Labels {
    name.iter().map(<[u8]>::to_vec).collect()
}

fn name(labels: Labels) -> Result<Name, Nonsense> {
    let mut name = Name::from_labels(labels).map_err(|_| Nonsense("name"))?;
    name.set_fqdn(true);
    Ok(name)
}

fn said(reply: &Reply) -> Said {
    let Reply { outcome, answers, authorities, additionals, counted, subnet, chases } = reply;
    let lines = |records: &[Record]| records.iter().map(line).collect();
    Said {
        outcome: match outcome {
            Outcome::Answered => Word::Answered,
            Outcome::Empty => Word::Empty,
            Outcome::NoSuchName => Word::NoSuchName,
            Outcome::NoSuchDatacenter => Word::NoSuchDatacenter,
            Outcome::QueryFailed => Word::QueryFailed,
            Outcome::Transfer => Word::Transfer,
            Outcome::NobodyToAsk => Word::NobodyToAsk,
            Outcome::UnknownEdns => Word::UnknownEdns,
            // The rest is about messages, not about names.
            Outcome::NobodyAnswered | Outcome::TooLarge | Outcome::Malformed | Outcome::OtherOperation => {
                Word::NobodyAnswered
            }
        },
        answers: lines(answers),
        authorities: lines(authorities),
        additionals: lines(additionals),
        limited: *counted == Counted::Limited,
        of_subnet: *subnet == SubnetScope::Source,
        chases: chases
            .iter()
            .map(|chase| Hunt {
                in_answer: chase.section == Section::Answer,
                at: chase.at,
                target: labels(&chase.target),
                room: chase.room,
            })
            .collect(),
    }
}

fn line(record: &Record) -> Line {
    let Record { owner, ttl, data } = record;
    Line {
        owner: labels(owner),
        ttl: *ttl,
        data: match data {
            Data::A(ip) => Content::Address((*ip).into()),
            Data::Aaaa(ip) => Content::Address((*ip).into()),
            Data::Cname(target) => Content::Cname(labels(target)),
            Data::Ns(target) => Content::Ns(labels(target)),
            Data::Ptr(target) => Content::Ptr(labels(target)),
            Data::Soa(soa) => Content::Soa {
                server: labels(&soa.server),
                mailbox: labels(&soa.mailbox),
                numbers: [soa.serial, soa.refresh, soa.retry, soa.expire, soa.min_ttl],
            },
            Data::Srv { weight, port, target } => Content::Srv { weight: *weight, port: *port, target: labels(target) },
            Data::Txt(texts) => Content::Txt(texts.clone()),
        },
    }
}

fn heard(said: Said) -> Result<Reply, Nonsense> {
    let Said { outcome, answers, authorities, additionals, limited, of_subnet, chases } = said;
    let records = |lines: Vec<Line>| lines.into_iter().map(record).collect::<Result<Vec<_>, _>>();
    let (answers, authorities, additionals) = (records(answers)?, records(authorities)?, records(additionals)?);
    let chases = chases.into_iter().map(|Hunt { in_answer, at, target, room }| {
        let (section, length) =
            if in_answer { (Section::Answer, answers.len()) } else { (Section::Additional, additionals.len()) };
        if at > length {
            return Err(Nonsense("place of an alias"));
        }
        Ok(Chase { section, at, target: name(target)?, room })
    });
    let chases = chases.collect::<Result<_, _>>()?;
    Ok(Reply {
        outcome: match outcome {
            Word::Answered => Outcome::Answered,
            Word::Empty => Outcome::Empty,
            Word::NoSuchName => Outcome::NoSuchName,
            Word::NoSuchDatacenter => Outcome::NoSuchDatacenter,
            Word::QueryFailed => Outcome::QueryFailed,
            Word::Transfer => Outcome::Transfer,
            Word::NobodyToAsk => Outcome::NobodyToAsk,
            Word::NobodyAnswered => Outcome::NobodyAnswered,
            Word::UnknownEdns => Outcome::UnknownEdns,
        },
        answers,
        authorities,
        additionals,
        counted: if limited { Counted::Limited } else { Counted::All },
        subnet: if of_subnet { SubnetScope::Source } else { SubnetScope::Everyone },
        chases,
    })
}

fn record(line: Line) -> Result<Record, Nonsense> {
    let Line { owner, ttl, data } = line;
    let data = match data {
        Content::Address(IpAddr::V4(ip)) => Data::A(ip),
        Content::Address(IpAddr::V6(ip)) => Data::Aaaa(ip),
        Content::Cname(target) => Data::Cname(name(target)?),
        Content::Ns(target) => Data::Ns(name(target)?),
        Content::Ptr(target) => Data::Ptr(name(target)?),
        Content::Soa { server, mailbox, numbers: [serial, refresh, retry, expire, min_ttl] } => {
            let (server, mailbox) = (name(server)?, name(mailbox)?);
            Data::Soa(Box::new(SoaData { server, mailbox, serial, refresh, retry, expire, min_ttl }))
        }
        Content::Srv { weight, port, target } => Data::Srv { weight, port, target: name(target)? },
        Content::Txt(texts) if texts.iter().all(|text| text.len() <= 255) => Data::Txt(texts),
        Content::Txt(_) => return Err(Nonsense("text")),
    };
    Ok(Record { owner: name(owner)?, ttl, data })
}

/// Whether a question never leaves this agent, because it is about no name of the zone.
pub(crate) fn is_outside(kind: RecordType, asked: &Name, settings: &Settings) -> bool {
    matches!(crate::question::read(asked, kind, &settings.zone), crate::question::Scope::Outside)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use lictor_model::acl::Caller;
    use lictor_model::health::{Check, Status};
    use lictor_model::node::Node;
    use lictor_model::service::{Kind, ProxySpec, Service};
    use lictor_state::State;
    use lictor_state::writer::Registration;
    use lictor_store::Store;
    use lictor_task::Scope;

    use super::*;
    use crate::answer;
    use crate::prepared::NoQueries;

    async fn world(scope: &Scope) -> Backend {
        let config = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
        let (state, writer) = State::open(Store::memory(), config, scope).await.unwrap();
        let meta = Some([("rack".to_owned(), "7".to_owned())].into());
        let node = |name: &str, address: &str| Node {
            name: name.into(),
            address: address.into(),
            meta: meta.clone(),
            ..Node::default()
        };
        let service = |name: &str, port| Service { id: name.into(), name: name.into(), port, ..Service::default() };
        let check = |service: &str| Check {
            node: "weak".into(),
            id: "c".into(),
            service_id: service.into(),
            status: Status::Warning,
            ..Check::default()
        };
        let web = Service { tags: Some(vec!["a".into()]), ..service("web", 80) };
        let proxy = Service {
            kind: Kind::ConnectProxy,
            proxy: Some(ProxySpec { destination_name: "web".into(), ..ProxySpec::default() }),
            ..service("web-proxy", 20000)
        };
        for (node, service, checks) in [
            (node("far", "10.1.2.3"), web, vec![]),
            (node("far", "10.1.2.3"), proxy, vec![]),
            (node("six", "2001:db8::6"), service("six", 81), vec![]),
            (node("named", "host.example.com"), service("named", 82), vec![]),
            (node("weak", "10.1.2.4"), service("weak", 83), vec![check("weak")]),
        ] {
            let registration = Registration { node, service: Some(service), checks, ..Registration::default() };
            writer.register(registration).await.unwrap();
        }
        let reader = move || state.reader(&Caller::acls_disabled());
        Backend { reader: Arc::new(reader), queries: Arc::new(NoQueries) }
    }

    fn packet(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            message.edns = Some(edns);
        }
        message.to_vec().unwrap()
    }

    #[tokio::test]
    async fn what_is_looked_up_elsewhere_is_answered_as_what_is_looked_up_here() {
        let scope = Scope::new("test");
        let backend = world(&scope).await;
        let others = Config {
            only_passing: true,
            node_ttl: Duration::from_secs(5),
            service_ttl: [("*".to_owned(), Duration::from_secs(9))].into(),
            domain: "mesh.example".into(),
            ..Config::default()
        };
        let recursors = Config { recursors: vec![([127, 0, 0, 1], 53).into()], ..Config::default() };
        let from = [10, 0, 0, 1].into();
        let mut answered = 0;
        for config in [Config::default(), others, recursors] {
            let zone = config.domain.clone();
            let settings = Settings::new(config).unwrap();
            for name in [
                "web.service",
                "a.web.service",
                "b.web.service",
                "_web._a.service",
                "web.connect",
                "far.node",
                "six.node",
                "named.service",
                "weak.service",
                "0a010203.addr",
                "web.service.dc9",
                "nothing.query",
                "",
                "x.y.z",
                "ns",
            ] {
                for kind in [
                    RecordType::A,
                    RecordType::AAAA,
                    RecordType::SRV,
                    RecordType::ANY,
                    RecordType::SOA,
                    RecordType::NS,
                    RecordType::TXT,
                    RecordType::AXFR,
                    RecordType::PTR,
                ] {
                    for (transport, edns) in [(Transport::Udp, false), (Transport::Udp, true), (Transport::Tcp, false)]
                    {
                        let whole = if name.is_empty() { zone.clone() } else { format!("{name}.{zone}") };
                        for whole in [whole.as_str(), "3.2.1.10.in-addr.arpa", "9.9.9.9.in-addr.arpa"] {
                            let packet = packet(whole, kind, edns);
                            let Packet::Question(request) = request::read(&packet, transport) else {
                                panic!("{whole}")
                            };
                            let here = look_up(&request, from, &settings, &backend, settings.has_recursors());
                            let asked = Asked::new(&packet, transport, from, &settings);
                            // As it travels.
                            let asked: Asked = serde_json::from_slice(&serde_json::to_vec(&asked).unwrap()).unwrap();
                            let found = answer(&asked, &backend).unwrap();
                            let found: Found = serde_json::from_slice(&serde_json::to_vec(&found).unwrap()).unwrap();
                            let there = found.reply().unwrap();
                            let written = |reply: Option<Reply>| {
                                reply.map(|reply| {
                                    let mut out = Vec::new();
                                    answer::write(&request, &reply, &settings, &mut out);
                                    (out, reply.chases)
                                })
                            };
                            // Without recursors it is the client that knows that nobody can be asked.
                            if let (Some(there), here) = (written(there), written(here)) {
                                answered += 1;
                                assert_eq!(Some(there), here, "{whole} {kind}");
                            }
                        }
                    }
                }
            }
        }
        assert!(answered > 2000, "{answered}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let line = |data| Line { owner: vec![b"a".to_vec()], ttl: 0, data };
        let said = |answers, chases| Said {
            outcome: Word::Answered,
            answers,
            authorities: Vec::new(),
            additionals: Vec::new(),
            limited: false,
            of_subnet: false,
            chases,
        };
        let long = vec![vec![b'x'; 64]];
        for answers in [
            vec![line(Content::Cname(long))],
            vec![line(Content::Txt(vec![vec![0; 256]]))],
            vec![Line { owner: vec![vec![b'x'; 63]; 5], ttl: 0, data: Content::Txt(Vec::new()) }],
        ] {
            assert!(heard(said(answers, Vec::new())).is_err());
        }
        let hunt = |at| Hunt { in_answer: true, at, target: vec![b"a".to_vec()], room: 1 };
        assert!(heard(said(Vec::new(), vec![hunt(1)])).is_err());
        assert!(heard(said(Vec::new(), vec![hunt(0)])).is_ok());
        let settings = Settings::new(Config::default()).unwrap();
        let noise = Asked::new(b"noise", Transport::Udp, [127, 0, 0, 1].into(), &settings);
        assert_eq!(noise.read().map(drop).unwrap_err(), Nonsense("packet"));
    }
}
