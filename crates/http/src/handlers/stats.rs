//! `Stats` of `/v1/agent/self`: what `info` prints, under the names of the original.
//!
//! Scripts read single values, so no name is missing. Where lictor has no such thing, it says what is true of it: the log
//! of consensus is the store's history, and members of a gossip that does not exist are those that share the store. What is
//! a constant here is listed in docs/compatibility.md.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::acl::Caller;
use lictor_model::health::CheckKind;

use super::process::short;
use super::status::leader_address;
use crate::call::Call;

type Group<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// All groups.
pub(super) fn of<'a>(call: &'a Call<'_>) -> BTreeMap<Cow<'a, str>, Group<'a>> {
    let agent = call.agent();
    if let Some(elsewhere) = &call.config().elsewhere {
        return BTreeMap::from([
            ("agent".into(), registered(call)),
            ("build".into(), build(call)),
            (
                "consul".into(),
                group([
                    ("acl", if agent.acls_enabled() { "enabled" } else { "disabled" }.into()),
                    ("known_servers", elsewhere.servers.known().len().to_string().into()),
                    ("server", "false".into()),
                ]),
            ),
            ("runtime".into(), runtime()),
            // Who else there is, servers know.
            ("serf_lan".into(), serf(call, 1, 0)),
        ]);
    }
    let mut members = agent.members();
    if !agent.is_sharing() {
        // It holds no lease, unlike its clients.
        members.push(agent.as_member());
    }
    let lost = agent.lost_members().len();
    let own = agent.as_member();
    let leads = if agent.is_sharing() { agent.lead().is_some_and(|lead| lead.id == own.id) } else { true };
    let servers: Vec<_> = members.iter().filter(|member| member.is_server).collect();
    BTreeMap::from([
        ("agent".into(), registered(call)),
        ("build".into(), build(call)),
        (
            "consul".into(),
            group([
                ("acl", if agent.acls_enabled() { "enabled" } else { "disabled" }.into()),
                ("bootstrap", (!agent.is_sharing()).to_string().into()),
                ("known_datacenters", "1".into()),
                ("leader", leads.to_string().into()),
                ("leader_addr", leader_address(call).into()),
                ("server", "true".into()),
            ]),
        ),
        ("raft".into(), {
            let voters =
                servers.iter().map(|server| format!("{{Suffrage:Voter ID:{} Address:{}}}", server.id, server.address));
            raft(call, leads, servers.len(), format!("[{}]", voters.collect::<Vec<_>>().join(" ")))
        }),
        ("runtime".into(), runtime()),
        ("serf_lan".into(), serf(call, members.len() + lost, lost)),
        ("serf_wan".into(), serf(call, servers.len() + lost, lost)),
    ])
}

fn group<'a, const N: usize>(pairs: [(&'a str, Cow<'a, str>); N]) -> Group<'a> {
    pairs.into_iter().map(|(key, value)| (key.into(), value)).collect()
}

fn registered<'a>(call: &Call<'_>) -> Group<'a> {
    let everything = Caller::management("");
    group([
        ("check_monitors", call.agent().checks_of(CheckKind::Script).to_string().into()),
        ("check_ttls", call.agent().checks_of(CheckKind::Ttl).to_string().into()),
        ("checks", call.agent().checks(&everything).len().to_string().into()),
        ("services", call.agent().services(&everything).len().to_string().into()),
    ])
}

fn build<'a>(call: &'a Call<'_>) -> Group<'a> {
    let config = call.config();
    group([
        ("prerelease", "".into()),
        ("revision", short(&config.revision).into()),
        ("version", (&config.version).into()),
    ])
}

/// There is one term, the one that snapshots and the health of servers name, too.
const TERM: &str = "1";

/// Every write is applied where it is committed, and nothing of the history is thrown away into a snapshot.
fn raft<'a>(call: &Call<'_>, leads: bool, servers: usize, configuration: String) -> Group<'a> {
    let revision: Cow<'a, str> = call.agent().reader(&Caller::management("")).current().0.to_string().into();
    group([
        ("applied_index", revision.clone()),
        ("commit_index", revision.clone()),
        ("fsm_pending", "0".into()),
        ("last_contact", "0".into()),
        ("last_log_index", revision),
        ("last_log_term", TERM.into()),
        ("last_snapshot_index", "0".into()),
        ("last_snapshot_term", "0".into()),
        ("latest_configuration", configuration.into()),
        ("latest_configuration_index", "1".into()),
        ("num_peers", servers.saturating_sub(1).to_string().into()),
        ("protocol_version", "3".into()),
        ("protocol_version_max", "3".into()),
        ("protocol_version_min", "0".into()),
        ("snapshot_version_max", "1".into()),
        ("snapshot_version_min", "0".into()),
        ("state", if leads { "Leader" } else { "Follower" }.into()),
        ("term", TERM.into()),
    ])
}

fn runtime<'a>() -> Group<'a> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    group([
        ("arch", std::env::consts::ARCH.into()),
        ("cpu_count", processors.clone().into()),
        ("goroutines", tasks.to_string().into()),
        ("max_procs", processors.into()),
        ("os", std::env::consts::OS.into()),
        ("version", concat!("rust", env!("CARGO_PKG_RUST_VERSION")).into()),
    ])
}

/// Who left is no member any more; nothing waits in a queue that does not exist.
fn serf<'a>(call: &Call<'_>, members: usize, failed: usize) -> Group<'a> {
    let events = *call.agent().events_seen().borrow();
    group([
        ("coordinate_resets", "0".into()),
        ("encrypted", "false".into()),
        ("event_queue", "0".into()),
        ("event_time", (events + 1).to_string().into()),
        ("failed", failed.to_string().into()),
        ("health_score", "0".into()),
        ("intent_queue", "0".into()),
        ("left", "0".into()),
        ("member_time", "1".into()),
        ("members", members.to_string().into()),
        ("query_queue", "0".into()),
        ("query_time", "1".into()),
    ])
}
