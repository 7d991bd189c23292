//! From records to a message that the client can take: response codes, trimming, EDNS. Pure.

use hickory_proto::op::{MessageType, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::ClientSubnet;
use hickory_proto::rr::{Name, RecordType};

use crate::config::Settings;
use crate::few::Few;
use crate::record::{Data, Record};
use crate::request::{PLAIN_UDP_SIZE, Request, Transport};
use crate::wire::{self, Compression, Content, Opt};

/// A client without EDNS gets no more records than this over UDP, whatever is configured.
const MAX_PLAIN_UDP_ANSWERS: usize = 8;
/// Answers over TCP; SRV answers bring an address each.
const MAX_TCP_ANSWERS: usize = 4096;
const MAX_TCP_LOCATIONS: usize = 1024;

/// How a question came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There are records.
    Answered,
    /// The name exists, but has nothing of the kind.
    Empty,
    /// There is no such name.
    NoSuchName,
    /// There is no such datacenter.
    NoSuchDatacenter,
    /// A prepared query could not be executed.
    QueryFailed,
    /// The whole zone was asked for.
    Transfer,
    /// Not our name, and there are no recursors.
    NobodyToAsk,
    /// Not our name, and nobody had an answer.
    NobodyAnswered,
    /// Not our name, and the answer of a recursor is larger than the client takes.
    TooLarge,
    /// The message cannot be read.
    Malformed,
    /// Not a question but another operation.
    OtherOperation,
    /// A version of EDNS from the future.
    UnknownEdns,
    /// A server has to know, and none said anything.
    NoServer,
}

/// Whether the server says that it speaks for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    Ours,
    Theirs,
}

/// Whether the server says that it would ask others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recursion {
    /// If it has whom to ask.
    AsConfigured,
    /// Whatever is configured: clients of the original see it so.
    Claimed,
}

impl Outcome {
    /// The one place where an outcome becomes a response code.
    fn code(self) -> (ResponseCode, Authority, Recursion) {
        use Authority::{Ours, Theirs};
        use Recursion::{AsConfigured, Claimed};
        match self {
            Outcome::Answered | Outcome::Empty => (ResponseCode::NoError, Ours, AsConfigured),
            Outcome::NoSuchName => (ResponseCode::NXDomain, Ours, AsConfigured),
            Outcome::NoSuchDatacenter | Outcome::QueryFailed | Outcome::NoServer => {
                (ResponseCode::ServFail, Ours, AsConfigured)
            }
            Outcome::Transfer => (ResponseCode::NotImp, Ours, AsConfigured),
            Outcome::NobodyToAsk => (ResponseCode::ServFail, Theirs, AsConfigured),
            Outcome::NobodyAnswered => (ResponseCode::ServFail, Theirs, Claimed),
            Outcome::TooLarge => (ResponseCode::NoError, Theirs, Claimed),
            Outcome::Malformed => (ResponseCode::FormErr, Theirs, AsConfigured),
            Outcome::OtherOperation => (ResponseCode::NotImp, Theirs, AsConfigured),
            Outcome::UnknownEdns => (ResponseCode::BADVERS, Theirs, AsConfigured),
        }
    }
}

/// Whether the limits on the number of answers apply. Answers about nodes are never cut by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Limited,
    All,
}

/// For how large a network around the client the answer holds (RFC 7871).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubnetScope {
    /// Everyone gets the same.
    Everyone,
    /// It was made for the client's network.
    Source,
}

/// Where records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Additional,
}

/// An alias that leads out of the zone: the recursors may know more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chase {
    /// The section the alias is in.
    pub(crate) section: Section,
    /// Where in it the further records belong.
    pub(crate) at: usize,
    /// What to ask for.
    pub(crate) target: Name,
    /// So many records at most.
    pub(crate) room: usize,
}

/// What there is to say, before it is fitted into a message.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) outcome: Outcome,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    pub(crate) counted: Counted,
    pub(crate) subnet: SubnetScope,
    pub(crate) chases: Vec<Chase>,
    /// Whether a server has found that there is no room for all, and left out what would be left out.
    pub(crate) is_shortened: bool,
}

impl Reply {
    pub(crate) fn new(outcome: Outcome) -> Reply {
        Reply {
            outcome,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            counted: Counted::All,
            subnet: SubnetScope::Everyone,
            chases: Vec::new(),
            is_shortened: false,
        }
    }
}

/// Writes the message that says `reply` to who asked `request`, never larger than the client takes.
pub(crate) fn write(request: &Request, reply: &Reply, settings: &Settings, out: &mut Vec<u8>) {
    let mut draft = Draft::new(request, reply, settings);
    let all = reply.answers.len();
    let allowed = match reply.counted {
        Counted::Limited => enough(request, settings).min(all),
        Counted::All => all,
    };
    let is_shortened = reply.is_shortened || allowed < all;
    if is_shortened || !draft.write(&reply.answers, &reply.authorities, &reply.additionals, out) {
        draft.write_shortened(reply, allowed, settings, out);
    }
}

/// Writes that there is an answer, but too large for this transport.
pub(crate) fn write_truncated(request: &Request, settings: &Settings, out: &mut Vec<u8>) {
    let mut draft = Draft::new(request, &Reply::new(Outcome::TooLarge), settings);
    draft.metadata.truncation = true;
    draft.write(&[], &[], &[], out);
}

/// Writes an answer to a packet of which only the header could be read or understood.
pub(crate) fn write_bare(asked: Metadata, outcome: Outcome, settings: &Settings, out: &mut Vec<u8>) {
    let draft = Draft {
        metadata: header(asked, outcome, settings),
        query: None,
        opt: None,
        compression: Compression::Off,
        limit: PLAIN_UDP_SIZE,
    };
    draft.write(&[], &[], &[], out);
}

