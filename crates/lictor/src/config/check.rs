//! Judges merged settings and turns them into what the rooms need: values that are always valid.
//!
//! Every part reads its own keys, reports what is wrong with them and goes on with something harmless, so that one
//! run finds everything. The result counts only when no part reported anything.

pub(crate) mod acl;
pub(crate) mod definitions;
pub(crate) mod dns;
pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod output;
mod proxies;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod tuning;

use super::merge::Settings;
use super::report::{Notice, Origin, Problem, Stage, Weight};
use super::{Machine, Purpose};

pub(crate) use acl::Acl;
pub(crate) use definitions::ChecksConfig;
pub(crate) use dns::Dns;
pub(crate) use http::Http;
pub(crate) use mesh::Mesh;
pub(crate) use network::Network;
pub(crate) use node::{Node, Role};
pub(crate) use output::{Log, Telemetry};
pub(crate) use store::{Backend, Store};
pub(crate) use tls::Tls;
pub(crate) use tuning::{Lifecycle, Servers};

/// All settings of an agent.
#[derive(Clone, Debug)]
pub(crate) struct AgentConfig {
    /// Who this node is and where it keeps things.
    pub(crate) node: Node,
    /// Addresses, ports and port ranges.
    pub(crate) network: Network,
    /// Where the state is kept.
    pub(crate) store: Store,
    /// Which servers a client asks, and how patiently.
    pub(crate) servers: Servers,
    /// Start, leave and stop.
    pub(crate) lifecycle: Lifecycle,
    /// Access control.
    pub(crate) acl: Acl,
    /// Certificates of the agent's own listeners and connections.
    pub(crate) tls: Tls,
    /// DNS answers.
    pub(crate) dns: Dns,
    /// The HTTP API and the web page.
    pub(crate) http: Http,
    /// How checks are run.
    pub(crate) checks: ChecksConfig,
    /// The mesh: authority, managed proxies and their defaults.
    pub(crate) mesh: Mesh,
    /// Logs.
    pub(crate) log: Log,
    /// Metrics.
    pub(crate) telemetry: Telemetry,
}

/// The settings while they are judged.
pub(crate) struct Check<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) machine: &'a Machine,
    pub(crate) purpose: Purpose,
    pub(crate) dev: bool,
    problems: &'a mut Vec<Problem>,
    /// So many of them were found while the files were read.
    unread: usize,
    notices: &'a mut Vec<Notice>,
}

impl Check<'_> {
    /// Reports what is wrong with a key.
    pub(crate) fn refuse(&mut self, stage: Stage, key: &str, text: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem {
            stage,
            origin: self.settings.origin(key),
            key: key.to_owned(),
            text: text.into(),
            remedy: remedy.into(),
            group: None,
        });
    }

    /// Reports a problem that has a place of its own.
    pub(crate) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether something was found that could not be read at a key of a file, or within it.
    pub(crate) fn could_not_read(&self, origin: &Origin, key: &str) -> bool {
        self.problems.iter().take(self.unread).any(|problem| {
            let rest = problem.key.strip_prefix(key);
            problem.origin.file() == origin.file()
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Says something the user should change.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.notices.push(Notice { weight: Weight::Warn, text: text.into() });
    }

    /// Says something worth knowing.
    pub(crate) fn inform(&mut self, text: impl Into<String>) {
        self.notices.push(Notice { weight: Weight::Info, text: text.into() });
    }
}

/// Judges everything.
pub(crate) fn check(
    settings: &Settings,
    dev: bool,
    purpose: Purpose,
    machine: &Machine,
    problems: &mut Vec<Problem>,
    notices: &mut Vec<Notice>,
) -> AgentConfig {
    let unread = problems.len();
    let mut check = Check { settings, machine, purpose, dev, problems, unread, notices };
    let check = &mut check;
    let network = network::network(check);
    let node = node::node(check);
    network::conflicts(check, &network, node.role);
    let store = store::store(check, &node);
    let servers = tuning::servers(check, &node, &network, &store);
    let lifecycle = tuning::lifecycle(check, node.role);
    tuning::without_effect(check);
    let config = AgentConfig {
        acl: acl::acl(check, &node),
        tls: tls::tls(check),
        dns: dns::dns(check),
        http: http::http(check),
        checks: definitions::checks(check),
        mesh: mesh::mesh(check),
        log: output::log(check),
        telemetry: output::telemetry(check),
        node,
        network,
        store,
        servers,
        lifecycle,
    };
    definitions::services(check);
    proxies::proxies(check, &config.network, &config.mesh);
    definitions::alone(check);
    definitions::watches(check);
    tls::warn_about_https(check, &config);
    config
}
