//! What both languages are read into: values, and objects that still know which key was written how often and where.

use std::collections::BTreeMap;
use std::collections::btree_map;

use serde_json::{Map, Number, Value};
use smallvec::{SmallVec, smallvec};

/// One value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// JSON's `null`; HCL has none.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number. One without a fractional part is an integer, however it was written.
    Number(Number),
    /// Text, with its escapes resolved.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A block, or an object.
    Object(Object),
}

/// Members by their exact key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// Line on which it starts, from 1; 0 when unknown.
    line: u32,
    /// How many members were written, repeated ones included.
    written: u32,
    members: BTreeMap<String, Member>,
}

/// Everything that was written under one key of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Line of the first occurrence, from 1; 0 when it does not matter (HTTP bodies).
    pub line: u32,
    /// The key is an HCL block label, as in `service "web" {}`.
    pub label: bool,
    /// One value, or in HCL several: one for each time the key was written. Never empty.
    pub values: SmallVec<[Tree; 1]>,
    /// Where each of them stands among all that the object holds.
    places: SmallVec<[u32; 2]>,
}

impl Member {
    /// The value that counts when only one can: the one written last.
    pub fn last(&self) -> &Tree {
        self.values.last().unwrap_or(&Tree::Null)
    }
}

impl Object {
    pub(crate) fn starting_at(line: u32) -> Object {
        Object { line, written: 0, members: BTreeMap::new() }
    }

    /// Line on which it starts, from 1; 0 when unknown.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Adds one more occurrence of `key` (HCL).
    pub(crate) fn append(&mut self, key: String, line: u32, label: bool, value: Tree) {
        let place = self.next_place();
        match self.members.entry(key) {
            btree_map::Entry::Vacant(slot) => {
                slot.insert(Member { line, label, values: smallvec![value], places: smallvec![place] });
            }
            btree_map::Entry::Occupied(mut slot) => {
                slot.get_mut().values.push(value);
                slot.get_mut().places.push(place);
            }
        }
    }

    fn next_place(&mut self) -> u32 {
        self.written = self.written.saturating_add(1);
        self.written
    }

    /// Sets `key`, forgetting earlier occurrences (JSON).
    pub(crate) fn replace(&mut self, key: String, line: u32, value: Tree) {
        let places = smallvec![self.next_place()];
        self.members.insert(key, Member { line, label: false, values: smallvec![value], places });
    }

    /// The member with exactly this key.
    pub fn get(&self, key: &str) -> Option<&Member> {
        self.members.get(key)
    }

    /// All members, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(key, member)| (key.as_str(), member))
    }

    /// All members in the order in which they were written, a repeated key once for each time, with the line of its
    /// first occurrence.
    pub fn in_order(&self) -> Vec<(&str, u32, &Tree)> {
        let mut all: Vec<(u32, &str, u32, &Tree)> = self
            .iter()
            .flat_map(|(key, member)| {
                member.places.iter().zip(&member.values).map(move |(place, value)| (*place, key, member.line, value))
            })
            .collect();
        all.sort_by_key(|(place, ..)| *place);
        all.into_iter().map(|(_, key, line, value)| (key, line, value)).collect()
    }

    /// How many different keys there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// What happens to a list that holds exactly one object, inside a map whose shape nobody here knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneObjectList {
    /// It becomes that object: HCL cannot tell the two apart, and in files the original treats JSON alike.
    Unwrap,
    /// It stays a list.
    Keep,
}

impl Tree {
    /// The value without any memory of how it was written. A key written several times becomes a list of its
    /// objects, one list of all its lists, or the last of its scalars.
    pub fn to_value(&self, one: OneObjectList) -> Value {
        match self {
            Tree::Null => Value::Null,
            Tree::Bool(flag) => Value::Bool(*flag),
            Tree::Number(number) => Value::Number(number.clone()),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => match items.as_slice() {
                [Tree::Object(only)] if one == OneObjectList::Unwrap => Value::Object(only.to_map(one)),
                items => Value::Array(items.iter().map(|item| item.to_value(one)).collect()),
            },
            Tree::Object(object) => Value::Object(object.to_map(one)),
        }
    }
}

impl Object {
    /// See [`Tree::to_value`].
    pub fn to_map(&self, one: OneObjectList) -> Map<String, Value> {
        self.iter().map(|(key, member)| (key.to_owned(), member.to_value(one))).collect()
    }
}

impl Member {
    /// See [`Tree::to_value`].
    pub fn to_value(&self, one: OneObjectList) -> Value {
        match self.values.as_slice() {
            [only] => only.to_value(one),
            several if several.iter().all(|value| matches!(value, Tree::Object(_) | Tree::List(_))) => {
                Value::Array(self.elements().iter().map(|element| element.to_value(one)).collect())
            }
            _ => self.last().to_value(one),
        }
    }

    /// All elements when this is read as a list: an object counts as one element, a list as its own.
    pub fn elements(&self) -> Vec<&Tree> {
        let mut elements = Vec::new();
        for value in &self.values {
            match value {
                Tree::List(items) => elements.extend(items),
                other => elements.push(other),
            }
        }
        elements
    }
}

/// An integer where the value is one, so that `2.0` and `2e0` read and print like `2`, as clients expect.
pub(crate) fn number(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: up to here every integer is a float of its own
    #[expect(clippy::cast_possible_truncation, reason = "integral and within 2^53, as tested")]
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}
