//! Who this node is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lictor_model::meta::{self, Meta};
use lictor_model::name::NodeName;

use super::Check;
use crate::config::Purpose;
use crate::config::report::Stage;

/// What an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It holds the state.
    Server,
    /// It asks a server.
    Client,
}

/// Who this node is and where it keeps things.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Unique in the datacenter.
    pub(crate) name: NodeName,
    /// A UUID in lower case; `None` to use the one in the data directory, or make one.
    pub(crate) id: Option<String>,
    /// Derive that UUID from the host's instead of making one.
    pub(crate) id_from_host: bool,
    /// Server or client.
    pub(crate) role: Role,
    /// Run with `-dev`.
    pub(crate) dev: bool,
    /// Metadata.
    pub(crate) meta: Meta,
    /// Further addresses by use.
    pub(crate) tagged_addresses: BTreeMap<String, String>,
    /// In lower case.
    pub(crate) datacenter: String,
    /// The DNS domain, as written.
    pub(crate) domain: String,
    /// Where everything is kept that must survive a restart; `None` only with `-dev`.
    pub(crate) data_dir: Option<PathBuf>,
}

/// Reads and judges.
pub(crate) fn node(check: &mut Check<'_>) -> Node {
    let settings = check.settings;
    let role = if settings.flag("server") { Role::Server } else { Role::Client };
    if role == Role::Client && check.purpose == Purpose::Validate {
        perhaps_a_client(check);
    }
    let datacenter = datacenter(check, role);
    let meta: Meta = settings.text_map("node_meta");
    if let Err(why) = meta::validate(&meta) {
        check.refuse(Stage::Rules, "node_meta", format!("node_meta invalid: {why}"), "change or remove this pair");
    }
    if !settings.text("segment").is_empty() || !settings.objects("segments").is_empty() {
        let key = if settings.text("segment").is_empty() { "segments" } else { "segment" };
        let text = "Network segments are not supported in this version of Consul";
        check.refuse(Stage::Rules, key, text, "remove it; there are no network segments");
    }
    let domain = settings.text("domain").to_owned();
    if settings.int("ports.dns") > 0
        && let Err(why @ lictor_dns::Error::Domain { .. }) = lictor_dns::check_names(&domain, &datacenter)
    {
        let remedy =
            "write a domain of labels of at most 63 letters, digits and dashes, or turn DNS off: ports.dns = -1";
        check.refuse(Stage::Rules, "domain", why.to_string(), remedy);
    }
    Node {
        name: name(check),
        id: id(check),
        id_from_host: !settings.flag("disable_host_node_id"),
        role,
        dev: check.dev,
        meta,
        tagged_addresses: settings.text_map("tagged_addresses"),
        datacenter,
        domain,
        data_dir: data_dir(check),
    }
}

/// Whoever validates files does not see the flags of the agent, which may make a server of it.
fn perhaps_a_client(check: &mut Check<'_>) {
    let given = |key: &str| check.settings.is_given(key);
    if !given("server") && !given("retry_join") && !given("start_join") {
        check.inform(
            "config: server is not set: unless the agent has it as -server or runs with -dev, it is a client agent, which \
             holds nothing and needs servers to ask (retry_join)",
        );
    }
}

fn name(check: &mut Check<'_>) -> NodeName {
    let given = check.settings.text("node_name").trim();
    let name = if check.settings.is_given("node_name") { given } else { check.machine.host_name.trim() };
    if name.is_empty() {
        check.refuse(
            Stage::Rules,
            "node_name",
            "node_name cannot be empty",
            "name this node: node_name = \"…\" or -node=…",
        );
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        check.warn(format!(
            "Node name {name:?} will not be discoverable via DNS due to invalid characters. Valid characters include \
             all alpha-numerics and dashes."
        ));
    }
    NodeName::from(name)
}

fn id(check: &mut Check<'_>) -> Option<String> {
    let id = check.settings.text("node_id").to_ascii_lowercase();
    if id.is_empty() {
        return None;
    }
    if !is_uuid(&id) {
        let why = if id.len() == 36 { "invalid uuid string" } else { "uuid string is wrong length" };
        check.refuse(
            Stage::Rules,
            "node_id",
            format!("Failed to setup node ID: {why}"),
            "write a UUID such as 40e4a748-2192-161a-0510-9bf59fe950b5, or leave it out to have one made",
        );
    }
    Some(id)
}