fn header(asked: Metadata, outcome: Outcome, settings: &Settings) -> Metadata {
    let (code, authority, recursion) = outcome.code();
    let mut metadata = asked;
    metadata.message_type = MessageType::Response;
    metadata.authoritative = authority == Authority::Ours;
    metadata.truncation = false;
    metadata.recursion_available = recursion == Recursion::Claimed || settings.has_recursors();
    metadata.authentic_data = false;
    metadata.response_code = code;
    metadata
}

/// EDNS is answered with EDNS, of the size the client named.
fn opt(request: &Request, reply: &Reply) -> Option<Opt> {
    let asked = request.edns.as_ref()?;
    let subnet = request.client_subnet().map(|subnet| {
        let scope = match reply.subnet {
            SubnetScope::Everyone => 0,
            SubnetScope::Source => subnet.source_prefix(),
        };
        ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope)
    });
    Some(Opt { size: asked.max_payload(), subnet })
}

/// How many answers about a service the client gets, apart from how many fit.
pub(crate) fn enough(request: &Request, settings: &Settings) -> usize {
    match request.transport {
        Transport::Tcp if request.query.query_type == RecordType::SRV => MAX_TCP_LOCATIONS,
        Transport::Tcp => MAX_TCP_ANSWERS,
        Transport::Udp if request.max_size() > PLAIN_UDP_SIZE => usize::MAX,
        Transport::Udp => match settings.config.udp_answer_limit {
            0 => usize::MAX,
            limit => limit.min(MAX_PLAIN_UDP_ANSWERS),
        },
    }
}

/// A message in the making.
struct Draft<'a> {
    metadata: Metadata,
    query: Option<&'a Query>,
    opt: Option<Opt>,
    compression: Compression,
    limit: u16,
}

impl<'a> Draft<'a> {
    fn new(request: &'a Request, reply: &Reply, settings: &Settings) -> Draft<'a> {
        Draft {
            metadata: header(request.metadata, reply.outcome, settings),
            query: Some(&request.query),
            opt: opt(request, reply),
            compression: if settings.config.disable_compression { Compression::Off } else { Compression::On },
            limit: request.max_size(),
        }
    }

    /// Writes as many of the first `allowed` answers as fit. What stands beside them goes first, but for one address
    /// of each remaining target; then answers go from the end.
    fn write_shortened(&mut self, reply: &Reply, allowed: usize, settings: &Settings, out: &mut Vec<u8>) {
        let beside = Beside::index(&reply.additionals);
        let attempt = |draft: &mut Self, count: usize, out: &mut Vec<u8>| {
            let answers = &reply.answers[..count];
            draft.metadata.truncation = settings.config.enable_truncate && count < reply.answers.len();
            draft.write(answers, &reply.authorities, &beside.of_targets(answers), out)
        };
        if attempt(self, allowed, out) {
            return;
        }
        // The size grows with the number of answers, so the largest number that fits is found by halving.
        let (mut fits, mut too_many) = (0, allowed);
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            if attempt(self, middle, out) {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        if fits > 0 && attempt(self, fits, out) {
            return;
        }
        // Not even one answer with its address fits: say so, whatever is configured, since an empty answer without
        // the mark would be wrong.
        let first = &reply.answers[..reply.answers.len().min(1)];
        self.metadata.truncation = settings.config.enable_truncate && first.len() < reply.answers.len();
        if first.is_empty() || !self.write(first, &[], &[], out) {
            self.metadata.truncation = true;
            self.write(&[], &[], &[], out);
        }
    }

    /// Writes a message with these records; `false` when it would be too large.
    fn write(&self, answers: &[Record], authorities: &[Record], additionals: &[Record], out: &mut Vec<u8>) -> bool {
        let Draft { metadata, query, opt, compression, limit } = *self;
        let content = Content { metadata, query, answers, authorities, additionals, opt };
        wire::write(&content, limit.into(), compression, out).is_ok()
    }
}

/// Where among `additionals` those records stand that a shortened message with these answers may have beside them, in the
/// order in which it has them.
pub(crate) fn beside_targets(answers: &[Record], additionals: &[Record]) -> Vec<usize> {
    let mut places = Vec::new();
    Beside::index(additionals).each_of_targets(answers, |place| places.push(place));
    places
}

/// The records beside an answer, by owner.
struct Beside<'a> {
    records: &'a [Record],
    places: Few<&'a Name, usize>,
}

impl<'a> Beside<'a> {
    /// The first record of each owner counts; the index is case-insensitive, as names are.
    fn index(records: &'a [Record]) -> Beside<'a> {
        let mut places = Few::new();
        for (place, record) in records.iter().enumerate() {
            places.insert(&record.owner, place);
        }
        Beside { records, places }
    }

    /// One record for each target of these answers, aliases followed.
    fn of_targets(&self, answers: &[Record]) -> Vec<Record> {
        let mut kept = Vec::new();
        self.each_of_targets(answers, |place| kept.push(self.records[place].clone()));
        kept
    }

    fn each_of_targets(&self, answers: &[Record], mut each: impl FnMut(usize)) {
        let mut given = Few::new();
        for answer in answers {
            let mut target = match &answer.data {
                Data::Srv { target, .. } => Some(target),
                _ => None,
            };
            while let Some(place) =
                target.filter(|name| given.insert(*name, ())).and_then(|name| self.places.get(&name))
            {
                each(*place);
                target = match &self.records[*place].data {
                    Data::Cname(alias) => Some(alias),
                    _ => None,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests;
