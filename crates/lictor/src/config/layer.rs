//! One source as written: the keys it sets, the definitions it brings, and where each stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use lictor_api::definition;
use lictor_model::health::CheckSpec;
use lictor_model::service::Definition;
use lictor_notation::Tree;
use lictor_notation::decode::{self, Fields, LoneObject, Mistake, Problems, Rules};
use lictor_notation::duration::GoDuration;
use lictor_notation::tree::{Object, OneObjectList};
use serde_json::{Map, Value};

use super::keys::{self, KEYS, Key, Kind};
use super::report::{Group, Origin, Problem, Stage};
use super::watch::Watch;

/// A value as written, of the right type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    Flag(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Duration(GoDuration),
    Texts(Vec<String>),
    TextMap(BTreeMap<String, String>),
    DurationMap(BTreeMap<String, GoDuration>),
    Opaque(Map<String, Value>),
    Objects(Vec<Value>),
}

impl Written {
    /// Whether it says as little as not saying anything.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Written::Text(text) => text.is_empty(),
            Written::Texts(texts) => texts.is_empty(),
            Written::TextMap(map) => map.is_empty(),
            Written::DurationMap(map) => map.is_empty(),
            Written::Opaque(map) => map.is_empty(),
            Written::Objects(all) => all.is_empty(),
            Written::Flag(_) | Written::Int(_) | Written::Float(_) | Written::Duration(_) => false,
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) value: Written,
    pub(crate) origin: Origin,
}

/// A definition and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared<T> {
    /// The definition.
    pub(crate) value: T,
    /// The file and line it starts at.
    pub(crate) origin: Origin,
    /// Its path in that file: `services[2]`.
    pub(crate) path: String,
}

/// Everything one source says.
#[derive(Clone, Default)]
pub(crate) struct Layer {
    pub(crate) settings: BTreeMap<&'static str, Setting>,
    pub(crate) services: Vec<Declared<Definition>>,
    pub(crate) checks: Vec<Declared<CheckSpec>>,
    pub(crate) watches: Vec<Declared<Watch>>,
}

impl Layer {
    /// Adds one value.
    pub(crate) fn set(&mut self, path: &'static str, value: Written, origin: Origin) {
        self.settings.insert(path, Setting { value, origin });
    }

    /// The built-in values.
    pub(crate) fn defaults() -> Layer {
        let mut layer = Layer::default();
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            layer.set(key.path, built_in(key.kind, key.default), Origin::Default);
        }
        layer
    }

    /// What `-dev` changes about them.
    pub(crate) fn dev_defaults() -> Layer {
        let mut layer = Layer::default();
        for key in KEYS {
            if let Some(default) = key.dev_default {
                layer.set(key.path, built_in(key.kind, default), Origin::Dev);
            }
        }
        layer
    }
}

/// A default of the table; a test reads all of them.
pub(crate) fn built_in(kind: Kind, text: &str) -> Written {
    match kind {
        Kind::Flag | Kind::Switch => Written::Flag(text == "true"),
        Kind::Int | Kind::Unsigned => Written::Int(text.parse().unwrap_or_default()),
        Kind::Float => Written::Float(text.parse().unwrap_or_default()),
        Kind::Duration => Written::Duration(text.parse().unwrap_or_default()),
        _ => Written::Text(text.to_owned()),
    }
}

/// Reads the object of one file or fragment. `rules` are those of its language.
pub(crate) fn read(object: &Object, rules: Rules, name: &Arc<str>, problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::default();
    let mut found = Problems::new();
    let rules = rules.spelled(definition::file_spelling);
    decode::object(object, "", rules, &mut found, |fields| group(fields, "", name, &mut layer));
    let mut found: Vec<decode::Problem> = found.into_iter().collect();
    // The original looks for unknown keys only after the types are right.
    found.sort_by_key(|problem| !matches!(problem.mistake, Mistake::Type | Mistake::Form));
    problems.extend(found.into_iter().map(|problem| as_config_problem(problem, name)));
    layer
}

