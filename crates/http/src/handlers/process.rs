//! `/v1/agent`: the agent as a process and as a member of its cluster.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_agent::tokens::TokenName;
use lictor_api::agent::{Config as StableConfig, Description, Member};
use lictor_model::acl::Access;

use super::stats;
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::{LogLevel, Pending};
use crate::decode;
use crate::error::Failure;
use crate::respond;

/// Status of a member that takes part.
const ALIVE: u8 = 1;
/// Status of one that is gone without a word.
const FAILED: u8 = 4;

pub(crate) fn description(call: &Call<'_>) -> Answered {
    call.needs_agent(Access::Read)?;
    let config = call.config();
    let node = call.agent().node();
    call.json(&Description {
        config: StableConfig {
            datacenter: (&config.datacenter).into(),
            node_name: config.node_name.as_str().into(),
            node_id: (&config.node_id).into(),
            revision: (&config.revision).into(),
            server: !call.agent().is_client(),
            version: (&config.version).into(),
        },
        debug_config: Cow::Borrowed(&config.debug_config),
        coord: call.agent().coordinate().as_ref().map(super::coordinate::point),
        member: member(call, Pool::Lan),
        stats: stats::of(call),
        meta: Cow::Owned(node.meta.unwrap_or_default()),
    })
}

/// Which members are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    /// Those of the datacenter.
    Lan,
    /// The servers of all datacenters.
    Wan,
}

/// This agent as a member.
fn member<'a>(call: &'a Call<'_>, pool: Pool) -> Member<'a> {
    let config = call.config();
    let mut tags: BTreeMap<Cow<'a, str>, Cow<'a, str>> = BTreeMap::new();
    tags.insert("acls".into(), if call.agent().acls_enabled() { "1" } else { "0" }.into());
    let is_server = !call.agent().is_client();
    if is_server && !call.agent().is_sharing() {
        tags.insert("bootstrap".into(), "1".into());
    }
    tags.insert("build".into(), format!("{}:{}", config.version, short(&config.revision)).into());
    tags.insert("dc".into(), (&config.datacenter).into());
    tags.insert("id".into(), (&config.node_id).into());
    if is_server {
        tags.insert("port".into(), config.ports.server.to_string().into());
        tags.insert("raft_vsn".into(), "3".into());
    }
    tags.insert("role".into(), if is_server { "consul" } else { "node" }.into());
    tags.insert("segment".into(), "".into());
    tags.insert("vsn".into(), "2".into());
    tags.insert("vsn_min".into(), "2".into());
    tags.insert("vsn_max".into(), "3".into());
    if is_server && pool == Pool::Lan {
        tags.insert("wan_join_port".into(), config.ports.serf_wan.to_string().into());
    }
    let name = config.node_name.as_str();
    Member {
        name: match pool {
            Pool::Lan => name.into(),
            Pool::Wan => format!("{name}.{}", config.datacenter).into(),
        },
        addr: match pool {
            Pool::Lan => config.advertise_addr,
            Pool::Wan => config.advertise_addr_wan,
        }
        .to_string()
        .into(),
        port: match pool {
            Pool::Lan => config.ports.serf_lan,
            Pool::Wan => config.ports.serf_wan,
        },
        tags,
        status: ALIVE,
        protocol_min: 1,
        protocol_max: 5,
        protocol_cur: 2,
        delegate_min: 2,
        delegate_max: 5,
        delegate_cur: 4,
    }
}

/// Another agent over the same store as a member. What it does not tell the others is taken to be as it is here: who shares a
/// store is of one kind.
fn other<'a>(call: &'a Call<'_>, pool: Pool, known: &'a lictor_state::presence::Member, status: u8) -> Member<'a> {
    let mut member = member(call, pool);
    let host_and_port = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse::<u16>().ok()?))
    };
    let (host, port) = host_and_port(&known.address).unwrap_or_else(|| (known.address.clone(), 0));
    member.name = match pool {
        Pool::Lan => known.node.as_str().into(),
        Pool::Wan => format!("{}.{}", known.node, call.config().datacenter).into(),
    };
    member.addr = host.into();
    if let (Pool::Lan, Some((_, port))) = (pool, host_and_port(&known.ping)) {
        member.port = port;
    }
    member.tags.insert("id".into(), known.id.as_str().into());
    if known.is_server {
        member.tags.insert("port".into(), port.to_string().into());
    } else {
        for of_servers in ["bootstrap", "port", "raft_vsn", "wan_join_port"] {
            member.tags.remove(of_servers);
        }
        member.tags.insert("role".into(), "node".into());
    }
    member.status = status;
    member
}

