//! From what a name means to the records that answer it.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_state::Reader;
use lictor_state::reader::{Filter, Side};

use crate::answer::{Chase, Counted, Outcome, Reply, Section, SubnetScope};
use crate::config::{Settings, seconds};
use crate::few::Few;
use crate::kept::{Location, Place, Wanted, Whereabouts, shuffled};
use crate::prepared::{PreparedOutcome, PreparedRequest, Queries};
use crate::question::{self, Lookup, Scope, Target};
use crate::record::{self, Data, Host, Record};

/// How many aliases inside the zone are followed one after the other.
const MAX_ALIASES: u8 = 3;
/// How many records an alias may add for a client without EDNS.
const MAX_ALIAS_RECORDS: usize = 5;
/// How many name servers are named.
const MAX_NAME_SERVERS: usize = 3;
/// The service that every server registers itself under.
const SERVER_SERVICE: &str = "consul";

/// What a lookup needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Lookups<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) reader: &'a Reader,
    pub(crate) queries: &'a dyn Queries,
    /// Where the question came from.
    pub(crate) source: IpAddr,
    /// Whether the client speaks EDNS.
    pub(crate) edns: bool,
    /// So many answers are given at most; one more than that is looked up, to know that something was left out.
    pub(crate) enough: usize,
}

/// What is asked about a name.
#[derive(Clone, Copy)]
struct Asked<'a> {
    owner: &'a Name,
    kind: RecordType,
    /// How many more aliases may be followed.
    aliases: u8,
}

/// Records of one owner, some of which an alias outside the zone may still add to.
#[derive(Default)]
struct Found {
    records: Vec<Record>,
    chase: Option<Chase>,
}

