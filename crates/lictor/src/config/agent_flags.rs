//! The flags of `agent`: each sets one key of the configuration, apart from those that say where to read it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use lictor_notation::duration::GoDuration;

use super::flags::{self, Flag, FlagError, FlagKind, Parsed};
use super::keys::{self, Kind};
use super::layer::{Layer, Written};
use super::report::{Origin, Problem, Stage};

/// A flag and the key it sets; empty for flags that set none.
const TABLE: &[(&str, FlagKind, &str)] = &[
    ("advertise", FlagKind::Text, "advertise_addr"),
    ("advertise-wan", FlagKind::Text, "advertise_addr_wan"),
    ("allow-write-http-from", FlagKind::Text, "http_config.allow_write_http_from"),
    ("bind", FlagKind::Text, "bind_addr"),
    ("bootstrap", FlagKind::Bool, "bootstrap"),
    ("bootstrap-expect", FlagKind::Int, "bootstrap_expect"),
    ("client", FlagKind::Text, "client_addr"),
    ("config-dir", FlagKind::Text, ""),
    ("config-file", FlagKind::Text, ""),
    ("config-format", FlagKind::Text, ""),
    ("data-dir", FlagKind::Text, "data_dir"),
    ("datacenter", FlagKind::Text, "datacenter"),
    ("dev", FlagKind::Bool, ""),
    ("disable-host-node-id", FlagKind::Bool, "disable_host_node_id"),
    ("disable-keyring-file", FlagKind::Bool, "disable_keyring_file"),
    ("dns-port", FlagKind::Int, "ports.dns"),
    ("domain", FlagKind::Text, "domain"),
    ("enable-local-script-checks", FlagKind::Bool, "enable_local_script_checks"),
    ("enable-script-checks", FlagKind::Bool, "enable_script_checks"),
    ("encrypt", FlagKind::Text, "encrypt"),
    ("grpc-port", FlagKind::Int, "ports.grpc"),
    ("hcl", FlagKind::Text, ""),
    ("http-port", FlagKind::Int, "ports.http"),
    ("join", FlagKind::Text, "start_join"),
    ("join-wan", FlagKind::Text, "start_join_wan"),
    ("log-file", FlagKind::Text, "log_file"),
    ("log-level", FlagKind::Text, "log_level"),
    ("log-rotate-bytes", FlagKind::Int, "log_rotate_bytes"),
    ("log-rotate-duration", FlagKind::Text, "log_rotate_duration"),
    ("node", FlagKind::Text, "node_name"),
    ("node-id", FlagKind::Text, "node_id"),
    ("node-meta", FlagKind::Text, "node_meta"),
    ("non-voting-server", FlagKind::Bool, "non_voting_server"),
    ("pid-file", FlagKind::Text, "pid_file"),
    ("protocol", FlagKind::Int, "protocol"),
    ("raft-protocol", FlagKind::Int, "raft_protocol"),
    ("raft-snapshot-interval", FlagKind::Text, "raft_snapshot_interval"),
    ("raft-snapshot-threshold", FlagKind::Int, "raft_snapshot_threshold"),
    ("recursor", FlagKind::Text, "recursors"),
    ("rejoin", FlagKind::Bool, "rejoin_after_leave"),
    ("retry-interval", FlagKind::Text, "retry_interval"),
    ("retry-interval-wan", FlagKind::Text, "retry_interval_wan"),
    ("retry-join", FlagKind::Text, "retry_join"),
    ("retry-join-wan", FlagKind::Text, "retry_join_wan"),
    ("retry-max", FlagKind::Int, "retry_max"),
    ("retry-max-wan", FlagKind::Int, "retry_max_wan"),
    ("segment", FlagKind::Text, "segment"),
    ("serf-lan-bind", FlagKind::Text, "serf_lan"),
    ("serf-lan-port", FlagKind::Int, "ports.serf_lan"),
    ("serf-wan-bind", FlagKind::Text, "serf_wan"),
    ("serf-wan-port", FlagKind::Int, "ports.serf_wan"),
    ("server", FlagKind::Bool, "server"),
    ("server-port", FlagKind::Int, "ports.server"),
    ("syslog", FlagKind::Bool, "enable_syslog"),
    ("ui", FlagKind::Bool, "ui"),
    ("ui-dir", FlagKind::Text, "ui_dir"),
];

/// The flags, for the parser and for the usage.
pub(crate) fn known() -> Vec<Flag> {
    TABLE.iter().map(|(name, kind, path)| Flag { name, kind: *kind, doc: doc(name, path) }).collect()
}

fn doc(name: &str, path: &str) -> &'static str {
    match name {
        "config-dir" | "config-file" => {
            "File or directory to read configuration from. May be given several times; later ones win."
        }
        "config-format" => "Language of all configuration files, whatever their names: hcl or json.",
        "dev" => "Run everything on this machine with good defaults for trying things out, in memory.",
        "hcl" => "A piece of configuration in HCL, read after everything else. May be given several times.",
        "node-meta" => "One pair of metadata of this node, key:value. May be given several times.",
        _ => keys::find(path).map_or("", |key| key.doc),
    }
}

