//! Typed fields out of a tree, with every problem collected and named by its path.
//!
//! A reader asks [`Fields`] for each key it knows; what it never asked for is an unknown key. Whether that matters,
//! how keys may be spelled, and what a lone object means where a list is wanted, is told by [`Rules`]: files are
//! strict, HTTP bodies are not. A field with a problem reads as absent, so the reader just goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::duration::GoDuration;
use crate::tree::{Member, Object, OneObjectList, Tree};

mod problem;
mod rules;

pub use problem::{Mistake, Problem, Problems, listed};
pub use rules::{Durations, Fractions, LONGEST_NAME, LoneObject, Rules, Spelling, UnknownKeys};

struct Slot<'t> {
    key: &'t str,
    member: &'t Member,
    asked: bool,
}

/// One object while it is being read.
pub struct Fields<'t, 'p> {
    slots: Vec<Slot<'t>>,
    /// `None` for a whole file.
    path: Option<Rc<str>>,
    line: u32,
    rules: Rules,
    problems: &'p mut Problems,
}

struct Found<'t> {
    path: Path,
    key: &'t str,
    member: &'t Member,
}

/// Where something stands. It is put into words when there is a problem, which there seldom is.
#[derive(Clone)]
enum Path {
    Field { object: Option<Rc<str>>, name: &'static str },
    Element(String),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Field { object, name } => f.write_str(&join(object.as_deref().unwrap_or_default(), name)),
            Path::Element(path) => f.write_str(path),
        }
    }
}

/// Reads `object` with `read`, then reports the keys that were not asked for. `path` is empty for a whole file.
pub fn object<T>(
    object: &Object,
    path: &str,
    rules: Rules,
    problems: &mut Problems,
    read: impl FnOnce(&mut Fields<'_, '_>) -> T,
) -> T {
    object_at(object, (!path.is_empty()).then(|| path.into()), rules, problems, read)
}

/// The same, with the path as it is kept.
fn object_at<T>(
    object: &Object,
    path: Option<Rc<str>>,
    rules: Rules,
    problems: &mut Problems,
    read: impl FnOnce(&mut Fields<'_, '_>) -> T,
) -> T {
    let slots = object.iter().map(|(key, member)| Slot { key, member, asked: false }).collect();
    let mut fields = Fields { slots, path, line: object.line(), rules, problems };
    let value = read(&mut fields);
    fields.report_unknown();
    value
}

