//! Where the state is kept.

use std::time::Duration;

use super::{Check, Node, Role};
use crate::config::Purpose;
use crate::config::report::Stage;

/// Where the state is kept.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// Which store.
    pub(crate) backend: Backend,
    /// Addresses of the etcd cluster; empty for the others.
    pub(crate) endpoints: Vec<String>,
    /// First part of every key in etcd.
    pub(crate) prefix: String,
    /// PEM files for the connection to etcd, empty when unused: authority, certificate, key.
    pub(crate) tls_files: [String; 3],
    /// User in etcd; empty without.
    pub(crate) username: String,
    /// File with its password; empty without.
    pub(crate) password_file: String,
    /// How long after its last sign of life a node counts as dead.
    pub(crate) node_ttl: Duration,
    /// File with the sealing key; empty without.
    pub(crate) seal_key_file: String,
}

/// Bounds of `store.node_ttl`: below, a busy machine would count as dead; above, nobody would call it liveness.
const NODE_TTL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Nothing survives the process.
    Memory,
    /// A file in the data directory.
    Redb,
    /// A cluster shared by several servers.
    Etcd,
}

/// Reads and judges.
pub(crate) fn store(check: &mut Check<'_>, node: &Node) -> Store {
    let settings = check.settings;
    let embedded = if node.data_dir.is_some() { Backend::Redb } else { Backend::Memory };
    let backend = match settings.text("store.backend") {
        // With -dev a data directory keeps registrations and processes, but not the state, as in the original.
        "" if node.dev => Backend::Memory,
        "" => embedded,
        "memory" => Backend::Memory,
        "redb" => {
            if node.data_dir.is_none() && node.dev {
                let remedy = "give a data directory: -data-dir=…";
                check.refuse(Stage::Rules, "store.backend", "store.backend = \"redb\" needs a data_dir", remedy);
            }
            Backend::Redb
        }
        "etcd" => Backend::Etcd,
        other => {
            check.refuse(
                Stage::Rules,
                "store.backend",
                format!("{other} is not a store backend"),
                "use \"memory\", \"redb\" or \"etcd\"",
            );
            embedded
        }
    };
    let endpoints = settings.texts("store.endpoints");
    if backend == Backend::Etcd && endpoints.is_empty() {
        check.refuse(
            Stage::Rules,
            "store.endpoints",
            "store.backend = \"etcd\" needs store.endpoints",
            "name the etcd cluster: endpoints = [\"https://…:2379\"]",
        );
    }
    let node_ttl = settings.duration("store.node_ttl").or_zero();
    if node_ttl < NODE_TTL.0 || node_ttl > NODE_TTL.1 {
        let text = format!("store.node_ttl is {node_ttl:?}");
        check.refuse(Stage::Rules, "store.node_ttl", text, "give a time between 2s and 10m");
    }
    let [_, cert, key] = ["store.ca_file", "store.cert_file", "store.key_file"].map(|key| settings.text(key));
    if cert.is_empty() != key.is_empty() {
        let text = "store.cert_file and store.key_file belong together";
        check.refuse(Stage::Rules, "store.cert_file", text, "give both, or none");
    }
    bootstrap(check, node, backend);
    Store {
        backend,
        endpoints,
        prefix: settings.text("store.prefix").to_owned(),
        tls_files: ["store.ca_file", "store.cert_file", "store.key_file"].map(|key| settings.text(key).to_owned()),
        username: settings.text("store.username").to_owned(),
        password_file: settings.text("store.password_file").to_owned(),
        node_ttl,
        seal_key_file: settings.text("store.seal_key_file").to_owned(),
    }
}

/// How many servers there shall be must fit to where the state is kept.
fn bootstrap(check: &mut Check<'_>, node: &Node, backend: Backend) {
    let settings = check.settings;
    let expect = settings.int("bootstrap_expect");
    let is_server = node.role == Role::Server;
    if settings.flag("bootstrap") && !is_server {
        let text = "'bootstrap = true' requires 'server = true'";
        check.refuse(Stage::Rules, "bootstrap", text, "add server = true, or remove bootstrap");
    }
    if expect < 0 {
        let text = format!("bootstrap_expect cannot be {expect}. Must be greater than or equal to zero");
        check.refuse(Stage::Rules, "bootstrap_expect", text, "write 1, or leave it out");
    } else if expect > 0 && !is_server {
        let text = "'bootstrap_expect > 0' requires 'server = true'";
        check.refuse(Stage::Rules, "bootstrap_expect", text, "add server = true, or remove bootstrap_expect");
    } else if expect > 1 && node.dev {
        let text = "'bootstrap_expect > 0' not allowed in dev mode";
        check.refuse(Stage::Rules, "bootstrap_expect", text, "remove bootstrap_expect, or run without -dev");
    } else if expect > 1 && settings.flag("bootstrap") {
        let text = "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive";
        check.refuse(Stage::Rules, "bootstrap_expect", text, "remove one of them");
    } else if expect > 1 && backend != Backend::Etcd {
        // Each server would be an island with a root of trust of its own.
        let text = format!("bootstrap_expect = {expect}: several servers need one store");
        let remedy = "set store.backend = etcd, or bootstrap_expect = 1";
        match check.purpose {
            Purpose::Run => check.refuse(Stage::Start, "bootstrap_expect", text, remedy),
            Purpose::Validate => check.warn(format!("config: {text}: {remedy}")),
        }
    } else if expect > 1 {
        check.inform("config: no effect here: bootstrap_expect (consensus is the store's work)");
    }
}