/// Where configuration comes from, as told on the command line.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    /// `-dev`.
    pub(crate) dev: bool,
    /// Files and directories in the order given.
    pub(crate) paths: Vec<PathBuf>,
    /// `-config-format`.
    pub(crate) format: Option<String>,
    /// `-hcl`, in the order given.
    pub(crate) fragments: Vec<String>,
    /// Lists at the top level, which come before those of files.
    pub(super) lists: Layer,
    /// Everything else, which beats files.
    pub(super) values: Layer,
    /// What is wrong with values that the parser of flags lets through.
    pub(super) problems: Vec<Problem>,
}

// Fragments and flags may hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("dev", &self.dev).field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// Why the words after `agent` say nothing about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FlagProblem {
    /// Help was asked for; the list of flags.
    Help(String),
    /// They are wrong; the text.
    Wrong(String),
}

impl Sources {
    /// What the words after `agent` say.
    pub(crate) fn from_flags(words: &[String]) -> Result<Sources, FlagProblem> {
        let known = known();
        match flags::parse(&known, words) {
            Ok(parsed) => Ok(Sources::from_parsed(&parsed)),
            Err(FlagError::Help) => Err(FlagProblem::Help(flags::usage(&known))),
            Err(error) => Err(FlagProblem::Wrong(error.told(&known, "agent [options]"))),
        }
    }

    fn from_parsed(parsed: &Parsed) -> Sources {
        let mut sources = Sources::default();
        for (name, value) in parsed.given() {
            sources.take(name, value);
        }
        sources.problems.extend(parsed.operands.first().map(|_| Problem {
            stage: Stage::Sources,
            origin: Origin::Default,
            key: "command line".into(),
            text: format!("config: Unknown extra arguments: [{}]", parsed.operands.join(" ")),
            remedy: "remove these words, or write them after the flag they belong to".into(),
            group: None,
        }));
        sources
    }

    /// Files and directories alone, for `validate`.
    pub(crate) fn from_paths(paths: impl IntoIterator<Item = PathBuf>, format: Option<String>) -> Sources {
        Sources { paths: paths.into_iter().collect(), format, ..Sources::default() }
    }

    fn take(&mut self, name: &'static str, value: &str) {
        match name {
            "config-dir" | "config-file" => self.paths.push(value.into()),
            "config-format" => self.format = Some(value.to_owned()),
            "dev" => self.dev = value == "true",
            "hcl" => self.fragments.push(value.to_owned()),
            _ => {
                let path = TABLE.iter().find(|(flag, ..)| *flag == name).map_or("", |(.., path)| path);
                if let Some(key) = keys::find(path) {
                    self.set(name, key, value);
                }
            }
        }
    }

    fn set(&mut self, name: &'static str, key: &'static keys::Key, value: &str) {
        let origin = Origin::Flag(name);
        let written = match key.kind {
            Kind::Flag => Written::Flag(value == "true"),
            Kind::Int => Written::Int(value.parse().unwrap_or_default()), // checked by the parser of flags
            Kind::Duration => match value.parse::<GoDuration>() {
                Ok(duration) => Written::Duration(duration),
                Err(error) => {
                    self.problems.push(Problem {
                        stage: Stage::Rules,
                        origin,
                        key: key.path.into(),
                        text: format!("{}: invalid duration: {value:?}: {error}", key.path),
                        remedy: key.kind.example().into(),
                        group: None,
                    });
                    return;
                }
            },
            Kind::Texts => {
                let layer = if key.path.contains('.') { &mut self.values } else { &mut self.lists };
                match layer.settings.get_mut(key.path).map(|setting| &mut setting.value) {
                    Some(Written::Texts(texts)) => texts.push(value.to_owned()),
                    _ => layer.set(key.path, Written::Texts(vec![value.to_owned()]), origin),
                }
                return;
            }
            Kind::TextMap => {
                let (key_of_pair, value_of_pair) = value.split_once(':').unwrap_or((value, ""));
                let mut map = match self.values.settings.remove(key.path).map(|setting| setting.value) {
                    Some(Written::TextMap(map)) => map,
                    _ => BTreeMap::new(),
                };
                map.insert(key_of_pair.to_owned(), value_of_pair.to_owned());
                Written::TextMap(map)
            }
            _ => Written::Text(value.to_owned()),
        };
        self.values.set(key.path, written, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_leads_to_a_key_of_a_fitting_type() {
        for (name, kind, path) in TABLE {
            assert!(!doc(name, path).is_empty(), "-{name}");
            if path.is_empty() {
                continue;
            }
            let key = keys::find(path).unwrap_or_else(|| panic!("-{name}: no key {path}"));
            let fits = match key.kind {
                Kind::Flag => *kind == FlagKind::Bool,
                Kind::Int => *kind == FlagKind::Int,
                Kind::Text | Kind::Secret | Kind::Duration | Kind::Texts | Kind::TextMap => *kind == FlagKind::Text,
                _ => false,
            };
            assert!(fits, "-{name}: {kind:?} for {:?}", key.kind);
        }
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0), "the table is sorted, without doubles");
    }

    #[test]
    fn words_that_belong_to_no_flag_are_a_problem() {
        let sources = Sources::from_flags(&["-dev".into(), "extra".into(), "-server".into()]).unwrap();
        assert!(sources.dev);
        assert_eq!(sources.problems[0].text, "config: Unknown extra arguments: [extra -server]");
    }
}
