//! The configuration of the CA: read in both spellings, checked, shown without its secrets, compared.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::SignedDuration;
use lictor_model::Opaque;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::limit::Limit;
use crate::serial::colon_hex;
use crate::{Error, pem};

/// Who provides the CA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// The agent itself; called `consul` for the sake of those who configure it.
    #[default]
    BuiltIn,
}

impl Provider {
    /// Reads a name. It must be given: a body that is something else shall not replace the settings.
    pub fn parse(name: &str) -> Result<Provider, Error> {
        match name {
            "consul" => Ok(Provider::BuiltIn),
            other => Err(Error::UnknownProvider(other.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::BuiltIn => "consul",
        }
    }
}

/// How keys are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// `LeafCertTTL`, over HTTP and where it is stored.
    Api,
    /// `leaf_cert_ttl`, in configuration files.
    File,
}

/// When a configuration leads to a new root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// When it names another key or root than the one in use. One that names none keeps what is configured: the
    /// original takes it as a wish for a new root, so that operators rotate by changing a lifetime.
    WhenChanged,
    /// In any case.
    Forced,
}

/// What a new configuration changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// How certificates are issued.
    Settings,
    /// The root.
    Root,
}

/// What stands for a secret in what is shown, and for the stored secret in what is sent.
const HIDDEN: &str = "hidden";

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Leaves live so long unless said otherwise.
const DEFAULT_LEAF_TTL: Duration = Duration::from_secs(72 * 3600);

/// Shown by default. Nothing rotates by itself until the operator says so.
const DEFAULT_ROTATION_PERIOD: Duration = Duration::from_secs(2160 * 3600);

/// So many certificates are signed in a second unless said otherwise.
const DEFAULT_CSR_RATE: f64 = 50.0;

/// The settings of the built-in provider.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// How long leaves live.
    pub leaf_ttl: Duration,
    /// Kept and shown.
    pub rotation_period: Duration,
    /// How many certificates may be signed.
    pub limit: Limit,
    private_key: Option<Zeroizing<String>>,
    root_cert: Option<String>,
    /// What is shown: the keys as given, in the API's spelling, without the private key. Null if nothing was given.
    shown: Option<Opaque>,
}

impl Default for Settings {
    /// The settings of a cluster whose operator gave none; unlike an explicit nothing, they are shown.
    fn default() -> Self {
        let shown = [("LeafCertTTL", "72h"), ("RotationPeriod", "2160h")];
        let shown = shown.map(|(key, value)| (key.to_owned(), Value::from(value)));
        Settings { shown: Some(Opaque::from_iter(shown)), ..Settings::nothing() }
    }
}

impl Settings {
    fn nothing() -> Settings {
        Settings {
            leaf_ttl: DEFAULT_LEAF_TTL,
            rotation_period: DEFAULT_ROTATION_PERIOD,
            limit: Limit::PerSecond(DEFAULT_CSR_RATE),
            private_key: None,
            root_cert: None,
            shown: None,
        }
    }

