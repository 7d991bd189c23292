//! Many layers into one: later ones win, lists are appended, maps are overlaid, and every value keeps its origin.

use std::collections::BTreeMap;
use std::fmt;

use lictor_model::health::CheckSpec;
use lictor_model::service::Definition;
use lictor_notation::duration::GoDuration;
use serde_json::{Map, Value};

use super::keys::{self, Disposition, KEYS, Kind, Reason, Reload};
use super::layer::{Declared, Layer, Setting, Written};
use super::report::Origin;
use super::watch::Watch;

/// All values that are set, by the user or by default, under the names that count.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// Service definitions of all sources, in order.
    pub(crate) services: Vec<Declared<Definition>>,
    /// Check definitions of all sources, in order.
    pub(crate) checks: Vec<Declared<CheckSpec>>,
    /// Watches of all sources, in order.
    pub(crate) watches: Vec<Declared<Watch>>,
    /// Old names the user wrote, and the names that count.
    pub(crate) aliases: Vec<(&'static str, &'static str)>,
}

// Values may be secrets, so only the names are shown.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// The one object that a later source replaces as a whole.
const REPLACED_AS_A_WHOLE: &str = "dns_config.soa.";

impl Settings {
    /// Merges layers, the first one weakest.
    pub(crate) fn merge(layers: impl IntoIterator<Item = Layer>) -> Settings {
        let mut settings = Settings::default();
        let mut defaults = BTreeMap::new();
        for layer in layers {
            let Layer { settings: values, services, checks, watches } = layer;
            if values.keys().any(|path| path.starts_with(REPLACED_AS_A_WHOLE)) {
                settings.values.retain(|path, _| !path.starts_with(REPLACED_AS_A_WHOLE));
                settings
                    .values
                    .extend(defaults.iter().map(|(path, setting): (&&'static str, &Setting)| (*path, setting.clone())));
            }
            for (path, setting) in values {
                if setting.origin == Origin::Default && path.starts_with(REPLACED_AS_A_WHOLE) {
                    defaults.insert(path, setting.clone());
                }
                settings.put(path, setting);
            }
            settings.services.extend(services);
            settings.checks.extend(checks);
            settings.watches.extend(watches);
        }
        settings.resolve_other_names();
        settings
    }

    fn put(&mut self, path: &'static str, later: Setting) {
        let Some(earlier) = self.values.get_mut(path) else {
            self.values.insert(path, later);
            return;
        };
        match (&mut earlier.value, later.value) {
            (Written::Texts(all), Written::Texts(more)) => all.extend(more),
            (Written::Objects(all), Written::Objects(more)) => all.extend(more),
            (Written::TextMap(all), Written::TextMap(more)) => all.extend(more),
            (Written::DurationMap(all), Written::DurationMap(more)) => all.extend(more),
            (Written::Opaque(all), Written::Opaque(more)) => all.extend(more),
            (value, replacement) => *value = replacement,
        }
        earlier.origin = later.origin;
    }

    /// Moves values from old and second names to the names that count, which win where both are set.
    fn resolve_other_names(&mut self) {
        for key in KEYS {
            let (target, old) = match key.disposition {
                Disposition::Alias(target) => (target, true),
                Disposition::SameAs(target) => (target, false),
                _ => continue,
            };
            let Some(setting) = self.values.get(key.path).filter(|setting| setting.origin.is_user()) else { continue };
            // Its presence alone means something, so it counts even when it is empty.
            let matters = !setting.value.is_empty() && !is_default(key, &setting.value);
            if old && (matters || key.path == "acl_datacenter") {
                self.aliases.push((key.path, target));
            }
            if matters && !self.is_given(target) {
                let setting = setting.clone();
                self.values.insert(target, setting);
            }
        }
    }

    /// Whether the user wrote this key, in whatever source.
    pub(crate) fn is_given(&self, path: &str) -> bool {
        self.values.get(path).is_some_and(|setting| setting.origin.is_user())
    }

    /// Where a value comes from.
    pub(crate) fn origin(&self, path: &str) -> Origin {
        self.values.get(path).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// The keys the user wrote with a value that is not the default, sorted by path.
    pub(crate) fn changed_by_user(&self) -> impl Iterator<Item = &'static keys::Key> {
        self.values.iter().filter_map(|(path, setting)| {
            let key = keys::find(path)?;
            let matters = setting.origin.is_user() && !setting.value.is_empty() && !is_default(key, &setting.value);
            matters.then_some(key)
        })
    }

    /// Keys whose value differs between both and which only a restart applies.
    pub(crate) fn needing_restart(&self, newer: &Settings) -> Vec<&'static str> {
        let differs = |path: &str| {
            let value = |settings: &Settings| settings.values.get(path).map(|setting| setting.value.clone());
            value(self) != value(newer)
        };
        let fixed = KEYS.iter().filter(|key| key.reload == Reload::NeedsRestart);
        fixed
            .filter(|key| matches!(key.disposition, Disposition::Honoured | Disposition::NoEffectOnServers(_)))
            .map(|key| key.path)
            .filter(|path| differs(path))
            .collect()
    }

    /// A key as it counts, in JSON; what nobody can change shows what it is.
    pub(crate) fn shown(&self, path: &str) -> Value {
        let Some(key) = keys::find(path) else { return Value::Null };
        let built_in = super::layer::built_in(key.kind, key.default);
        let is_constant = key.disposition == Disposition::NoEffect(Reason::Constant);
        match self.value(path).filter(|_| !is_constant).unwrap_or(&built_in) {
            Written::Flag(flag) => (*flag).into(),
            Written::Int(value) => (*value).into(),
            Written::Float(value) => shown_number(*value),
            Written::Duration(duration) => duration.to_string().into(),
            Written::Texts(texts) => texts.clone().into(),
            Written::TextMap(map) => map.iter().map(|(name, text)| (name.clone(), text.clone())).collect(),
            Written::DurationMap(map) => map.iter().map(|(name, time)| (name.clone(), time.to_string())).collect(),
            Written::Opaque(map) => Value::Object(map.clone()),
            Written::Objects(all) => Value::Array(all.clone()),
            // Nothing of a kind that has no default.
            Written::Text(text) if text.is_empty() => match key.kind {
                Kind::Texts | Kind::Objects => Value::Array(Vec::new()),
                Kind::TextMap | Kind::DurationMap | Kind::Opaque => Value::Object(Map::new()),
                _ => text.as_str().into(),
            },
            Written::Text(text) => text.as_str().into(),
        }
    }

    fn value(&self, path: &str) -> Option<&Written> {
        debug_assert!(keys::find(path).is_some(), "no key {path}");
        self.values.get(path).map(|setting| &setting.value)
    }

    /// A flag; false when nobody sets it.
    pub(crate) fn flag(&self, path: &str) -> bool {
        self.flag_if_set(path).unwrap_or_default()
    }

    /// A flag, if anybody sets it.
    pub(crate) fn flag_if_set(&self, path: &str) -> Option<bool> {
        match self.value(path)? {
            Written::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A number; 0 when nobody sets it.
    pub(crate) fn int(&self, path: &str) -> i64 {
        match self.value(path) {
            Some(Written::Int(value)) => *value,
            _ => 0,
        }
    }

    /// A number that may have a fraction; 0 when nobody sets it.
    pub(crate) fn float(&self, path: &str) -> f64 {
        match self.value(path) {
            Some(Written::Float(value)) => *value,
            _ => 0.0,
        }
    }

    /// A text; empty when nobody sets it.
    pub(crate) fn text(&self, path: &str) -> &str {
        match self.value(path) {
            Some(Written::Text(text)) => text,
            _ => "",
        }
    }

    /// A duration that may be negative.
    pub(crate) fn duration(&self, path: &str) -> GoDuration {
        match self.value(path) {
            Some(Written::Duration(duration)) => *duration,
            _ => GoDuration::default(),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, path: &str) -> Vec<String> {
        match self.value(path) {
            Some(Written::Texts(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    /// A map of texts.
    pub(crate) fn text_map(&self, path: &str) -> BTreeMap<String, String> {
        match self.value(path) {
            Some(Written::TextMap(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// A map of durations.
    pub(crate) fn duration_map(&self, path: &str) -> BTreeMap<String, GoDuration> {
        match self.value(path) {
            Some(Written::DurationMap(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// A map whose shape is somebody else's.
    pub(crate) fn opaque(&self, path: &str) -> Map<String, Value> {
        match self.value(path) {
            Some(Written::Opaque(map)) => map.clone(),
            _ => Map::new(),
        }
    }

    /// How many objects a list has.
    pub(crate) fn objects(&self, path: &str) -> &[Value] {
        match self.value(path) {
            Some(Written::Objects(all)) => all,
            _ => &[],
        }
    }
}

/// A number without a fraction is shown as a whole one.
fn shown_number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}

fn is_default(key: &keys::Key, value: &Written) -> bool {
    match (key.default, value) {
        // Old names have no default of their own; false and 0s say nothing there.
        ("", Written::Flag(flag)) => !flag && matches!(key.disposition, Disposition::Alias(_)),
        ("", Written::Duration(duration)) => duration.nanos() == 0,
        ("", _) => false,
        (default, value) => *value == super::layer::built_in(key.kind, default),
    }
}