/// Whether a text has the form of a UUID.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn datacenter(check: &mut Check<'_>, role: Role) -> String {
    let valid = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-')
    };
    let datacenter = check.settings.text("datacenter").to_lowercase();
    if datacenter.is_empty() {
        check.refuse(Stage::Rules, "datacenter", "datacenter cannot be empty", "name it, or leave the key out for dc1");
    } else if !valid(&datacenter) {
        let text = format!("datacenter cannot be {datacenter:?}. Please use only [a-z0-9-_].");
        check.refuse(Stage::Rules, "datacenter", text, "use lower case letters, digits, - and _");
    }
    // `acl_datacenter`, the old name, was already moved here.
    let primary = check.settings.text("primary_datacenter").to_lowercase();
    if primary.is_empty() || primary == datacenter {
        return datacenter;
    }
    if !valid(&primary) {
        let text = format!("acl_datacenter cannot be {primary:?}. Please use only [a-z0-9-_].");
        check.refuse(Stage::Rules, "primary_datacenter", text, "use lower case letters, digits, - and _");
    } else if role == Role::Server {
        check.refuse(
            Stage::Start,
            "primary_datacenter",
            format!("primary_datacenter cannot be {primary:?}: a second datacenter has its own root of trust"),
            format!("remove it or set it to {datacenter:?}"),
        );
    } else {
        check.inform("config: no effect here: primary_datacenter (one datacenter per deployment)");
    }
    datacenter
}

fn data_dir(check: &mut Check<'_>) -> Option<PathBuf> {
    let text = check.settings.text("data_dir");
    if text.is_empty() {
        if check.purpose == Purpose::Validate {
            // A flag of the agent may name it, as that of the packaged unit does.
            check.inform("config: data_dir is not set: the agent needs it here, as -data-dir, or -dev");
        } else if !check.dev {
            check.refuse(
                Stage::Rules,
                "data_dir",
                "data_dir cannot be empty",
                "say where to keep data: data_dir = \"/var/lib/lictor\" or -data-dir=…; or try things out with -dev",
            );
        }
        return None;
    }
    let path = PathBuf::from(text);
    if path.exists() && !path.is_dir() {
        check.refuse(
            Stage::Rules,
            "data_dir",
            format!("data_dir {text:?} is not a directory"),
            "name a directory; it is made when it does not exist",
        );
    } else {
        originals_data(check, &path);
    }
    Some(path)
}

/// Says what stays behind in the data directory of the original: once, as long as there is no store of ours in it.
fn originals_data(check: &mut Check<'_>, path: &Path) {
    if path.join("store.redb").exists() {
        return;
    }
    let shown = path.display();
    if path.join("raft").is_dir() || path.join("mdb").is_dir() {
        check.warn(format!(
            "config: data_dir {shown} is that of a Consul server, and what its raft/ holds is not read: this agent starts \
             with NO key-value entries, ACL tokens and policies, intentions, prepared queries and sessions, and with a CA \
             of its own. Services and checks registered over HTTP, their TTL states, managed proxies and kept agent \
             tokens are taken over. To carry the rest over, export it from Consul first: docs/migration.md"
        ));
    } else if path.join("serf").is_dir() {
        check.warn(format!(
            "config: data_dir {shown} is that of a Consul client: services and checks registered over HTTP, their TTL \
             states and managed proxies are taken over; its servers' state is not in it (docs/migration.md)"
        ));
    }
    let running = running_proxies(path);
    if !running.is_empty() {
        check.warn(format!(
            "config: {shown}/proxy/snapshot.json names proxies that Consul started ({}): they are not taken over. Those \
             that still run keep their ports from the new ones: end them (docs/migration.md says how)",
            running.join(", ")
        ));
    }
}

/// The proxies that the original noted as running, each with its process.
fn running_proxies(data_dir: &Path) -> Vec<String> {
    let Ok(text) = std::fs::read(data_dir.join("proxy/snapshot.json")) else { return Vec::new() };
    let Ok(snapshot) = serde_json::from_slice::<serde_json::Value>(&text) else { return Vec::new() };
    let Some(proxies) = snapshot.get("Proxies").and_then(serde_json::Value::as_object) else { return Vec::new() };
    let shown = |(id, proxy): (&String, &serde_json::Value)| match proxy.pointer("/Config/Pid") {
        Some(pid) => format!("{id}, pid {pid}"),
        None => id.clone(),
    };
    proxies.iter().map(shown).collect()
}
