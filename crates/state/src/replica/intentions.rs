//! Intentions in memory, in deciding order and by their two sides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::intention::{Intention, Party};
use lictor_model::name::fold;
use lictor_model::revision::Revision;

use super::Touched;
use super::marks::Marks;
use crate::answer::Topic;
use crate::reader::MatchSide;
use crate::schema::Key;

/// Precedence turned round, source, destination, id: the order in which intentions decide.
type Order = (std::cmp::Reverse<u8>, Party, Party, Arc<str>);

#[derive(Debug, Default)]
pub(crate) struct Intentions {
    rows: BTreeMap<Arc<str>, Arc<Intention>>,
    ordered: BTreeMap<Order, Arc<Intention>>,
    /// Ids by folded source and by folded destination: what one service may do costs what speaks of it.
    by_source: BTreeMap<Party, BTreeSet<Arc<str>>>,
    by_destination: BTreeMap<Party, BTreeSet<Arc<str>>>,
    sources: Marks<Party>,
    destinations: Marks<Party>,
    index: Revision,
}

impl Intentions {
    pub(crate) fn put(&mut self, row: Intention, at: Revision, touched: &mut Touched) {
        let id = fold(&row.id);
        if let Some(former) = self.take_out(&id) {
            self.touch(&former, at, touched);
        }
        let row = Arc::new(row);
        let (source, destination) = row.pair();
        self.by_source.entry(source).or_default().insert(Arc::clone(&id));
        self.by_destination.entry(destination).or_default().insert(Arc::clone(&id));
        self.ordered.insert(order(&row), Arc::clone(&row));
        self.rows.insert(id, Arc::clone(&row));
        self.touch(&row, at, touched);
    }

    pub(crate) fn remove(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if let Some(row) = self.take_out(id) {
            self.touch(&row, at, touched);
        }
    }

    fn take_out(&mut self, id: &str) -> Option<Arc<Intention>> {
        let row = self.rows.remove(id)?;
        self.ordered.remove(&order(&row));
        let (source, destination) = row.pair();
        for (side, party) in [(&mut self.by_source, source), (&mut self.by_destination, destination)] {
            let Some(ids) = side.get_mut(&party) else { continue };
            ids.remove(id);
            if ids.is_empty() {
                side.remove(&party);
            }
        }
        Some(row)
    }

    fn touch(&mut self, row: &Intention, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Intentions);
        touched.add(Topic::Intention((&*fold(&row.id)).into()));
        let (source, destination) = row.pair();
        touched.add(Topic::IntentionsFrom(Box::new(source.clone())));
        touched.add(Topic::IntentionsTo(Box::new(destination.clone())));
        let is_left = self.by_source.contains_key(&source);
        self.sources.note(source, at, is_left);
        let is_left = self.by_destination.contains_key(&destination);
        self.destinations.note(destination, at, is_left);
    }

    /// All of them in deciding order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Intention>> {
        self.ordered.values()
    }

    /// By folded id.
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Intention>> {
        self.rows.get(id)
    }

    /// The one for exactly this pair.
    pub(crate) fn of_pair(&self, pair: &(Party, Party)) -> Option<&Arc<Intention>> {
        let ids = self.by_destination.get(&pair.1)?;
        ids.iter().filter_map(|id| self.rows.get(id)).find(|row| row.pair().0 == pair.0)
    }

    /// Those whose given side covers a name, in deciding order.
    pub(crate) fn matching(&self, side: MatchSide, namespace: &str, name: &str) -> Vec<Arc<Intention>> {
        let by_side = match side {
            MatchSide::Source => &self.by_source,
            MatchSide::Destination => &self.by_destination,
        };
        let parties = covering(namespace, name);
        let ids = parties.iter().filter_map(|party| by_side.get(party)).flatten();
        let mut found: Vec<Arc<Intention>> = ids.filter_map(|id| self.rows.get(id)).map(Arc::clone).collect();
        found.sort_by_cached_key(|row| order(row));
        found
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    /// When an intention last changed.
    pub(crate) fn index_of(&self, id: &str) -> Revision {
        self.rows.get(id).map_or(self.index, |row| row.modified)
    }

    /// When one of those with exactly this party on a side last changed.
    pub(crate) fn index_of_party(&self, side: MatchSide, party: &Party) -> Revision {
        let marks = match side {
            MatchSide::Source => &self.sources,
            MatchSide::Destination => &self.destinations,
        };
        marks.index(party)
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
        self.sources.raise(floor);
        self.destinations.raise(floor);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        self.rows.iter().map(|(id, row)| (Key::Intention(Arc::clone(id)), row.modified))
    }
}

/// The parties of intentions that cover a name.
pub(crate) fn covering(namespace: &str, name: &str) -> BTreeSet<Party> {
    let namespace = namespace.to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    let wild = || "*".to_owned();
    BTreeSet::from([
        Party { namespace: wild(), name: wild() },
        Party { namespace: namespace.clone(), name: wild() },
        Party { namespace, name },
    ])
}

fn order(row: &Intention) -> Order {
    (std::cmp::Reverse(row.precedence()), row.source.clone(), row.destination.clone(), fold(&row.id))
}