/// The first digits of a source revision.
pub(super) fn short(revision: &str) -> &str {
    revision.get(..8).unwrap_or(revision)
}

pub(crate) fn members(call: &Call<'_>) -> Answered {
    let wan = !call.query.get("wan").is_empty();
    match call.query.get("segment") {
        "" | "_all" => {}
        _ if wan => return Err(Failure::invalid("Cannot provide a segment with wan=true")),
        _ => return Err(Failure::refused("Network segments are not supported in this version of Consul")),
    }
    let pool = if wan { Pool::Wan } else { Pool::Lan };
    let agent = call.agent();
    let own = agent.as_member();
    // Between datacenters there are servers only.
    let counts =
        |member: &lictor_state::presence::Member| member.node != own.node && (pool == Pool::Lan || member.is_server);
    // An agent that answers is alive, whatever became of its lease.
    let alive: Vec<_> = agent.members().into_iter().filter(&counts).collect();
    let lost: Vec<_> = agent.lost_members().into_iter().filter(&counts).collect();
    let all = std::iter::once(member(call, pool))
        .chain(alive.iter().map(|known| other(call, pool, known, ALIVE)))
        .chain(lost.iter().map(|known| other(call, pool, known, FAILED)));
    let visible: Vec<Member<'_>> = all.filter(|member| call.caller.reads_node(&member.name)).collect();
    call.json(&visible)
}

/// The log as it is written.
pub(crate) fn monitor(call: &Call<'_>) -> Answered {
    call.needs_agent(Access::Read)?;
    let level = match call.query.get("loglevel") {
        "" => LogLevel::Info,
        text => LogLevel::parse(text)
            .ok_or_else(|| Failure::invalid(format!("Unknown log level: {}", text.to_ascii_uppercase())))?,
    };
    Ok(respond::stream(call.server.process.log_tail(level)))
}

pub(crate) fn reload<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_agent(Access::Write)?;
        call.server.process.reload().await.map_err(Failure::refused)?;
        call.done()
    })
}

pub(crate) fn leave<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_agent(Access::Write)?;
        call.server.process.leave().await;
        call.done()
    })
}

/// A client agent joins a server. For a server there is nobody to join: those of a cluster find each other through their
/// store.
pub(crate) fn join<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_agent(Access::Write)?;
        let joined = match &call.config().elsewhere {
            None => Err("this agent has no gossip membership".to_owned()),
            Some(elsewhere) => {
                let address = with_port(call.argument, call.config().ports.serf_lan, call.config().ports.server);
                elsewhere.servers.connect_to(&address).await.map_err(|error| error.to_string())
            }
        };
        joined.map_err(|why| {
            Failure::refused(format!("1 error(s) occurred:\n\n* Failed to join {}: {why}", call.argument))
        })?;
        call.done()
    })
}

/// The port of gossip where the original has nothing else.
const GOSSIP_PORT: u16 = 8301;
/// The port of servers.
const SERVER_PORT: u16 = 8300;

/// The address of a server: one without a port, or with that of gossip, is asked at the port that servers have.
fn with_port(address: &str, gossip: u16, server: u16) -> String {
    let server = if server == 0 { SERVER_PORT } else { server };
    if let Ok(ip) = address.trim_matches(['[', ']']).parse() {
        return std::net::SocketAddr::new(ip, server).to_string();
    }
    match address.rsplit_once(':') {
        Some((host, port)) if port.parse().is_ok_and(|port: u16| port == GOSSIP_PORT || port == gossip) => {
            format!("{host}:{server}")
        }
        Some(_) => address.to_owned(),
        None => format!("{address}:{server}"),
    }
}

/// Forgets a node whose agent is lost. Of unknown names, and of agents that are alive, the original says the same.
pub(crate) fn force_leave<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_agent(Access::Write)?;
        call.agent().force_leave(call.argument).await?;
        call.done()
    })
}

/// Sets a token that the agent uses for itself.
pub(crate) fn token<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_agent(Access::Write)?;
        let body = body.read().await?;
        let secret = decode::token(&body).map_err(|e| Failure::invalid(format!("Request decode failed: {e}")))?;
        let unknown = || Failure::NotFound(format!("Token {:?} is unknown", call.argument));
        let name = TokenName::parse(call.argument).ok_or_else(unknown)?;
        call.agent().set_token(name, &secret)?;
        call.done()
    })
}