/// What a shape that is wrong means for the user.
fn as_config_problem(problem: decode::Problem, name: &Arc<str>) -> Problem {
    let decode::Problem { mistake, path, line, text } = problem;
    let head = format!("Error parsing {name}");
    let (stage, group, remedy, text) = match mistake {
        Mistake::UnknownKey => (Stage::Parse, Some(Group { head, verb: "occurred" }), keys::later::hint(&path), text),
        Mistake::Label => {
            let remedy = "labels are not used; write name = \"…\" inside the block".to_owned();
            (Stage::Parse, Some(Group { head, verb: "occurred" }), remedy, text)
        }
        Mistake::Repeated => {
            let remedy = once(&path).to_owned();
            let text = if text.ends_with("given twice") { format!("{text} in {name}") } else { text };
            (Stage::Parse, Some(Group { head, verb: "occurred" }), remedy, text)
        }
        Mistake::Type | Mistake::Form => {
            let remedy = keys::find(&path).map_or_else(|| expected(&text), |key| key.kind.example().to_owned());
            (Stage::Parse, Some(Group { head, verb: "decoding" }), remedy, text)
        }
        Mistake::Value => {
            let remedy = keys::find(&path).map_or("write a duration such as \"10s\"", |key| key.kind.example());
            let remedy = if text.contains("unknown status") { "write one of these words" } else { remedy };
            (Stage::Rules, None, remedy.to_owned(), text)
        }
    };
    Problem { stage, origin: Origin::File { name: name.clone(), line }, key: path, text, remedy, group }
}

/// The remedy for what a file says twice. Who writes two services or checks into one file wants to have both.
fn once(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or(path) {
        "service" => "write services = [{ … }, { … }], or give each a file of its own",
        "check" => "write checks = [{ … }, { … }]",
        _ => "write it once, with everything in it",
    }
}

/// The remedy for a wrong type inside a definition, where the table knows no key.
fn expected(text: &str) -> String {
    let kind = if text.contains("expected type 'int'") || text.contains("overflows uint") {
        Kind::Int
    } else if text.contains("expected type 'bool'") {
        Kind::Flag
    } else if text.contains("expected type 'string'") {
        Kind::Text
    } else if text.contains("array or slice") {
        return "write a list: [ … ]".to_owned();
    } else {
        Kind::Service
    };
    kind.example().to_owned()
}

fn group(fields: &mut Fields<'_, '_>, prefix: &'static str, name: &Arc<str>, layer: &mut Layer) {
    let mut done = "";
    for key in KEYS {
        let Some(rest) = key.path.strip_prefix(prefix) else { continue };
        match rest.split_once('.') {
            None => leaf(fields, key, rest, name, layer),
            Some((inner, _)) if inner != done => {
                // The table keeps the keys of a group together, so each group is met once.
                done = inner;
                let inner_prefix = &key.path[..prefix.len() + inner.len() + 1];
                fields.object(inner, |fields| group(fields, inner_prefix, name, layer));
            }
            Some(_) => {}
        }
    }
}

fn leaf(fields: &mut Fields<'_, '_>, key: &'static Key, leaf: &'static str, name: &Arc<str>, layer: &mut Layer) {
    let origin = Origin::File { name: name.clone(), line: fields.line_of(leaf) };
    let value = match key.kind {
        Kind::Flag => fields.flag(leaf).map(Written::Flag),
        Kind::Int => fields.int(leaf).map(Written::Int),
        Kind::Unsigned => fields.unsigned(leaf).map(|value| Written::Int(i64::from(value))),
        Kind::Float => fields.float(leaf).map(Written::Float),
        Kind::Text | Kind::Secret => fields.text(leaf).map(Written::Text),
        Kind::Duration => fields.duration(leaf).map(Written::Duration),
        Kind::Texts => fields.texts(leaf).map(Written::Texts),
        Kind::TextMap => fields.text_map(leaf).map(Written::TextMap),
        Kind::DurationMap => durations(fields, leaf).map(Written::DurationMap),
        Kind::Opaque => fields.opaque(leaf).map(Written::Opaque),
        Kind::Switch => switch(fields, leaf).map(Written::Flag),
        Kind::Objects => objects(fields, leaf).map(Written::Objects),
        Kind::Service | Kind::Services | Kind::Check | Kind::Checks | Kind::Watches => {
            definitions(fields, key.kind, leaf, name, layer);
            None
        }
    };
    if let Some(value) = value {
        layer.set(key.path, value, origin);
    }
}

