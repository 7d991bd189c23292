//! Look-ups for agents that have no state: a question as it travels to a server, and what the server found.
//!
//! A client agent reads packets, asks recursors and writes answers itself, by its own settings, exactly as a server does.
//! Between the two lies what only a server knows: what a name of the zone means, and whether the catalog has an address. So
//! what travels is the `Reply` that a server would go on with, before anything of it is shortened for who asked, and with
//! the question all settings that a look-up goes by.
//!
//! Both are JSON with the names of the HTTP API. Names and texts of DNS hold any bytes; what does not print is written as in
//! zone files, `\` and three decimal digits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use lictor_state::Reader;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::answer::{self, Chase, Counted, Outcome, Reply, Section, SubnetScope};
use crate::config::{Config, Settings, Soa, seconds};
use crate::lookup::Lookups;
use crate::prepared::Queries;
use crate::question::{self, Scope};
use crate::record::{self, Data, Record};
use crate::request::{MAX_SIZE, Request};
use crate::reverse;

/// The largest question that is read. Nearly all of it are times to live of services, one each.
const MAX_QUESTION: usize = 1 << 20;
/// The largest answer that is read. What a message of 64 KiB can hold is never written longer, see `fit`.
const MAX_ANSWER: usize = 4 << 20;
/// No record takes less than this in a message: a pointer, ten bytes of its own, and something.
const LEAST_RECORD: usize = 12;

/// A future of an [`Elsewhere`] method.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever can ask a server.
pub trait Elsewhere: Send + Sync {
    /// Hands a question to a server, which gives it to [`answer`](answer()) with the rights of this agent, and gives back what that
    /// said. It is dropped when that takes too long. The error's text is for the log; the client is told that the server
    /// failed.
    fn look_up(&self, question: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>>;
}

/// A question that cannot be answered by any server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a DNS question of an agent: {0}")]
pub struct Refused(String);

/// Says what a question of another agent means: the body for the answer. The reader has the rights of the caller that the
/// agent asks as, and for the queries its node is `_agent`.
pub fn answer(question: &[u8], reader: &Reader, queries: &dyn Queries) -> Result<Vec<u8>, Refused> {
    if question.len() > MAX_QUESTION {
        return Err(Refused(format!("{} bytes, where {MAX_QUESTION} are the most", question.len())));
    }
    let question: Question<'_> = serde_json::from_slice(question).map_err(|error| Refused(error.to_string()))?;
    let source = question.source.ok_or_else(|| Refused("nobody asks (Source)".into()))?;
    let size = usize::from(question.size.min(MAX_SIZE));
    let limit = usize::try_from(question.limit).unwrap_or(usize::MAX);
    let (owner, asked) = (&question.name.0, RecordType::from(question.kind));
    let settings = &Settings::new(question.settings.config()).map_err(|error| Refused(error.to_string()))?;
    let known = match question::read(owner, asked, &settings.zone) {
        Scope::Zone(target) => {
            let lookups = Lookups {
                settings,
                reader,
                queries,
                source,
                edns: question.edns,
                // More cannot be in the message.
                enough: limit.min(size / LEAST_RECORD),
            };
            Some(lookups.zone(owner, asked, target))
        }
        Scope::Reverse(ip) => reverse::lookup(settings, reader, owner, asked, ip),
        Scope::Outside => return Err(Refused("the name is outside the zone (Name, Domain)".into())),
    };
    let answer = match known {
        None => Answer::default(),
        Some(mut reply) => {
            fit(&mut reply, limit, size);
            Answer::new(reply, owner)
        }
    };
    serde_json::to_vec(&answer).map_err(|error| Refused(error.to_string()))
}

/// Writes a question about a name of the zone or about an address.
pub(crate) fn ask(request: &Request, source: IpAddr, settings: &Settings) -> Vec<u8> {
    let config = &settings.config;
    let question = Question {
        name: Spelled(request.query.name.clone()),
        kind: request.query.query_type.into(),
        source: Some(source),
        edns: request.edns.is_some(),
        limit: u64::try_from(answer::enough(request, settings)).unwrap_or(u64::MAX),
        size: request.max_size(),
        settings: Asking {
            domain: config.domain.as_str().into(),
            datacenter: config.datacenter.as_str().into(),
            node_ttl: settings.node_ttl,
            service_ttl: config.service_ttl.iter().map(|(name, ttl)| (name.as_str().into(), seconds(*ttl))).collect(),
            only_passing: config.only_passing,
            a_record_limit: u64::try_from(config.a_record_limit).unwrap_or(u64::MAX),
            node_meta_txt: config.enable_additional_node_meta_txt,
            soa: config.soa.into(),
        },
    };
    // Maps with text as keys are all that could fail, and here they have it.
    serde_json::to_vec(&question).unwrap_or_default()
}

/// Reads what a server found about `owner`; `None` when nobody here knows the address.
pub(crate) fn read(answer: &[u8], owner: &Name) -> Result<Option<Reply>, String> {
    if answer.len() > MAX_ANSWER {
        return Err(format!("the answer has {} bytes", answer.len()));
    }
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|error| format!("the answer cannot be read: {error}"))?;
    Ok(answer.reply(owner))
}