impl<'t> Fields<'t, '_> {
    /// The rules this object is read by.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The path of this object, empty for a whole file.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_default()
    }

    /// The line on which this object starts, from 1; 0 when unknown.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The line on which a field is first given; 0 when it is not. Does not count as asking for it.
    pub fn line_of(&self, name: &'static str) -> u32 {
        let shown = (self.rules.spell)(name).shown;
        let slot = self.slots.iter().find(|slot| slot.key == shown);
        slot.or_else(|| self.slots.iter().find(|slot| slot.key.eq_ignore_ascii_case(shown)))
            .map_or(0, |slot| slot.member.line)
    }

    /// The path of one of its fields.
    pub fn path_of(&self, name: &'static str) -> String {
        join(self.path(), (self.rules.spell)(name).shown)
    }

    /// Whether there is anything but `null` under this key. Does not count as asking for it.
    pub fn has(&self, name: &'static str) -> bool {
        let spelling = (self.rules.spell)(name);
        std::iter::once(&spelling.shown)
            .chain(spelling.others)
            .filter_map(|candidate| self.slot(candidate))
            .any(|slot| !matches!(self.slots[slot].member.last(), Tree::Null))
    }

    /// Whether this key was written at all, be it with `null`. Does not count as asking for it.
    pub fn mentions(&self, name: &'static str) -> bool {
        let spelling = (self.rules.spell)(name);
        std::iter::once(&spelling.shown).chain(spelling.others).any(|candidate| self.slot(candidate).is_some())
    }

    /// Reports a value that makes no sense; the text should name the field.
    pub fn refuse(&mut self, name: &'static str, text: impl Into<String>) {
        let path = self.path_of(name);
        let line = self.line_of(name);
        self.problems.push(Problem { mistake: Mistake::Value, path, line, text: text.into() });
    }

    /// A text.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.scalar(name, "string", |tree| match tree {
            Tree::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// A text that names something.
    pub fn name(&mut self, name: &'static str) -> Option<String> {
        let text = self.text(name)?;
        let longest = self.rules.longest_name;
        if text.len() <= longest {
            return Some(text);
        }
        let (path, line) = (self.path_of(name), self.line_of(name));
        let text = format!("'{path}' has {} bytes, and a name has at most {longest}", text.len());
        self.problems.push(Problem { mistake: Mistake::Form, path, line, text });
        None
    }

    /// `true` or `false`; neither texts nor numbers count.
    pub fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.scalar(name, "bool", |tree| match tree {
            Tree::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An integer.
    pub fn int(&mut self, name: &'static str) -> Option<i64> {
        let found = self.find(name)?;
        match found.member.last() {
            Tree::Number(number) => {
                if let Some(whole) = number.as_i64() {
                    return Some(whole);
                }
                let value = number.as_f64().unwrap_or_default();
                let in_range = value.abs() < 9.2e18;
                if in_range && self.rules.fractions == Fractions::Truncated {
                    #[expect(clippy::cast_possible_truncation, reason = "the whole part is what is wanted")]
                    return Some(value as i64);
                }
                let problem = if in_range { "got the fraction" } else { "out of range:" };
                self.wrong(&found, Mistake::Type, format!("'{}' expected type 'int', {problem} {value}", found.path))
            }
            other => self.wrong_type(&found, "int", other),
        }
    }

    /// An integer from 0 to 2³²-1.
    pub fn unsigned(&mut self, name: &'static str) -> Option<u32> {
        self.natural(name)
    }

    /// An integer from 0 that fits the type.
    pub fn natural<N: TryFrom<u64>>(&mut self, name: &'static str) -> Option<N> {
        let found = self.find(name)?;
        match found.member.last() {
            Tree::Number(number) => {
                let value = number.as_f64().unwrap_or_default();
                let is_fraction = number.as_u64().is_none() && value.fract() != 0.0;
                if is_fraction && self.rules.fractions != Fractions::Truncated {
                    let text = format!("'{}' expected type 'uint', got the fraction {value}", found.path);
                    return self.wrong(&found, Mistake::Type, text);
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within range, as tested")]
                let truncated = || (0.0..1.8e19).contains(&value).then_some(value as u64);
                match number.as_u64().or_else(truncated).map(N::try_from) {
                    Some(Ok(whole)) => Some(whole),
                    _ => {
                        let text = format!("cannot parse '{}', {value:.6} overflows uint", found.path);
                        self.wrong(&found, Mistake::Type, text)
                    }
                }
            }
            other => self.wrong_type(&found, "uint", other),
        }
    }

    /// Any number.
    pub fn float(&mut self, name: &'static str) -> Option<f64> {
        self.scalar(name, "float64", |tree| match tree {
            Tree::Number(number) => number.as_f64(),
            _ => None,
        })
    }

    /// A list of numbers.
    pub fn floats(&mut self, name: &'static str) -> Option<Vec<f64>> {
        self.scalar(name, "slice", |tree| match tree {
            Tree::List(numbers) => numbers
                .iter()
                .map(|number| match number {
                    Tree::Number(number) => number.as_f64(),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// A duration; its message starts with the path.
    pub fn duration(&mut self, name: &'static str) -> Option<GoDuration> {
        let label = self.path_of(name);
        self.duration_of(name, &label)
    }

    /// A duration whose message starts with `label` instead of the path.
    pub fn duration_of(&mut self, name: &'static str, label: &str) -> Option<GoDuration> {
        let found = self.find(name)?;
        match (found.member.last(), self.rules.durations) {
            (Tree::Text(text), Durations::Text) => text.parse().map_or_else(
                |error| {
                    let text = format!("{label}: invalid duration: {text:?}: {error}");
                    self.wrong(&found, Mistake::Value, text)
                },
                Some,
            ),
            (Tree::Text(text), Durations::TextOrNanoseconds) => text.parse().map_or_else(
                |error| self.wrong(&found, Mistake::Form, format!("invalid {:?}: {error}", found.key)),
                Some,
            ),
            (Tree::Number(number), Durations::TextOrNanoseconds) => {
                #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
                let nanos = number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64);
                Some(GoDuration::from_nanos(nanos))
            }
            (other, Durations::Text) => self.wrong_type(&found, "string", other),
            (other, Durations::TextOrNanoseconds) => self.wrong_type(&found, "time.Duration", other),
        }
    }

    /// A list of texts. In HCL a key written several times gives one list of all.
    pub fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let found = self.find(name)?;
        let mut texts = Vec::new();
        for value in &found.member.values {
            match value {
                Tree::List(items) => self.push_texts(&found, items, &mut texts),
                Tree::Null => {}
                other => return self.no_list(&found, other),
            }
        }
        Some(texts)
    }

    fn push_texts(&mut self, found: &Found<'t>, items: &[Tree], texts: &mut Vec<String>) {
        for item in items {
            match item {
                Tree::Text(text) => texts.push(text.clone()),
                Tree::Null => texts.push(String::new()),
                other => {
                    let path = Path::Element(format!("{}[{}]", found.path, texts.len()));
                    let element = Found { path, ..*found };
                    self.wrong_type::<()>(&element, "string", other);
                    texts.push(String::new());
                }
            }
        }
    }

    /// A map of texts.
    pub fn text_map(&mut self, name: &'static str) -> Option<BTreeMap<String, String>> {
        let found = self.find(name)?;
        let object = self.only_object(&found)?;
        let mut map = BTreeMap::new();
        for (key, member) in object.iter() {
            match member.last() {
                Tree::Text(text) => {
                    map.insert(key.to_owned(), text.clone());
                }
                Tree::Null => {
                    map.insert(key.to_owned(), String::new());
                }
                other => {
                    let element = Found { path: Path::Element(format!("{}[{key}]", found.path)), key, member };
                    self.wrong_type::<()>(&element, "string", other);
                }
            }
        }
        Some(map)
    }

    /// A map of lists of texts (headers).
    pub fn texts_map(&mut self, name: &'static str) -> Option<BTreeMap<String, Vec<String>>> {
        let found = self.find(name)?;
        if self.rules.durations == Durations::TextOrNanoseconds && !is_header(found.member.last()) {
            let text = format!("invalid {:?}: agent: invalid format of 'header' field", found.key);
            return self.wrong(&found, Mistake::Form, text);
        }
        let object = self.only_object(&found)?;
        let mut map = BTreeMap::new();
        for (key, member) in object.iter() {
            let element = Found { path: Path::Element(format!("{}[{key}]", found.path)), key, member };
            let mut texts = Vec::new();
            for value in &member.values {
                match value {
                    Tree::List(items) => self.push_texts(&element, items, &mut texts),
                    Tree::Null => {}
                    other => {
                        self.no_list::<()>(&element, other);
                    }
                }
            }
            map.insert(key.to_owned(), texts);
        }
        Some(map)
    }

    /// One object with known fields. An empty list counts as absent, a list of one as the object (in files).
    pub fn object<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'_, '_>) -> T) -> Option<T> {
        let found = self.find(name)?;
        let inner = self.only_object(&found)?;
        let path = match &found.path {
            // A field of the whole, as is most often read: there is nothing to join.
            Path::Field { object: None, name } => Rc::from(*name),
            path => path.to_string().into(),
        };
        Some(object_at(inner, Some(path), self.rules, self.problems, read))
    }

    /// A list of objects with known fields.
    pub fn objects<T>(&mut self, name: &'static str, mut read: impl FnMut(&mut Fields<'_, '_>) -> T) -> Option<Vec<T>> {
        let found = self.find(name)?;
        let mut read_all = Vec::new();
        if let (other @ Tree::Object(_), LoneObject::IsError) = (found.member.last(), self.rules.lone_object) {
            return self.no_list(&found, other);
        }
        let mut position = 0;
        for value in &found.member.values {
            let items = match value {
                Tree::List(items) => items.as_slice(),
                Tree::Object(_) => std::slice::from_ref(value),
                Tree::Null => &[],
                other => return self.no_list(&found, other),
            };
            for item in items {
                let path = format!("{}[{position}]", found.path);
                position += 1;
                match item {
                    Tree::Object(inner) => {
                        read_all.push(object(inner, &path, self.rules, self.problems, &mut read));
                    }
                    Tree::Null => {}
                    other => {
                        let text = format!("'{path}' expected a map, got '{}'", kind(other, self.rules));
                        self.wrong::<()>(&Found { path: Path::Element(path), ..found }, Mistake::Type, text);
                    }
                }
            }
        }
        Some(read_all)
    }

    /// A map whose keys and values belong to the user.
    pub fn opaque(&mut self, name: &'static str) -> Option<Map<String, Value>> {
        self.opaque_with_lists(name, &[])
    }

    /// The same, where the members named in `lists` are lists of objects even when they hold only one.
    pub fn opaque_with_lists(&mut self, name: &'static str, lists: &[&str]) -> Option<Map<String, Value>> {
        let found = self.find(name)?;
        let object = self.only_object(&found)?;
        let one = self.rules.one_object_list;
        let mut map = object.to_map(one);
        for (key, member) in object.iter().filter(|(key, _)| lists.contains(key)) {
            if member.values.iter().all(|value| matches!(value, Tree::List(_) | Tree::Object(_))) {
                let elements = member.elements().iter().map(|element| element.to_value(one)).collect();
                map.insert(key.to_owned(), Value::Array(elements));
            }
        }
        Some(map)
    }

    /// Whatever stands there; `null` counts as absent.
    pub fn any(&mut self, name: &'static str) -> Option<&'t Member> {
        self.find(name).map(|found| found.member)
    }

    /// Reports a wrong type of a field that was read with [`Fields::any`].
    pub fn refuse_type(&mut self, name: &'static str, expected: &str, member: &Member) {
        let path = self.path_of(name);
        let text = format!(
            "'{path}' expected type '{expected}', got unconvertible type '{}'",
            go_type(member.last(), self.rules)
        );
        self.problems.push(Problem { mistake: Mistake::Type, path, line: member.line, text });
    }

    fn scalar<T>(&mut self, name: &'static str, expected: &str, read: impl FnOnce(&Tree) -> Option<T>) -> Option<T> {
        let found = self.find(name)?;
        match read(found.member.last()) {
            Some(value) => Some(value),
            None => self.wrong_type(&found, expected, found.member.last()),
        }
    }

    fn slot(&self, key: &str) -> Option<usize> {
        let mut other_case = None;
        // Most fields are not given, and mostly the length alone says that a key is another.
        for (position, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.key.len() == key.len()) {
            if slot.key == key {
                return Some(position);
            }
            if other_case.is_none() && !slot.asked && slot.key.eq_ignore_ascii_case(key) {
                other_case = Some(position);
            }
        }
        other_case
    }

    /// The member under this name, unless it is `null`. All accepted spellings count as asked for.
    fn find(&mut self, name: &'static str) -> Option<Found<'t>> {
        let spelling = (self.rules.spell)(name);
        let mut winner = None;
        for candidate in std::iter::once(&spelling.shown).chain(spelling.others) {
            if let Some(slot) = self.slot(candidate) {
                self.slots[slot].asked = true;
                winner = winner.or(Some(slot));
            }
        }
        let Slot { key, member, .. } = self.slots[winner?];
        if matches!(member.last(), Tree::Null) {
            return None;
        }
        let path = Path::Field { object: self.path.clone(), name: spelling.shown };
        Some(Found { path, key, member })
    }

    fn only_object(&mut self, found: &Found<'t>) -> Option<&'t Object> {
        let unwrap = self.rules.one_object_list == OneObjectList::Unwrap;
        match found.member.values.as_slice() {
            [Tree::Object(object)] => Some(object),
            [Tree::List(items)] if unwrap => match items.as_slice() {
                [] => None,
                [Tree::Object(object)] => Some(object),
                [_] => self.no_map(found, &items[0]),
                several => {
                    let text = format!("{}: one object expected, got a list of {}", found.path, several.len());
                    self.wrong(found, Mistake::Repeated, text)
                }
            },
            [other] => self.no_map(found, other),
            _ => self.wrong(found, Mistake::Repeated, format!("{}: given twice", found.path)),
        }
    }

    fn wrong<T>(&mut self, found: &Found<'_>, mistake: Mistake, text: String) -> Option<T> {
        let path = found.path.to_string();
        self.problems.push(Problem { mistake, path, line: found.member.line, text });
        None
    }

    fn wrong_type<T>(&mut self, found: &Found<'_>, expected: &str, got: &Tree) -> Option<T> {
        let got = go_type(got, self.rules);
        let text = format!("'{}' expected type '{expected}', got unconvertible type '{got}'", found.path);
        self.wrong(found, Mistake::Type, text)
    }

    fn no_list<T>(&mut self, found: &Found<'_>, got: &Tree) -> Option<T> {
        let got = kind(got, self.rules);
        let text = format!("'{}': source data must be an array or slice, got {got}", found.path);
        self.wrong(found, Mistake::Type, text)
    }

    fn no_map<T>(&mut self, found: &Found<'_>, got: &Tree) -> Option<T> {
        let text = format!("'{}' expected a map, got '{}'", found.path, kind(got, self.rules));
        self.wrong(found, Mistake::Type, text)
    }

    fn report_unknown(&mut self) {
        if self.rules.unknown_keys == UnknownKeys::Ignored {
            return;
        }
        for slot in self.slots.iter().filter(|slot| !slot.asked) {
            let path = join(self.path(), slot.key);
            let mistake = if slot.member.label { Mistake::Label } else { Mistake::UnknownKey };
            let text = format!("invalid config key {path}");
            self.problems.push(Problem { mistake, path, line: slot.member.line, text });
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn is_header(tree: &Tree) -> bool {
    let Tree::Object(object) = tree else { return false };
    object.iter().all(|(_, member)| match member.last() {
        Tree::List(items) => items.iter().all(|item| matches!(item, Tree::Text(_))),
        _ => false,
    })
}

/// What the original's readers call the type of a value.
fn go_type(tree: &Tree, rules: Rules) -> &'static str {
    match tree {
        Tree::Null => "nil",
        Tree::Bool(_) => "bool",
        Tree::Number(number) if number.is_f64() => "float64",
        Tree::Number(_) => rules.whole_number,
        Tree::Text(_) => "string",
        Tree::List(_) => "[]interface {}",
        Tree::Object(_) => "map[string]interface {}",
    }
}

/// The same without element types.
fn kind(tree: &Tree, rules: Rules) -> &'static str {
    match tree {
        Tree::List(_) => "slice",
        Tree::Object(_) => "map",
        other => go_type(other, rules),
    }
}

#[cfg(test)]
mod tests;