fn definitions(fields: &mut Fields<'_, '_>, kind: Kind, leaf: &'static str, name: &Arc<str>, layer: &mut Layer) {
    fn declared<T>(fields: &mut Fields<'_, '_>, name: &Arc<str>, value: T) -> Declared<T> {
        let origin = Origin::File { name: name.clone(), line: fields.line() };
        Declared { value, origin, path: fields.path().to_owned() }
    }
    let service = |fields: &mut Fields<'_, '_>| {
        let value = definition::service_fields(fields);
        declared(fields, name, value)
    };
    let check = |fields: &mut Fields<'_, '_>| {
        let value = definition::check_fields(fields);
        declared(fields, name, value)
    };
    match kind {
        Kind::Service => layer.services.extend(fields.object(leaf, service)),
        Kind::Services => layer.services.extend(fields.objects(leaf, service).unwrap_or_default()),
        Kind::Check => layer.checks.extend(fields.object(leaf, check)),
        Kind::Checks => layer.checks.extend(fields.objects(leaf, check).unwrap_or_default()),
        _ => {
            let watches = fields.objects(leaf, |fields| {
                let value = Watch::read(fields);
                declared(fields, name, value)
            });
            layer.watches.extend(watches.unwrap_or_default());
        }
    }
}

fn durations(fields: &mut Fields<'_, '_>, leaf: &'static str) -> Option<BTreeMap<String, GoDuration>> {
    let path = fields.path_of(leaf);
    let mut map = BTreeMap::new();
    for (name, text) in fields.text_map(leaf)? {
        match text.parse::<GoDuration>() {
            Ok(duration) => {
                map.insert(name, duration);
            }
            Err(error) => {
                fields.refuse(leaf, format!("{path}[{name:?}]: invalid duration: {text:?}: {error}"));
            }
        }
    }
    Some(map)
}

/// A flag that older documentation writes as a word.
fn switch(fields: &mut Fields<'_, '_>, leaf: &'static str) -> Option<bool> {
    let member = fields.any(leaf)?;
    match member.last() {
        Tree::Bool(flag) => Some(*flag),
        Tree::Text(word) if word == "enabled" => Some(true),
        Tree::Text(word) if word == "disabled" => Some(false),
        _ => {
            fields.refuse_type(leaf, "bool", member);
            None
        }
    }
}

fn objects(fields: &mut Fields<'_, '_>, leaf: &'static str) -> Option<Vec<Value>> {
    let member = fields.any(leaf)?;
    let lone = member.values.iter().any(|value| !matches!(value, Tree::List(_)));
    if lone && fields.rules().lone_object == LoneObject::IsError {
        fields.refuse_type(leaf, "list of objects", member);
        return None;
    }
    Some(member.elements().iter().map(|element| element.to_value(OneObjectList::Unwrap)).collect())
}

#[cfg(test)]
mod tests {
    use lictor_notation::hcl;

    use super::*;

    #[test]
    fn every_default_of_the_table_is_of_its_type() {
        for key in KEYS {
            for default in [Some(key.default), key.dev_default].into_iter().flatten().filter(|text| !text.is_empty()) {
                let readable = match key.kind {
                    Kind::Flag => default == "true" || default == "false",
                    Kind::Int | Kind::Unsigned => default.parse::<i64>().is_ok(),
                    Kind::Float => default.parse::<f64>().is_ok(),
                    Kind::Duration => default.parse::<GoDuration>().is_ok_and(|duration| {
                        // Written as the user would, so 72h and not 72h0m0s, but the same.
                        duration.nanos() >= 0
                    }),
                    Kind::Text => true,
                    other => panic!("{}: no defaults for {other:?}", key.path),
                };
                assert!(readable, "{}: {default}", key.path);
            }
        }
    }

    #[test]
    fn values_know_their_line_and_groups_are_read_by_the_table() {
        let source = "server = true\nports {\n  http = 1\n  dns = -1\n}\ndns_config {\n soa {\n  retry = 7\n } }";
        let mut problems = Vec::new();
        let layer = read(&hcl::parse(source).unwrap(), Rules::HCL, &"a.hcl".into(), &mut problems);
        assert_eq!(problems, []);
        let setting = &layer.settings["ports.dns"];
        assert_eq!((&setting.value, setting.origin.to_string().as_str()), (&Written::Int(-1), "a.hcl:4"));
        assert_eq!(layer.settings["dns_config.soa.retry"].value, Written::Int(7));
        assert_eq!(layer.settings.len(), 4);
    }
}
