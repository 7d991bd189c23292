//! Configuration: from files, fragments and flags to settings that are always valid.
//!
//! Four steps, one file each: [`source`] finds and reads, [`layer`] is one source as written, [`merge`] lays the
//! layers over each other, [`check`] judges the whole and gives an [`AgentConfig`]. What keys exist, and what becomes
//! of each, is declared once in [`keys`]. All problems of all sources are found in one run, each with its place, its
//! key and a remedy; the first line is the one the original would print.

pub(crate) mod address;
pub(crate) mod agent_flags;
pub(crate) mod check;
pub(crate) mod flags;
pub(crate) mod interfaces;
pub(crate) mod keys;
pub(crate) mod layer;
pub(crate) mod merge;
pub(crate) mod report;
pub(crate) mod watch;

mod notices;
mod source;
mod template;

use std::fmt;

use lictor_model::health::CheckSpec;
use lictor_model::service::Definition;

pub(crate) use agent_flags::{FlagProblem, Sources};
use check::AgentConfig;
use interfaces::InterfaceAddress;
use layer::{Declared, Layer};
pub(crate) use merge::Settings;
pub(crate) use report::{ConfigErrors, Notice, Weight};
use watch::Watch;

/// What the configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To start an agent, or to reload it.
    Run,
    /// To say whether it is valid, perhaps on another machine than the one it is meant for.
    Validate,
}

/// What the configuration takes from the machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The host's name.
    pub(crate) host_name: String,
    /// The network interfaces.
    pub(crate) interfaces: Vec<InterfaceAddress>,
}

impl Machine {
    /// This machine. Without a list of interfaces, what needs one of them says that it found none.
    fn this() -> Machine {
        Machine {
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            interfaces: interfaces::system().unwrap_or_default(),
        }
    }
}

/// A configuration that is valid, with all that it brings.
pub(crate) struct Loaded {
    /// The settings, grouped by what they are for.
    pub(crate) config: AgentConfig,
    /// Service definitions in the order of the sources.
    pub(crate) services: Vec<Declared<Definition>>,
    /// Check definitions in the order of the sources.
    pub(crate) checks: Vec<Declared<CheckSpec>>,
    /// Watches in the order of the sources.
    pub(crate) watches: Vec<Declared<Watch>>,
    /// Lines to print.
    pub(crate) notices: Vec<Notice>,
    /// All values by key, each with its origin; for comparing with a later load and for showing.
    pub(crate) settings: Settings,
}

// Definitions and watches may hold tokens.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Reads all sources for this machine. A reload calls this again with the same sources.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    load_on(&Machine::this(), sources, Purpose::Run)
}

/// Judges all sources, for whichever machine they are meant.
pub(crate) fn validate(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    load_on(&Machine::this(), sources, Purpose::Validate)
}

/// Reads files and directories for the service definitions in them; whatever else they say is only checked for its
/// form.
pub(crate) fn definitions(paths: &[std::path::PathBuf]) -> Result<Vec<Declared<Definition>>, ConfigErrors> {
    let mut read = source::Read::default();
    read.paths(paths, None);
    match ConfigErrors::new(read.problems) {
        Some(errors) => Err(errors),
        None => Ok(read.layers.into_iter().flat_map(|layer| layer.services).collect()),
    }
}

/// Reads all sources, merges and judges them.
fn load_on(machine: &Machine, sources: &Sources, purpose: Purpose) -> Result<Loaded, ConfigErrors> {
    let mut read = source::Read::default();
    read.paths(&sources.paths, sources.format.as_deref());
    let from_files = std::mem::take(&mut read.layers);
    for (position, fragment) in sources.fragments.iter().enumerate() {
        read.fragment(position, fragment);
    }
    let mut problems = sources.problems.clone();
    problems.append(&mut read.problems);

    let defaults = [Layer::defaults()].into_iter().chain(sources.dev.then(Layer::dev_defaults));
    let lists = [sources.lists.clone()].into_iter();
    let values = [sources.values.clone()].into_iter();
    let layers = defaults.chain(lists).chain(from_files).chain(values).chain(read.layers);
    let mut settings = Settings::merge(layers);

    let mut notices = read.notices;
    let config = check::check(&settings, sources.dev, purpose, machine, &mut problems, &mut notices);
    match ConfigErrors::new(report::first_causes(problems)) {
        Some(errors) => Err(errors),
        None => {
            notices.splice(0..0, notices::of_keys(&settings, config.node.role));
            Ok(Loaded {
                config,
                services: std::mem::take(&mut settings.services),
                checks: std::mem::take(&mut settings.checks),
                watches: std::mem::take(&mut settings.watches),
                notices,
                settings,
            })
        }
    }
}

#[cfg(test)]
mod tests;