    /// Reads a configuration. `stored` is the one in force: its key is meant by `hidden`, and kept when nothing is said
    /// about key and root, unless the rotation is forced.
    pub fn parse(
        config: Option<&Opaque>,
        spelling: Spelling,
        stored: Option<&Settings>,
        rotation: Rotation,
    ) -> Result<Settings, Error> {
        let mut settings = Settings::nothing();
        let mut rate = DEFAULT_CSR_RATE;
        let mut at_once = 0;
        let mut validate = true;
        let mut names_key = false;
        for (name, value) in config.into_iter().flatten() {
            let key = Name::find(name, spelling).ok_or_else(|| unknown(name, spelling))?;
            let wrong = |why: &str| Error::Setting(format!("{name}: {why}"));
            match key {
                Name::LeafCertTtl => settings.leaf_ttl = duration(value).map_err(|why| wrong(&why))?,
                Name::RotationPeriod => settings.rotation_period = duration(value).map_err(|why| wrong(&why))?,
                Name::CsrMaxPerSecond => {
                    rate = number(value).filter(|rate| *rate >= 0.0).ok_or_else(|| wrong("not a rate"))?;
                }
                Name::CsrMaxConcurrent => {
                    let whole = number(value).filter(|most| *most >= 0.0 && most.fract() == 0.0);
                    at_once = whole.ok_or_else(|| wrong("not a number of requests"))? as usize;
                }
                Name::SkipValidate => validate = !value.as_bool().ok_or_else(|| wrong("neither true nor false"))?,
                Name::PrivateKey => {
                    let text = value.as_str().ok_or_else(|| wrong("not a text"))?;
                    names_key |= !text.is_empty();
                    settings.private_key = match text {
                        "" => None,
                        HIDDEN => {
                            let key = stored.and_then(|stored| stored.private_key.clone());
                            Some(key.ok_or_else(|| wrong("'hidden' stands for the stored key, but none is stored"))?)
                        }
                        text => Some(Zeroizing::new(text.to_owned())),
                    };
                }
                Name::RootCert => {
                    let text = value.as_str().ok_or_else(|| wrong("not a text"))?;
                    names_key |= !text.is_empty();
                    settings.root_cert = (!text.is_empty()).then(|| text.to_owned());
                }
                // Made once, when the cluster begins; ignored as in the original.
                Name::ClusterId => continue,
            }
            if key != Name::PrivateKey {
                settings.shown.get_or_insert_default().insert(key.api().to_owned(), value.clone());
            }
        }
        if config.is_some() {
            settings.shown.get_or_insert_default();
        }
        if let Some(stored) = stored
            && !names_key
            && rotation == Rotation::WhenChanged
        {
            settings.private_key = stored.private_key.clone();
            settings.root_cert = stored.root_cert.clone();
            if let Some(root) = &settings.root_cert {
                settings.shown.get_or_insert_default().insert(Name::RootCert.api().to_owned(), root.clone().into());
            }
        }
        settings.limit = match (rate, at_once) {
            (0.0, 0) => Limit::None,
            (0.0, most) => Limit::Concurrent(most),
            (rate, _) => Limit::PerSecond(rate),
        };
        if validate && settings.leaf_ttl < HOUR {
            return Err(Error::TtlTooShort(settings.leaf_ttl));
        }
        if validate && settings.leaf_ttl > YEAR {
            return Err(Error::TtlTooLong(settings.leaf_ttl));
        }
        if settings.root_cert.is_some() && settings.private_key.is_none() {
            return Err(Error::RootWithoutKey);
        }
        Ok(settings)
    }

    /// Puts together again what was stored: what is shown, and the secret beside it.
    pub fn restore(shown: Option<Opaque>, private_key: Option<Zeroizing<String>>) -> Result<Settings, Error> {
        let stored = Settings { private_key, ..Settings::nothing() };
        let mut shown = shown;
        if stored.private_key.is_some() {
            shown.get_or_insert_default().insert(Name::PrivateKey.api().to_owned(), HIDDEN.into());
        }
        Settings::parse(shown.as_ref(), Spelling::Api, Some(&stored), Rotation::WhenChanged)
    }

    /// What is shown, with `hidden` for the key. Looking changes nothing.
    pub fn masked(&self) -> Option<Opaque> {
        let mut shown = self.shown.clone();
        if self.private_key.is_some() {
            shown.get_or_insert_default().insert(Name::PrivateKey.api().to_owned(), HIDDEN.into());
        }
        shown
    }

    /// The configured key, to be read, or sealed and stored.
    pub fn private_key(&self) -> Option<&str> {
        self.private_key.as_ref().map(|key| key.as_str())
    }

    /// The configured root certificate.
    pub fn root_cert(&self) -> Option<&str> {
        self.root_cert.as_deref()
    }

    /// Names the provider's state: the same configured pair always finds the same state.
    pub fn provider_id(&self) -> String {
        let pair = [self.private_key().unwrap_or_default(), ",", self.root_cert().unwrap_or_default(), ",true"];
        let pair = Zeroizing::new(pair.concat());
        colon_hex(digest(&SHA256, pair.as_bytes()).as_ref())
    }

    /// What these settings change when they follow others.
    pub fn change_from(&self, old: &Settings, rotation: Rotation) -> Change {
        let root = |settings: &Settings| {
            settings.root_cert.as_ref().map(|text| pem::normalised(text).unwrap_or_else(|_| text.clone()))
        };
        if rotation == Rotation::Forced || self.private_key != old.private_key || root(self) != root(old) {
            Change::Root
        } else if self != old {
            Change::Settings
        } else {
            Change::Nothing
        }
    }
}

/// Shows everything but the key.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { leaf_ttl, rotation_period, limit, private_key: _, root_cert: _, shown } = self;
        f.debug_struct("Settings")
            .field("leaf_ttl", leaf_ttl)
            .field("rotation_period", rotation_period)
            .field("limit", limit)
            .field("shown", shown)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Name {
    LeafCertTtl,
    RotationPeriod,
    PrivateKey,
    RootCert,
    CsrMaxPerSecond,
    CsrMaxConcurrent,
    SkipValidate,
    ClusterId,
}

impl Name {
    const ALL: [Name; 8] = [
        Name::LeafCertTtl,
        Name::RotationPeriod,
        Name::PrivateKey,
        Name::RootCert,
        Name::CsrMaxPerSecond,
        Name::CsrMaxConcurrent,
        Name::SkipValidate,
        Name::ClusterId,
    ];