impl Lookups<'_> {
    /// Answers a question about a name of the zone.
    pub(crate) fn zone(&self, owner: &Name, kind: RecordType, target: Target) -> Reply {
        self.target(Asked { owner, kind, aliases: MAX_ALIASES }, target)
    }

    fn target(&self, asked: Asked<'_>, target: Target) -> Reply {
        match asked.kind {
            RecordType::SOA => return self.authority(),
            RecordType::NS => return self.name_servers(),
            RecordType::AXFR | RecordType::IXFR => return Reply::new(Outcome::Transfer),
            _ => {}
        }
        let here = target.datacenter.is_none_or(|named| named.eq_ignore_ascii_case(&self.settings.config.datacenter));
        match target.lookup {
            Lookup::Nothing => self.negative(Outcome::NoSuchName),
            Lookup::Empty => self.negative(Outcome::Empty),
            Lookup::Address(ip) => {
                let found = record::address(asked.owner, self.settings.node_ttl, ip, asked.kind);
                self.unless_empty(Reply { answers: found.into_iter().collect(), ..Reply::new(Outcome::Answered) })
            }
            _ if !here => Reply::new(Outcome::NoSuchDatacenter),
            Lookup::Service { name, tag, side } => self.service(asked, Wanted { name, tag, side }),
            Lookup::Node(name) => self.node(asked, &name),
            Lookup::Query(name) => self.query(asked, &name),
        }
    }

    fn service(&self, asked: Asked<'_>, wanted: Wanted) -> Reply {
        let ttl = self.settings.service_ttl(&wanted.name);
        let group = self.settings.kept.get(wanted, self.reader, self.settings);
        self.instances(asked, shuffled(&group.places), ttl)
    }

    fn query(&self, asked: Asked<'_>, name: &str) -> Reply {
        let request = PreparedRequest { name, source: self.source };
        match self.queries.execute(self.reader, &request) {
            PreparedOutcome::Unknown => self.negative(Outcome::NoSuchName),
            PreparedOutcome::Failed => Reply::new(Outcome::QueryFailed),
            PreparedOutcome::Answered(answer) => {
                let ttl = answer.ttl.map_or_else(|| self.settings.service_ttl(&answer.service), seconds);
                let places: Vec<Place> = answer.instances.into_iter().map(Place::new).collect();
                let mut reply = self.instances(asked, places.iter(), ttl);
                if !places.is_empty() {
                    reply.subnet = SubnetScope::Source;
                }
                reply
            }
        }
    }

    fn instances<'p>(&self, asked: Asked<'_>, places: impl ExactSizeIterator<Item = &'p Place>, ttl: u32) -> Reply {
        if places.len() == 0 {
            return self.negative(Outcome::NoSuchName);
        }
        let reply = match asked.kind {
            RecordType::SRV => self.locations(asked, places, ttl),
            _ => self.addresses(asked, places, ttl),
        };
        self.unless_empty(reply)
    }

    /// SRV records, with the addresses of their targets.
    fn locations<'p>(&self, asked: Asked<'_>, places: impl Iterator<Item = &'p Place>, ttl: u32) -> Reply {
        let mut reply = Reply { counted: Counted::Limited, ..Reply::new(Outcome::Answered) };
        let (mut given, mut addressed) = (Few::new(), Few::new());
        for place in places {
            let (node, service) = (&place.instance.node.node, &place.instance.service.service);
            if !given.insert((node.name.as_str(), service.address.as_str(), service.port), ()) {
                continue;
            }
            let Whereabouts { node: node_host, own, node_name, location } = place.whereabouts(self.settings);
            let Some(Location { target, weight, port }) = location else { continue };
            let data = Data::Srv { weight: *weight, port: *port, target: target.clone() };
            reply.answers.push(Record { owner: asked.owner.clone(), ttl, data });
            if reply.answers.len() > self.enough {
                break;
            }
            let elsewhere = own.as_ref().filter(|_| place.is_elsewhere());
            if addressed.insert((node.name.as_str(), elsewhere.map_or("", |_| service.address.as_str())), ()) {
                let about = Asked { owner: target, kind: RecordType::ANY, ..asked };
                reply.add(Section::Additional, self.host(about, elsewhere.unwrap_or(node_host), ttl));
                if let (true, Some(owner)) = (self.settings.config.enable_additional_node_meta_txt, node_name) {
                    reply.additionals.extend(record::metadata(owner, ttl, node.meta.as_ref()));
                }
            }
        }
        reply
    }

    /// Address records, or what else was asked about the nodes behind a service.
    fn addresses<'p>(&self, asked: Asked<'_>, places: impl Iterator<Item = &'p Place>, ttl: u32) -> Reply {
        let mut reply = Reply { counted: Counted::Limited, ..Reply::new(Outcome::Answered) };
        let limit = self.settings.config.a_record_limit;
        let mut given = Few::new();
        let mut alias = None;
        let mut answering = 0;
        for place in places {
            let (node, service) = (&place.instance.node.node, &place.instance.service.service);
            let whereabouts = place.whereabouts(self.settings);
            // Following the very name that was asked for would lead in circles.
            let own = whereabouts.own.as_ref().filter(|own| !matches!(own, Host::Name(name) if name == asked.owner));
            let (address, host) = match own {
                Some(own) => (&service.address, own),
                None => (&node.address, &whereabouts.node),
            };
            if !given.insert(address.as_str(), ()) {
                continue;
            }
            let is_alias = matches!(host, Host::Name(_));
            // Only the first alias counts; following the others would multiply with every level of aliases.
            let mut found = if is_alias && alias.is_some() { Found::default() } else { self.host(asked, host, ttl) };
            self.add_metadata(asked, node, ttl, &mut found, &mut reply.additionals);
            if found.records.is_empty() {
                continue;
            }
            if is_alias {
                // A name can be an alias of one other name only, and only if it has no addresses itself.
                alias.get_or_insert(found);
                continue;
            }
            reply.add(Section::Answer, found);
            answering += 1;
            if answering == limit || reply.answers.len() > self.enough {
                break;
            }
        }
        if let (true, Some(alias)) = (reply.answers.is_empty(), alias) {
            reply.add(Section::Answer, alias);
        }
        reply
    }

    fn node(&self, asked: Asked<'_>, name: &str) -> Reply {
        // A reader also knows nodes by their ids; DNS never did.
        let Some(contents) = self.reader.node(name).value.filter(|found| found.node.node.name.same(name)) else {
            return self.negative(Outcome::NoSuchName);
        };
        let node = &contents.node.node;
        let mut reply = Reply::new(Outcome::Answered);
        let ttl = self.settings.node_ttl;
        let metadata = || record::metadata(asked.owner, ttl, node.meta.as_ref());
        let mut found = Found::default();
        match asked.kind {
            RecordType::A | RecordType::AAAA => {
                found = self.host(asked, &Host::read(&node.address), ttl);
                if self.settings.config.enable_additional_node_meta_txt {
                    reply.additionals.extend(metadata());
                }
            }
            RecordType::ANY | RecordType::TXT => {
                found = self.host(asked, &Host::read(&node.address), ttl);
                found.records.extend(metadata());
            }
            _ => {}
        }
        reply.add(Section::Answer, found);
        self.unless_empty(reply)
    }

    /// The records of one address: itself, or an alias and what it leads to.
    fn host(&self, asked: Asked<'_>, host: &Host, ttl: u32) -> Found {
        match host {
            Host::Unusable => Found::default(),
            Host::Ip(ip) => {
                Found { records: record::address(asked.owner, ttl, *ip, asked.kind).into_iter().collect(), chase: None }
            }
            Host::Name(target) => match asked.kind {
                RecordType::A | RecordType::AAAA | RecordType::ANY | RecordType::CNAME | RecordType::TXT => {
                    self.alias(asked, target, ttl)
                }
                _ => Found::default(),
            },
        }
    }

    fn alias(&self, asked: Asked<'_>, target: &Name, ttl: u32) -> Found {
        let mut found = Found { records: vec![record::alias(asked.owner, ttl, target)], chase: None };
        let room = if self.edns { usize::MAX } else { MAX_ALIAS_RECORDS };
        match question::read(target, RecordType::ANY, &self.settings.zone) {
            Scope::Zone(meaning) => {
                let Some(aliases) = asked.aliases.checked_sub(1) else { return found };
                let next = Asked { owner: target, kind: RecordType::ANY, aliases };
                let inner = Lookups { enough: usize::MAX, ..*self }.target(next, meaning);
                let kept = inner.answers.len().min(room);
                found.records.extend(inner.answers.into_iter().take(kept));
                found.chase = inner.chases.into_iter().find(|chase| chase.section == Section::Answer).map(|chase| {
                    Chase { at: (chase.at + 1).min(found.records.len()), room: chase.room.min(room - kept), ..chase }
                });
            }
            Scope::Reverse(_) | Scope::Outside => {
                found.chase = Some(Chase { section: Section::Answer, at: 1, target: target.clone(), room });
            }
        }
        found
    }

    /// Adds what is said about a node: to the answer if that was asked for, beside it if configured so.
    fn add_metadata(&self, asked: Asked<'_>, node: &Node, ttl: u32, found: &mut Found, additionals: &mut Vec<Record>) {
        let records = record::metadata(asked.owner, ttl, node.meta.as_ref());
        match asked.kind {
            RecordType::ANY | RecordType::TXT => found.records.extend(records),
            _ if self.settings.config.enable_additional_node_meta_txt => additionals.extend(records),
            _ => {}
        }
    }

    /// The SOA of the zone with its name servers: the answer about any name of it.
    fn authority(&self) -> Reply {
        let (servers, glue) = self.servers();
        Reply {
            answers: vec![self.settings.soa()],
            authorities: servers,
            additionals: glue,
            ..Reply::new(Outcome::Answered)
        }
    }

    fn name_servers(&self) -> Reply {
        let (answers, additionals) = self.servers();
        self.unless_empty(Reply { answers, additionals, ..Reply::new(Outcome::Answered) })
    }

    fn servers(&self) -> (Vec<Record>, Vec<Record>) {
        let mut instances = self.reader.instances(SERVER_SERVICE, Side::Ordinary, &Filter::default()).value;
        instances.retain(|instance| instance.status() != Status::Critical);
        fastrand::shuffle(&mut instances);
        let ttl = self.settings.node_ttl;
        let (mut servers, mut glue) = (Vec::new(), Vec::new());
        let mut given = Few::new();
        for instance in &instances {
            let node = &instance.node.node;
            // A name server must be a host name, so what is only a DNS name is passed over.
            let is_host_name = node.name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let target = record::below(node.name.as_str(), &self.settings.node_suffix);
            let (true, true, Some(target)) = (is_host_name, given.insert(node.name.as_str(), ()), target) else {
                continue;
            };
            if let Host::Ip(ip) = Host::read(&node.address) {
                glue.extend(record::address(&target, ttl, ip, RecordType::ANY));
            }
            servers.push(Record { owner: self.settings.zone.clone(), ttl, data: Data::Ns(target) });
            if servers.len() == MAX_NAME_SERVERS {
                break;
            }
        }
        (servers, glue)
    }

    /// The reply, or that there is nothing of the kind; what is said beside the answer stays.
    fn unless_empty(&self, reply: Reply) -> Reply {
        if !reply.answers.is_empty() {
            return reply;
        }
        Reply { outcome: Outcome::Empty, authorities: vec![self.settings.soa()], ..reply }
    }

    fn negative(&self, outcome: Outcome) -> Reply {
        Reply { authorities: vec![self.settings.soa()], ..Reply::new(outcome) }
    }
}

impl Reply {
    fn add(&mut self, section: Section, found: Found) {
        let records = match section {
            Section::Answer => &mut self.answers,
            Section::Additional => &mut self.additionals,
        };
        if let Some(chase) = found.chase {
            self.chases.push(Chase { section, at: chase.at + records.len(), ..chase });
        }
        records.extend(found.records);
    }
}