/// Leaves out what would be left out at the agent in any case, whatever recursors still add: `size` is what the client takes,
/// and of a limited reply it gets `limit` answers.
fn fit(reply: &mut Reply, limit: usize, size: usize) {
    let mut least = 0;
    let too_many = reply.answers.iter().position(|record| {
        least += least_size(record);
        least > size
    });
    let mut kept = too_many.map_or(reply.answers.len(), |at| at + 1);
    let is_limited = reply.counted == Counted::Limited && reply.answers.len() > limit;
    if is_limited {
        // One more tells that something was left out.
        kept = kept.min(limit.saturating_add(1));
    }
    reply.answers.truncate(kept);
    let beside = reply.authorities.iter().chain(&reply.additionals).map(least_size);
    if is_limited || beside.fold(least, usize::saturating_add) > size {
        reply.is_shortened = true;
        keep_targets(reply);
    }
    let ends = (reply.answers.len(), reply.additionals.len());
    reply.chases.retain(|chase| match chase.section {
        Section::Answer => chase.at <= ends.0,
        Section::Additional => chase.at <= ends.1,
    });
}

/// Of what stands beside the answers, keeps what a shortened message may have.
fn keep_targets(reply: &mut Reply) {
    let places = answer::beside_targets(&reply.answers, &reply.additionals);
    reply.chases.retain_mut(|chase| {
        if chase.section == Section::Answer {
            return true;
        }
        // It goes on behind its alias.
        let alias = places.iter().position(|place| place + 1 == chase.at);
        chase.at = alias.map_or(chase.at, |at| at + 1);
        alias.is_some()
    });
    // They are carried out from the last place to the first.
    reply.chases.sort_by_key(|chase| chase.at);
    let mut records: Vec<Option<Record>> = std::mem::take(&mut reply.additionals).into_iter().map(Some).collect();
    reply.additionals = places.into_iter().filter_map(|place| records.get_mut(place)?.take()).collect();
}

/// What a record takes in a message, if names cost nothing because they stand there already.
fn least_size(record: &Record) -> usize {
    let data = match &record.data {
        Data::A(_) => 4,
        Data::Aaaa(_) => 16,
        Data::Cname(_) | Data::Ns(_) | Data::Ptr(_) => 1,
        Data::Soa(_) => 22,
        Data::Srv { target, .. } => 6 + target.len(),
        Data::Txt(strings) => strings.iter().map(|string| 1 + string.len()).sum(),
    };
    // Only the root has a name shorter than a pointer.
    11 + data
}

/// A question as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    name: Spelled,
    /// The number of a type of records.
    #[serde(rename = "Type")]
    kind: u16,
    /// Where it came from.
    source: Option<IpAddr>,
    /// Whether the client speaks EDNS.
    #[serde(rename = "EDNS", default)]
    edns: bool,
    /// So many answers are given at most.
    limit: u64,
    /// The largest message that the client takes.
    size: u16,
    #[serde(borrow)]
    settings: Asking<'a>,
}

/// The settings of an agent that look-ups go by; times in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asking<'a> {
    #[serde(borrow)]
    domain: Cow<'a, str>,
    #[serde(borrow)]
    datacenter: Cow<'a, str>,
    #[serde(rename = "NodeTTL", default)]
    node_ttl: u32,
    #[serde(rename = "ServiceTTL", default, borrow)]
    service_ttl: BTreeMap<Cow<'a, str>, u32>,
    #[serde(default)]
    only_passing: bool,
    #[serde(rename = "ARecordLimit", default)]
    a_record_limit: u64,
    #[serde(rename = "NodeMetaTXT", default)]
    node_meta_txt: bool,
    #[serde(rename = "SOA")]
    soa: Numbers,
}

impl Asking<'_> {
    fn config(self) -> Config {
        let duration = |secs: u32| Duration::from_secs(secs.into());
        Config {
            domain: self.domain.into_owned(),
            datacenter: self.datacenter.into_owned(),
            node_ttl: duration(self.node_ttl),
            service_ttl: self.service_ttl.into_iter().map(|(name, ttl)| (name.into_owned(), duration(ttl))).collect(),
            only_passing: self.only_passing,
            a_record_limit: usize::try_from(self.a_record_limit).unwrap_or(usize::MAX),
            enable_additional_node_meta_txt: self.node_meta_txt,
            soa: self.soa.into(),
            ..Config::default()
        }
    }
}