    fn api(self) -> &'static str {
        match self {
            Name::LeafCertTtl => "LeafCertTTL",
            Name::RotationPeriod => "RotationPeriod",
            Name::PrivateKey => "PrivateKey",
            Name::RootCert => "RootCert",
            Name::CsrMaxPerSecond => "CSRMaxPerSecond",
            Name::CsrMaxConcurrent => "CSRMaxConcurrent",
            Name::SkipValidate => "SkipValidate",
            Name::ClusterId => "ClusterID",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Name::LeafCertTtl => "leaf_cert_ttl",
            Name::RotationPeriod => "rotation_period",
            Name::PrivateKey => "private_key",
            Name::RootCert => "root_cert",
            Name::CsrMaxPerSecond => "csr_max_per_second",
            Name::CsrMaxConcurrent => "csr_max_concurrent",
            Name::SkipValidate => "skip_validate",
            Name::ClusterId => "cluster_id",
        }
    }

    /// Files may use either spelling, as everywhere in files.
    fn find(name: &str, spelling: Spelling) -> Option<Name> {
        Name::ALL.into_iter().find(|key| {
            key.api().eq_ignore_ascii_case(name) || spelling == Spelling::File && key.file().eq_ignore_ascii_case(name)
        })
    }
}

fn unknown(name: &str, spelling: Spelling) -> Error {
    let meant = Name::ALL.into_iter().find(|key| spelling == Spelling::Api && key.file() == name);
    Error::Setting(match meant {
        Some(key) => format!("unknown key {name:?}, use {:?}", key.api()),
        None => format!("unknown key {name:?}"),
    })
}

/// A duration as text with unit, or as a number of nanoseconds.
fn duration(value: &Value) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {value}");
    let duration = match value {
        Value::String(text) => text.parse::<SignedDuration>().map_err(|_| invalid())?,
        Value::Number(nanos) => SignedDuration::from_nanos(nanos.as_f64().ok_or_else(invalid)? as i64),
        _ => return Err(invalid()),
    };
    Duration::try_from(duration).map_err(|_| invalid())
}

/// A number, or the text of one. The original stores such a text and fails at the next certificate.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number: &f64| number.is_finite())
}

