//! Everything in memory: the tables that readers see, and who waits for their changes.
//!
//! One lock guards all tables. A reader holds it for as long as it takes to collect references to rows, the feed for
//! as long as it takes to put rows in place; records are decoded and answers are built outside. A persistent snapshot
//! would let readers go without a lock at all but makes each change copy paths of a dozen maps, and what it would save
//! is not what a read costs here.
//!
//! Changes come in the order of their revisions and each as a whole, so a reader sees no half transaction.

pub(crate) mod access;
pub(crate) mod ca;
pub(crate) mod catalog;
pub(crate) mod coordinates;
pub(crate) mod events;
pub(crate) mod intentions;
pub(crate) mod kv;
pub(crate) mod marks;
pub(crate) mod presence;
mod progress;
pub(crate) mod queries;
pub(crate) mod sessions;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lictor_model::health::Check;
use lictor_model::intention::Intention;
use lictor_model::query::Query;
use lictor_model::revision::Revision;
use lictor_model::root::Root;
use lictor_model::token::{Policy, Token};
use lictor_store::{Entry, Event};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::Error;
use crate::answer::Topic;
use crate::coordinate::NodeCoordinate;
use crate::event::EventRow;
use crate::reader::{CaConfig, CheckRow, KvRow, MatchSide, NodeRow, ServiceRow};
use crate::record::ca::{CaConfigRecord, RootRecord};
use crate::record::check::CheckRecord;
use crate::record::coordinate::CoordinateRecord;
use crate::record::decode;
use crate::record::event::EventRecord;
use crate::record::intention::IntentionRecord;
use crate::record::kv::{LockDelayRecord, decode_kv};
use crate::record::node::NodeRecord;
use crate::record::presence::MemberRecord;
use crate::record::query::QueryRecord;
use crate::record::service::ServiceRecord;
use crate::record::session::SessionRecord;
use crate::record::token::{PolicyRecord, TokenRecord};
use crate::schema::Key;
use crate::session::Session;
use crate::topics::{Kinds, Topics, Waiter};
use progress::Progress;
use sessions::Sign;

/// The topics that one change concerns, of the kinds that anybody waits for: mostly that is few of many.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    wanted: Kinds,
    topics: HashSet<Topic>,
    /// It may be anything.
    everything: bool,
}

impl Touched {
    fn of_kinds(wanted: Kinds) -> Touched {
        Touched { wanted, ..Touched::default() }
    }

    pub(crate) fn add(&mut self, topic: Topic) {
        if self.wanted.have(&topic) {
            self.topics.insert(topic);
        }
    }

    /// A topic with a name, which is copied only for somebody who waits.
    pub(crate) fn add_named(&mut self, topic: fn(Box<str>) -> Topic, name: &str) {
        if self.wanted.have(&topic(Box::default())) {
            self.topics.insert(topic(name.into()));
        }
    }
}

/// All tables at one revision.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// What has been applied.
    pub(crate) revision: Revision,
    /// When everything was last replaced by a snapshot.
    restored: Revision,
    pub(crate) catalog: catalog::Catalog,
    pub(crate) intentions: intentions::Intentions,
    pub(crate) ca: ca::Ca,
    pub(crate) kv: kv::Kv,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) queries: queries::Queries,
    pub(crate) coordinates: coordinates::Coordinates,
    pub(crate) access: access::Access,
    pub(crate) presence: presence::Presence,
    pub(crate) events: events::Events,
}

/// A decoded record on its way into a table.
#[derive(Debug)]
pub(crate) enum Row {
    Node(NodeRow),
    Service(ServiceRow),
    Check(CheckRow),
    Intention(Intention),
    CaConfig(CaConfig),
    Root(Root),
    Kv(KvRow),
    LockDelay(kv::LockDelay),
    Session(Session),
    SessionAlive(Revision, Sign),
    Query(Query),
    Coordinate(NodeCoordinate, Revision),
    Token(Token),
    Policy(Policy),
    Bootstrap(Revision),
    Supplied(Revision),
    Restored(Revision),
    Member(presence::MemberRow),
    Event(EventRow),
}

/// One step of a change.
#[derive(Debug)]
pub(crate) enum Step {
    Put(Key, Box<Row>),
    Remove(Key),
}

impl Step {
    /// What must be done before what: the parts of a thing go before it goes and come after it came.
    fn rank(&self) -> u8 {
        let depth = |key: &Key| match key {
            Key::Node(_) => 0,
            Key::Service { .. } => 1,
            _ => 2,
        };
        match self {
            Step::Remove(key) => 2 - depth(key),
            Step::Put(key, _) => 3 + depth(key),
        }
    }
}