/// The numbers of an SOA record that are configured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Numbers {
    refresh: u32,
    retry: u32,
    expire: u32,
    #[serde(rename = "MinTTL")]
    min_ttl: u32,
}

impl From<Soa> for Numbers {
    fn from(soa: Soa) -> Numbers {
        let Soa { refresh, retry, expire, min_ttl } = soa;
        Numbers { refresh, retry, expire, min_ttl }
    }
}

impl From<Numbers> for Soa {
    fn from(numbers: Numbers) -> Soa {
        let Numbers { refresh, retry, expire, min_ttl } = numbers;
        Soa { refresh, retry, expire, min_ttl }
    }
}

/// What was found, as it travels.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    outcome: Found,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<Line>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorities: Vec<Line>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additionals: Vec<Line>,
    /// Whether the limits on the number of answers apply.
    limited: bool,
    /// Whether it was made for the network of the client.
    subnet: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chases: Vec<Further>,
    /// Whether something was left out because no message has room for it.
    shortened: bool,
}

/// How a look-up can come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Found {
    /// Nobody here knows the address.
    #[default]
    Unknown,
    Answered,
    Empty,
    NoSuchName,
    NoSuchDatacenter,
    QueryFailed,
    Transfer,
}

/// A record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    /// Absent for the name that was asked for, in its spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Spelled>,
    #[serde(rename = "TTL")]
    ttl: u32,
    data: Says,
}

/// What a record says, by its type.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Says {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Spelled),
    Ns(Spelled),
    Ptr(Spelled),
    Soa(Box<Start>),
    Srv(Place),
    Txt(Vec<Text>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    server: Spelled,
    mailbox: Spelled,
    serial: u32,
    numbers: Numbers,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    weight: u16,
    port: u16,
    target: Spelled,
}

/// An alias that leads out of the zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Further {
    /// Whether it stands beside the answers.
    #[serde(default)]
    additional: bool,
    at: u64,
    target: Spelled,
    /// Absent when there is room for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    room: Option<u64>,
}

impl Answer {
    fn new(reply: Reply, owner: &Name) -> Answer {
        let Reply { outcome, answers, authorities, additionals, counted, subnet, chases, is_shortened } = reply;
        let lines = |records: Vec<Record>| records.into_iter().map(|record| Line::new(record, owner)).collect();
        Answer {
            outcome: Found::of(outcome),
            answers: lines(answers),
            authorities: lines(authorities),
            additionals: lines(additionals),
            limited: counted == Counted::Limited,
            subnet: subnet == SubnetScope::Source,
            chases: chases.into_iter().map(Further::from).collect(),
            shortened: is_shortened,
        }
    }

    fn reply(self, owner: &Name) -> Option<Reply> {
        let records = |lines: Vec<Line>| lines.into_iter().map(|line| line.record(owner)).collect();
        Some(Reply {
            outcome: self.outcome.outcome()?,
            answers: records(self.answers),
            authorities: records(self.authorities),
            additionals: records(self.additionals),
            counted: if self.limited { Counted::Limited } else { Counted::All },
            subnet: if self.subnet { SubnetScope::Source } else { SubnetScope::Everyone },
            chases: self.chases.into_iter().map(Chase::from).collect(),
            is_shortened: self.shortened,
        })
    }
}

impl Found {
    fn of(outcome: Outcome) -> Found {
        match outcome {
            Outcome::Answered => Found::Answered,
            Outcome::Empty => Found::Empty,
            Outcome::NoSuchName => Found::NoSuchName,
            Outcome::NoSuchDatacenter => Found::NoSuchDatacenter,
            Outcome::Transfer => Found::Transfer,
            Outcome::QueryFailed => Found::QueryFailed,
            // What concerns packets and recursors comes from no look-up.
            Outcome::NobodyToAsk
            | Outcome::NobodyAnswered
            | Outcome::TooLarge
            | Outcome::Malformed
            | Outcome::OtherOperation
            | Outcome::UnknownEdns
            | Outcome::NoServer => Found::QueryFailed,
        }
    }

    fn outcome(self) -> Option<Outcome> {
        Some(match self {
            Found::Unknown => return None,
            Found::Answered => Outcome::Answered,
            Found::Empty => Outcome::Empty,
            Found::NoSuchName => Outcome::NoSuchName,
            Found::NoSuchDatacenter => Outcome::NoSuchDatacenter,
            Found::QueryFailed => Outcome::QueryFailed,
            Found::Transfer => Outcome::Transfer,
        })
    }
}