/// The cluster id that a configuration file sets for a cluster that does not exist yet.
pub fn cluster_id(config: &Opaque) -> Result<Option<String>, Error> {
    let given = config.iter().find(|(name, _)| Name::find(name, Spelling::File) == Some(Name::ClusterId));
    let Some((_, given)) = given else { return Ok(None) };
    let text = given.as_str().unwrap_or_default();
    let groups: Vec<&str> = text.split('-').collect();
    let is_uuid = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_uuid { Ok(Some(text.to_ascii_lowercase())) } else { Err(Error::ClusterId) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Opaque {
        value.as_object().unwrap().clone()
    }

    fn api(value: Value) -> Result<Settings, Error> {
        Settings::parse(Some(&map(value)), Spelling::Api, None, Rotation::WhenChanged)
    }

    fn error(value: Value) -> String {
        api(value).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_shown_where_nothing_is_configured() {
        let settings = Settings::default();
        assert_eq!(settings.masked(), Some(map(json!({"LeafCertTTL": "72h", "RotationPeriod": "2160h"}))));
        assert_eq!(settings.limit, Limit::PerSecond(50.0));
        assert_eq!(settings.leaf_ttl, Duration::from_secs(72 * 3600));
        let nothing = Settings::parse(None, Spelling::Api, None, Rotation::WhenChanged).unwrap();
        assert_eq!((nothing.masked(), nothing.leaf_ttl), (None, settings.leaf_ttl));
    }

    #[test]
    fn numbers_and_durations_are_read_in_every_form() {
        let settings = api(json!({"LeafCertTTL": 86_400_000_000_000i64, "CSRMaxPerSecond": "2.5"})).unwrap();
        assert_eq!((settings.leaf_ttl, settings.limit), (24 * HOUR, Limit::PerSecond(2.5)));
        let settings = api(json!({"LeafCertTTL": "1h30m", "CSRMaxPerSecond": 0, "CSRMaxConcurrent": "3"})).unwrap();
        assert_eq!((settings.leaf_ttl, settings.limit), (HOUR * 3 / 2, Limit::Concurrent(3)));
        assert_eq!(api(json!({"CSRMaxPerSecond": 0})).unwrap().limit, Limit::None);
    }

    #[test]
    fn files_have_their_own_spelling_and_are_shown_in_the_apis() {
        let config = map(json!({"leaf_cert_ttl": "2h", "CSRMaxPerSecond": 1, "cluster_id": "x"}));
        let settings = Settings::parse(Some(&config), Spelling::File, None, Rotation::WhenChanged).unwrap();
        assert_eq!(settings.masked(), Some(map(json!({"LeafCertTTL": "2h", "CSRMaxPerSecond": 1}))));
        assert_eq!(
            error(json!({"leaf_cert_ttl": "2h"})),
            r#"error decoding config: unknown key "leaf_cert_ttl", use "LeafCertTTL""#
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert_eq!(error(json!({"LeafCertTTL": "30m"})), "leaf cert TTL must be greater than 1h");
        assert_eq!(error(json!({"LeafCertTTL": "9000h"})), "leaf cert TTL must be less than 1 year");
        assert_eq!(
            error(json!({"LeafCertTTL": "soon"})),
            r#"error decoding config: LeafCertTTL: invalid duration "soon""#
        );
        assert_eq!(error(json!({"Nope": 1})), r#"error decoding config: unknown key "Nope""#);
        assert_eq!(error(json!({"RootCert": "x"})), "must provide a private key when providing a root cert");
        for bad in [json!("x"), json!(-1), json!(null), json!("NaN"), json!("inf")] {
            assert!(error(json!({"CSRMaxPerSecond": bad})).ends_with("not a rate"));
        }
        assert!(error(json!({"CSRMaxConcurrent": 1.5})).ends_with("not a number of requests"));
        assert!(error(json!({"RotationPeriod": "-1h"})).contains("invalid duration"));
        assert!(error(json!({"PrivateKey": "hidden"})).contains("none is stored"));
        assert!(api(json!({"LeafCertTTL": "1m", "SkipValidate": true})).is_ok());
        assert_eq!(Provider::parse("nope").unwrap_err().to_string(), r#"unknown CA provider "nope""#);
        assert_eq!(Provider::parse("").unwrap_err().to_string(), r#"unknown CA provider """#);
        assert_eq!(Provider::parse("consul").unwrap().as_str(), "consul");
    }

    #[test]
    fn the_key_is_never_shown_and_hidden_means_the_stored_one() {
        let stored = api(json!({"PrivateKey": "geheim", "LeafCertTTL": "2h"})).unwrap();
        assert_eq!(stored.masked(), Some(map(json!({"PrivateKey": "hidden", "LeafCertTTL": "2h"}))));
        assert!(!format!("{stored:?}").contains("geheim"));

        let again = stored.masked();
        let again = Settings::parse(again.as_ref(), Spelling::Api, Some(&stored), Rotation::WhenChanged).unwrap();
        assert_eq!(again.private_key(), Some("geheim"));
        assert_eq!(again.change_from(&stored, Rotation::WhenChanged), Change::Nothing);

        let restored = Settings::restore(stored.shown.clone(), stored.private_key.clone()).unwrap();
        assert_eq!(restored, stored);
    }

    #[test]
    fn a_lifetime_alone_does_not_rotate_the_root() {
        let stored = api(json!({"PrivateKey": "geheim", "RootCert": "root"})).unwrap();
        let config = map(json!({"LeafCertTTL": "2h"}));
        let parse = |rotation| Settings::parse(Some(&config), Spelling::Api, Some(&stored), rotation).unwrap();

        let kept = parse(Rotation::WhenChanged);
        assert_eq!(kept.change_from(&stored, Rotation::WhenChanged), Change::Settings);
        assert_eq!((kept.private_key(), kept.root_cert()), (Some("geheim"), Some("root")));
        assert_eq!(kept.provider_id(), stored.provider_id());
        assert_eq!(Settings::restore(kept.shown.clone(), kept.private_key.clone()).unwrap(), kept);

        let forced = parse(Rotation::Forced);
        assert_eq!(forced.change_from(&stored, Rotation::Forced), Change::Root);
        assert_eq!(forced.private_key(), None);

        let other = api(json!({"PrivateKey": "anders"})).unwrap();
        assert_eq!(other.change_from(&stored, Rotation::WhenChanged), Change::Root);
        assert_ne!(other.provider_id(), stored.provider_id());
    }

    #[test]
    fn a_cluster_id_is_a_uuid() {
        let id = |value: Value| cluster_id(&map(value));
        assert_eq!(id(json!({})), Ok(None));
        let uuid = "73BA6F8E-acd6-ed6f-f93b-6d879698a9f3";
        assert_eq!(id(json!({"cluster_id": uuid})), Ok(Some(uuid.to_lowercase())));
        for bad in [json!("x"), json!(1), json!("73ba6f8e-acd6-ed6f-f93b-6d879698a9fg")] {
            let error = id(json!({"ClusterID": bad})).unwrap_err();
            assert_eq!(error.to_string(), "cluster_id was supplied but was not a valid UUID");
        }
    }
}