/// Reads a stored entry; `None` for one that is not shown by any table.
pub(crate) fn read(entry: &Entry) -> Result<Option<Step>, Error> {
    let Some(key) = Key::parse(&entry.key) else { return Ok(None) };
    let modified = Revision(entry.modified.0);
    let value = &entry.value;
    let row = match &key {
        Key::Node(_) => Row::Node(decode::<NodeRecord<'_>>(&key, value)?.into_row(modified)),
        Key::Service { .. } => Row::Service(decode::<ServiceRecord<'_>>(&key, value)?.into_row(modified)),
        Key::Check { .. } => Row::Check(decode::<CheckRecord>(&key, value)?.into_row(modified)),
        Key::Intention(_) => Row::Intention(decode::<IntentionRecord>(&key, value)?.into_row(modified)),
        Key::CaConfig => Row::CaConfig(decode::<CaConfigRecord>(&key, value)?.into_row(modified)),
        Key::Root(_) => Row::Root(decode::<RootRecord>(&key, value)?.into_row(modified)),
        Key::Kv(name) => Row::Kv(decode_kv(&key, name, value, modified)?),
        Key::LockDelay(_) => {
            let LockDelayRecord { until } = decode(&key, value)?;
            Row::LockDelay(kv::LockDelay { until, modified })
        }
        Key::Session(_) => Row::Session(decode::<SessionRecord>(&key, value)?.into_row(modified)),
        Key::SessionAlive(_) => Row::SessionAlive(modified, Sign::read(value)),
        Key::Query(_) => Row::Query(decode::<QueryRecord>(&key, value)?.into_row(modified)),
        Key::Coordinate { .. } => Row::Coordinate(decode::<CoordinateRecord>(&key, value)?.into_row(), modified),
        Key::Token(_) => Row::Token(decode::<TokenRecord>(&key, value)?.into_row(modified)),
        Key::Policy(_) => Row::Policy(decode::<PolicyRecord>(&key, value)?.into_row(modified)),
        Key::AclBootstrap => Row::Bootstrap(modified),
        Key::AclSupplied => Row::Supplied(modified),
        Key::Restored => Row::Restored(modified),
        Key::Event(_) => Row::Event(decode::<EventRecord>(&key, value)?.into_row(modified)?),
        Key::Alive(_) | Key::Lead => Row::Member(decode::<MemberRecord>(&key, value)?.into_row(modified)),
        // Kept unique, or read from the store by the one who needs it.
        Key::Format | Key::NodeOf(_) | Key::IntentionOf { .. } | Key::Sealed(_) => return Ok(None),
        _ => return Ok(None),
    };
    Ok(Some(Step::Put(key, Box::new(row))))
}

/// Reads an event of the store's watch.
pub(crate) fn read_event(event: &Event) -> Result<Option<Step>, Error> {
    match event {
        Event::Put(entry) => read(entry),
        Event::Deleted { key } => Ok(Key::parse(key).map(Step::Remove)),
    }
}

impl Tables {
    /// Applies the steps of one revision.
    fn apply(&mut self, mut steps: Vec<Step>, at: Revision, touched: &mut Touched) {
        steps.sort_by_key(Step::rank);
        for step in steps {
            match step {
                Step::Put(key, row) => self.put(&key, *row, at, touched),
                Step::Remove(key) => self.remove(&key, at, touched),
            }
        }
        self.revision = at;
    }

    fn put(&mut self, key: &Key, row: Row, at: Revision, touched: &mut Touched) {
        let placed = match (key, row) {
            (_, Row::Node(row)) => {
                self.catalog.put_node(row, at, touched);
                true
            }
            (Key::Service { node, .. }, Row::Service(row)) => self.catalog.put_service(node, row, at, touched),
            (Key::Check { node, .. }, Row::Check(row)) => self.catalog.put_check(node, row, at, touched),
            (_, Row::Intention(row)) => {
                self.intentions.put(row, at, touched);
                true
            }
            (_, Row::CaConfig(row)) => {
                self.ca.put_config(row, at, touched);
                true
            }
            (_, Row::Root(row)) => {
                self.ca.put_root(row, at, touched);
                true
            }
            (_, Row::Kv(row)) => {
                self.kv.put(row, at, touched);
                true
            }
            (Key::LockDelay(key), Row::LockDelay(delay)) => {
                self.kv.put_delay(key, delay);
                true
            }
            (_, Row::Session(row)) => {
                self.sessions.put(row, at, touched);
                true
            }
            (Key::SessionAlive(id), Row::SessionAlive(modified, sign)) => {
                self.sessions.put_sign(id, sign, modified);
                true
            }
            (_, Row::Query(row)) => {
                self.queries.put(row, at, touched);
                true
            }
            (Key::Coordinate { node, segment }, Row::Coordinate(row, modified)) => {
                self.coordinates.put((Arc::clone(node), Arc::clone(segment)), row, modified, touched);
                true
            }
            (_, Row::Token(row)) => {
                self.access.put_token(row, at, touched);
                true
            }
            (_, Row::Policy(row)) => {
                self.access.put_policy(row, at, touched);
                true
            }
            (_, Row::Bootstrap(modified)) => {
                self.access.put_bootstrap(modified);
                true
            }
            (_, Row::Supplied(modified)) => {
                self.access.put_supplied(modified);
                true
            }
            (_, Row::Restored(modified)) => {
                // Everything counts as changed, so that whoever waits is answered: also what is as it was before.
                self.restored = modified;
                self.raise(at);
                touched.everything = true;
                true
            }
            (Key::Alive(node), Row::Member(row)) => {
                self.presence.put(node, row, at, touched);
                true
            }
            (_, Row::Member(row)) => {
                self.presence.set_lead(Some(row), at, touched);
                true
            }
            (Key::Event(id), Row::Event(row)) => {
                self.events.put(id, row, at, touched);
                true
            }
            (
                _,
                Row::Service(_)
                | Row::Check(_)
                | Row::LockDelay(_)
                | Row::SessionAlive(..)
                | Row::Coordinate(..)
                | Row::Event(_),
            ) => false,
        };
        if !placed {
            // Our writer never does this, so someone else wrote to the store or took something out of it.
            tracing::error!("record {key:?} belongs to nothing: ignored");
        }
    }

    fn remove(&mut self, key: &Key, at: Revision, touched: &mut Touched) {
        match key {
            Key::Node(name) => self.catalog.remove_node(name, at, touched),
            Key::Service { node, id } => self.catalog.remove_service(node, id, at, touched),
            Key::Check { node, id } => self.catalog.remove_check(node, id, at, touched),
            Key::Intention(id) => self.intentions.remove(id, at, touched),
            Key::CaConfig => self.ca.remove_config(at, touched),
            Key::Root(id) => self.ca.remove_root(id, at, touched),
            Key::Kv(key) => self.kv.remove(key, at, touched),
            Key::LockDelay(key) => self.kv.remove_delay(key),
            Key::Session(id) => self.sessions.remove(id, at, touched),
            Key::SessionAlive(id) => self.sessions.remove_renewal(id),
            Key::Query(id) => self.queries.remove(id, at, touched),
            Key::Coordinate { node, segment } => {
                self.coordinates.remove(&(Arc::clone(node), Arc::clone(segment)), at, touched);
            }
            Key::Token(accessor) => self.access.remove_token(accessor, at, touched),
            Key::Policy(id) => self.access.remove_policy(id, at, touched),
            Key::AclBootstrap => self.access.remove_bootstrap(),
            Key::AclSupplied => self.access.remove_supplied(),
            Key::Event(id) => self.events.remove(id, at, touched),
            Key::Alive(node) => self.presence.remove(node, at, touched),
            Key::Lead => self.presence.set_lead(None, at, touched),
            _ => {}
        }
    }

    /// When a topic last changed.
    pub(crate) fn index(&self, topic: &Topic) -> Revision {
        let Tables {
            revision: _,
            restored,
            catalog,
            intentions,
            ca,
            kv,
            sessions,
            queries,
            coordinates,
            access,
            presence,
            events,
        } = self;
        let changed = match topic {
            Topic::Intentions => intentions.index(),
            Topic::Intention(id) => intentions.index_of(id),
            Topic::IntentionsFrom(party) => intentions.index_of_party(MatchSide::Source, party),
            Topic::IntentionsTo(party) => intentions.index_of_party(MatchSide::Destination, party),
            Topic::Sessions => sessions.index(),
            Topic::Session(id) => sessions.index_of(id),
            Topic::SessionsOf(node) => sessions.index_of_node(node),
            Topic::Queries => queries.index(),
            Topic::Query(id) => queries.index_of(id),
            Topic::Coordinates => coordinates.index(),
            Topic::CoordinatesOf(node) => coordinates.index_of(node),
            Topic::Members => presence.index(),
            Topic::Events => events.index(),
            topic => {
                let elsewhere = || ca.index(topic).or_else(|| kv.index(topic)).or_else(|| access.index(topic));
                catalog.index(topic).or_else(elsewhere).unwrap_or_default()
            }
        };
        changed.max(*restored)
    }

    /// When any of the topics last changed.
    pub(crate) fn latest(&self, topics: &[Topic]) -> Revision {
        topics.iter().map(|topic| self.index(topic)).max().unwrap_or_default()
    }

    fn raise(&mut self, floor: Revision) {
        let Tables {
            revision,
            restored: _,
            catalog,
            intentions,
            ca,
            kv,
            sessions,
            queries,
            coordinates,
            access,
            presence,
            events,
        } = self;
        *revision = floor;
        catalog.raise(floor);
        intentions.raise(floor);
        ca.raise(floor);
        kv.raise(floor);
        sessions.raise(floor);
        queries.raise(floor);
        coordinates.raise(floor);
        access.raise(floor);
        presence.raise(floor);
        events.raise(floor);
    }

    /// Every record that is shown, with the revision of its last change.
    fn keys(&self) -> BTreeMap<Key, Revision> {
        let Tables {
            revision: _,
            restored: _,
            catalog,
            intentions,
            ca,
            kv,
            sessions,
            queries,
            coordinates,
            access,
            presence,
            events,
        } = self;
        catalog
            .keys()
            .chain(intentions.keys())
            .chain(ca.keys())
            .chain(kv.keys())
            .chain(sessions.keys())
            .chain(queries.keys())
            .chain(coordinates.keys())
            .chain(access.keys())
            .chain(presence.keys())
            .chain(events.keys())
            .collect()
    }
}

/// Everything in memory, fed from the store's watch.
#[derive(Debug)]
pub(crate) struct Replica {
    tables: RwLock<Tables>,
    topics: Arc<Topics>,
    progress: Progress,
}

impl Replica {
    /// The tables as a scan of the store found them.
    pub(crate) fn load(entries: &[Entry], revision: Revision) -> Result<Replica, Error> {
        let mut steps = Vec::with_capacity(entries.len());
        for entry in entries {
            steps.extend(read(entry)?);
        }
        let mut tables = Tables::default();
        tables.apply(steps, revision, &mut Touched::default());
        // What was removed before is not known any more, so everything counts as changed just now: a watcher that
        // comes back after a restart may be woken once for nothing, but none sleeps through what it missed.
        // Only a store in which nothing ever happened has nothing to miss.
        if entries.iter().any(|entry| entry.modified.0 != revision.0) || entries.len() > 1 {
            tables.raise(revision);
        }
        Ok(Replica { tables: RwLock::new(tables), topics: Arc::default(), progress: Progress::new(revision) })
    }

    /// Applies the steps of one revision and wakes those concerned. Called by the feed alone, in order.
    pub(crate) fn apply(&self, steps: Vec<Step>, at: Revision) {
        let mut tables = self.tables.write();
        // Asked for with the tables locked: whoever begins to wait from now on looks at them afterwards.
        let mut touched = Touched::of_kinds(self.topics.kinds());
        tables.apply(steps, at, &mut touched);
        drop(tables);
        self.progress.advance(at);
        if touched.everything {
            self.topics.wake_all();
        } else {
            self.topics.wake(touched.topics);
        }
    }

    /// What must be done so that the tables are as a scan found them: the difference, and nothing else.
    pub(crate) fn difference(&self, entries: &[Entry]) -> Result<Vec<Step>, Error> {
        let mut shown = self.tables.read().keys();
        let mut steps = Vec::new();
        for entry in entries {
            let known = Key::parse(&entry.key).and_then(|key| shown.remove(&key));
            if known != Some(Revision(entry.modified.0)) {
                steps.extend(read(entry)?);
            }
        }
        steps.extend(shown.into_keys().map(Step::Remove));
        Ok(steps)
    }

    /// The tables, for a short look.
    pub(crate) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read()
    }

    /// From now on one check is shown with instances in place of another.
    pub(crate) fn vouch(&self, said: Check, known: Check) {
        self.tables.write().catalog.vouched = Some((said, known));
    }

    /// Starts to wait for any of the topics. Only who looks at the tables after this sleeps through nothing.
    pub(crate) fn wait(&self, topics: &[Topic]) -> Waiter {
        self.topics.wait(topics)
    }

    /// The revision that was applied last.
    pub(crate) fn applied(&self) -> Revision {
        self.progress.revision()
    }

    /// Waits until a revision is applied. Cancel safe.
    pub(crate) async fn reached(&self, revision: Revision) {
        self.progress.reached(revision).await;
    }
}