impl Line {
    fn new(record: Record, asked: &Name) -> Line {
        let Record { owner, ttl, data } = record;
        let data = match data {
            Data::A(ip) => Says::A(ip),
            Data::Aaaa(ip) => Says::Aaaa(ip),
            Data::Cname(name) => Says::Cname(Spelled(name)),
            Data::Ns(name) => Says::Ns(Spelled(name)),
            Data::Ptr(name) => Says::Ptr(Spelled(name)),
            Data::Soa(soa) => {
                let record::Soa { server, mailbox, serial, refresh, retry, expire, min_ttl } = *soa;
                let numbers = Numbers { refresh, retry, expire, min_ttl };
                Says::Soa(Box::new(Start { server: Spelled(server), mailbox: Spelled(mailbox), serial, numbers }))
            }
            Data::Srv { weight, port, target } => Says::Srv(Place { weight, port, target: Spelled(target) }),
            Data::Txt(strings) => Says::Txt(strings.into_iter().map(Text).collect()),
        };
        Line { name: (!owner.eq_case(asked)).then_some(Spelled(owner)), ttl, data }
    }

    fn record(self, asked: &Name) -> Record {
        let data = match self.data {
            Says::A(ip) => Data::A(ip),
            Says::Aaaa(ip) => Data::Aaaa(ip),
            Says::Cname(name) => Data::Cname(name.0),
            Says::Ns(name) => Data::Ns(name.0),
            Says::Ptr(name) => Data::Ptr(name.0),
            Says::Soa(start) => {
                let Start { server, mailbox, serial, numbers } = *start;
                let Numbers { refresh, retry, expire, min_ttl } = numbers;
                let (server, mailbox) = (server.0, mailbox.0);
                Data::Soa(Box::new(record::Soa { server, mailbox, serial, refresh, retry, expire, min_ttl }))
            }
            Says::Srv(Place { weight, port, target }) => Data::Srv { weight, port, target: target.0 },
            // One of no strings cannot be in a message.
            Says::Txt(strings) if strings.is_empty() => Data::Txt(vec![Vec::new()]),
            Says::Txt(strings) => Data::Txt(strings.into_iter().map(|text| text.0).collect()),
        };
        Record { owner: self.name.map_or_else(|| asked.clone(), |name| name.0), ttl: self.ttl, data }
    }
}

impl From<Chase> for Further {
    fn from(chase: Chase) -> Further {
        let Chase { section, at, target, room } = chase;
        Further {
            additional: section == Section::Additional,
            at: u64::try_from(at).unwrap_or(u64::MAX),
            target: Spelled(target),
            room: (room < usize::MAX).then(|| u64::try_from(room).unwrap_or(u64::MAX)),
        }
    }
}

impl From<Further> for Chase {
    fn from(further: Further) -> Chase {
        let Further { additional, at, target, room } = further;
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Chase {
            section: if additional { Section::Additional } else { Section::Answer },
            at: size(at),
            target: target.0,
            room: room.map_or(usize::MAX, size),
        }
    }
}

/// A name, in its spelling, with the final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spelled(Name);

impl Serialize for Spelled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        for label in self.0.iter() {
            escape(label, |byte| byte.is_ascii_graphic() && byte != b'.', &mut text);
            text.push('.');
        }
        serializer.serialize_str(if text.is_empty() { "." } else { &text })
    }
}

impl<'de> Deserialize<'de> for Spelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Spelled, D::Error> {
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        let name = spelled(&text).ok_or_else(|| serde::de::Error::custom("not a name, with its final dot"))?;
        Ok(Spelled(name))
    }
}

fn spelled(text: &str) -> Option<Name> {
    let mut name = Name::new();
    if text != "." {
        for label in text.strip_suffix('.')?.split('.') {
            name = name.append_label(unescape(label)?.as_slice()).ok()?;
        }
    }
    name.set_fqdn(true);
    Some(name)
}

/// A text of any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text(Vec<u8>);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        escape(&self.0, |byte| byte.is_ascii_graphic() || byte == b' ', &mut text);
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| serde::de::Error::custom("not a text of DNS"))?;
        Ok(Text(bytes))
    }
}

fn escape(bytes: &[u8], is_plain: impl Fn(u8) -> bool, text: &mut String) {
    for byte in bytes {
        if *byte != b'\\' && is_plain(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push('\\');
            for digit in [byte / 100, byte / 10 % 10, byte % 10] {
                text.push(char::from(b'0' + digit));
            }
        }
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<3>()?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        bytes.push(std::str::from_utf8(digits).ok()?.parse().ok()?);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
