//! `/v1/operator`: the servers of the cluster, where their state is kept, and what the operator wants of them. An agent
//! with its own state is the one server there is; there is no gossip, and so no key of it.

use lictor_api::operator as shape;
use lictor_api::time::{Span, Time};
use lictor_model::acl::{Access, Realm};
use lictor_model::revision::Revision;
use lictor_state::autopilot::{Autopilot, Settings};

use super::kv::number;
use super::status::{leader_address, own_address};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;

fn needs(call: &Call<'_>, access: Access) -> Result<(), Failure> {
    call.needs_our_datacenter(call.query.get("dc"))?;
    if call.caller.may_in(access, Realm::Operator) { Ok(()) } else { Err(Failure::Denied) }
}

/// There is no Raft among servers; what clients ask of it is who the servers are and which one leads.
pub(crate) fn raft_configuration(call: &Call<'_>) -> Answered {
    needs(call, Access::Read)?;
    let agent = call.agent();
    let lead = agent.lead();
    let servers = agent.servers();
    let servers = servers.iter().map(|member| shape::RaftServer {
        id: member.id.as_str().into(),
        node: member.node.as_str().into(),
        address: member.address.as_str().into(),
        leader: lead.as_ref().map_or(!agent.is_sharing(), |lead| lead.id == member.id),
        protocol_version: "3".into(),
        voter: true,
    });
    call.json(&shape::RaftConfiguration { servers: servers.collect(), index: 1 })
}

/// Moves the state to where the configuration now says it is kept.
pub(crate) fn move_store<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        needs(call, Access::Write)?;
        let done = call.server.process.move_store().await.map_err(Failure::refused)?;
        call.json(&done)
    })
}

pub(crate) fn remove_raft_peer(call: &Call<'_>) -> Answered {
    let (id, address) = (call.query.get("id"), call.query.get("address"));
    let (name, given, own) = match (id, address) {
        ("", "") => {
            let text = "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
            return Err(Failure::invalid(text));
        }
        (id, "") => ("id", id, call.config().node_id.clone()),
        ("", address) => ("address", address, own_address(call)),
        _ => return Err(Failure::invalid("Must specify only one of ?id or ?address")),
    };
    needs(call, Access::Write)?;
    if given == own {
        return Err(Failure::refused(format!("{name} {given:?} is the only server: it cannot be removed")));
    }
    Err(Failure::refused(format!("{name} {given:?} was not found in the Raft configuration")))
}

pub(crate) fn autopilot<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let Autopilot { settings, created, modified } = call.agent().autopilot(&call.caller).await?;
        let Settings {
            cleanup_dead_servers,
            last_contact_threshold,
            max_trailing_logs,
            server_stabilization_time,
            redundancy_zone_tag,
            disable_upgrade_migration,
            upgrade_version_tag,
        } = settings;
        call.json(&shape::Autopilot {
            cleanup_dead_servers,
            last_contact_threshold: Span(last_contact_threshold),
            max_trailing_logs,
            server_stabilization_time: Span(server_stabilization_time),
            redundancy_zone_tag: redundancy_zone_tag.into(),
            disable_upgrade_migration,
            upgrade_version_tag: upgrade_version_tag.into(),
            create_index: created.0,
            modify_index: modified.0,
        })
    })
}

pub(crate) fn set_autopilot<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let wanted = decode::autopilot(&body.read().await?)
            .map_err(|why| Failure::invalid(format!("Error parsing autopilot config: {why}")))?;
        if !call.query.has("cas") {
            call.agent().set_autopilot(&call.caller, &wanted, None).await?;
            return call.done();
        }
        let seen = number(call.query.get("cas"))
            .map_err(|failure| Failure::invalid(format!("Error parsing cas value: {}", failure.text())))?;
        call.json(&call.agent().set_autopilot(&call.caller, &wanted, Some(Revision(seen))).await?)
    })
}

pub(crate) fn autopilot_health(call: &Call<'_>) -> Answered {
    needs(call, Access::Read)?;
    let agent = call.agent();
    let index = agent.reader(&call.caller).current();
    let own = agent.as_member();
    let servers = agent.servers();
    let servers: Vec<_> = servers
        .iter()
        .map(|member| shape::ServerHealth {
            id: member.id.as_str().into(),
            name: member.node.as_str().into(),
            address: member.address.as_str().into(),
            serf_status: "alive".into(),
            version: (&call.config().version).into(),
            leader: leader_address(call) == member.address,
            last_contact: Span::default(),
            last_term: 1,
            last_index: index.0,
            healthy: true,
            voter: true,
            // Of the others it is known that they are alive, and for how long.
            stable_since: Time::from_seconds(if member.id == own.id { call.server.started } else { member.since }),
        })
        .collect();
    // Each of them can do all there is to do.
    let failure_tolerance = servers.len().saturating_sub(1) as u64;
    call.json(&shape::AutopilotHealth { healthy: true, failure_tolerance, servers })
}

pub(crate) fn keyring(call: &Call<'_>) -> Answered {
    if !call.caller.may_in(Access::Read, Realm::Keyring) {
        return Err(Failure::refused("Reading keyring denied by ACLs"));
    }
    check_relays(call)?;
    Err(without_keys(call, "Keyring is empty (encryption not enabled)"))
}

pub(crate) fn change_keyring<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        decode::gossip_key(&body.read().await?)
            .map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))?;
        if !call.caller.may_in(Access::Write, Realm::Keyring) {
            return Err(Failure::refused("Modifying keyring denied due to ACLs"));
        }
        check_relays(call)?;
        Err(without_keys(call, "No keyring to modify (encryption not enabled)"))
    })
}

fn check_relays(call: &Call<'_>) -> Result<(), Failure> {
    match call.query.get("relay-factor") {
        "" | "0" | "1" | "2" | "3" | "4" | "5" => Ok(()),
        text => match text.parse::<i64>() {
            Ok(_) => Err(Failure::invalid("Relay factor must be in range: [0, 5]")),
            Err(_) => Err(Failure::invalid(format!("Error parsing relay factor: {text:?} is no number"))),
        },
    }
}

/// What every member would answer, as the one there is.
fn without_keys(call: &Call<'_>, why: &str) -> Failure {
    let (node, datacenter) = (&call.config().node_name, &call.config().datacenter);
    Failure::refused(format!(
        "4 error(s) occurred:\n\n* WAN error: 1/1 nodes reported failure\n* {node}.{datacenter}: {why}\n* {datacenter} \
         (LAN) error: 1/1 nodes reported failure\n* {node}: {why}"
    ))
}
