//! Bodies of requests that are no service or check definitions: catalog entries, intentions, and small questions.
//!
//! Keys have no case, unknown ones are ignored, and the texts of errors are those clients know (without what stands
//! before them, which differs between endpoints).

mod transaction;

use std::time::Duration;

use lictor_agent::acl::{LegacyRequest, TokenRequest};
use lictor_api::definition;
use lictor_model::Opaque;
use lictor_model::health::{Check, CheckDefinition, Status};
use lictor_model::intention::{Intention, Party};
use lictor_model::node::Node;
use lictor_model::query::{Failover, Query, Question as Asked, Template};
use lictor_model::revision::Revision;
use lictor_model::service::{Service, Weights};
use lictor_model::token::{Policy, PolicyLink};
use lictor_notation::decode::{self, Fields, Mistake, Problems, Rules, Spelling};
use lictor_notation::duration::GoDuration;
use lictor_notation::json;
use lictor_notation::tree::{Object, Tree};
use lictor_state::autopilot;
use lictor_state::coordinate::{Coordinate, NodeCoordinate};
use lictor_state::session::{Behavior, Session};
use lictor_state::writer::Registration;

use crate::error::Failure;

pub(crate) use transaction::transaction;

const RULES: Rules = Rules::HTTP;

/// The check by which a node counts as alive; a session that names none is bound to it.
const SERF_HEALTH: &str = "serfHealth";

const DEFAULT_LOCK_DELAY: Duration = Duration::from_secs(15);

/// Reads a body as one object; `null` is an empty one.
fn object<T>(body: &[u8], rules: Rules, read: impl FnOnce(&mut Fields<'_, '_>) -> T) -> Result<T, String> {
    let empty = Object::default();
    let tree = json::decode_first(body)?;
    let kind = match &tree {
        Tree::Object(object) => Ok(object),
        Tree::Null => Ok(&empty),
        Tree::List(_) => Err("slice"),
        Tree::Text(_) => Err("string"),
        Tree::Number(_) => Err("float64"),
        Tree::Bool(_) => Err("bool"),
    };
    let object = kind.map_err(|kind| format!("'' expected a map, got '{kind}'"))?;
    let mut problems = Problems::new();
    let value = decode::object(object, "", rules, &mut problems, read);
    match problems.first(Mistake::Form) {
        Some(form) => Err(form.text.clone()),
        None if problems.is_empty() => Ok(value),
        None => Err(problems.listed("decoding")),
    }
}

/// A catalog registration, with the datacenter it is for.
#[derive(Debug, Default)]
pub(crate) struct CatalogEntry {
    pub(crate) datacenter: String,
    pub(crate) registration: Registration,
}

/// `PUT /v1/catalog/register`.
pub(crate) fn catalog_entry(body: &[u8]) -> Result<CatalogEntry, String> {
    object(body, RULES.spelled(catalog_spelling), |fields| {
        let node = Node {
            id: named(fields, "ID"),
            name: named(fields, "Node").into(),
            address: text(fields, "Address"),
            tagged_addresses: fields.text_map("TaggedAddresses"),
            meta: fields.text_map("NodeMeta"),
        };
        let mut checks: Vec<Check> = fields.object("Check", check).into_iter().collect();
        checks.extend(fields.objects("Checks", check).unwrap_or_default());
        CatalogEntry {
            datacenter: text(fields, "Datacenter"),
            registration: Registration {
                node,
                skip_node_update: fields.flag("SkipNodeUpdate").unwrap_or_default(),
                service: fields.object("Service", service),
                checks,
            },
        }
    })
}

/// Fields of definitions have names in the spelling of files; in the catalog a service's name is called `Service`.
fn catalog_spelling(name: &'static str) -> Spelling {
    if name == "name" { Spelling::only("Service") } else { definition::http_spelling(name) }
}

fn service(fields: &mut Fields<'_, '_>) -> Service {
    let mut service = definition::service_fields(fields).service;
    if service.weights.validate().is_err() {
        service.weights = Weights::default();
    }
    service
}

fn check(fields: &mut Fields<'_, '_>) -> Check {
    let name = named(fields, "Name");
    let mut id = named(fields, "CheckID");
    if id.is_empty() {
        id.clone_from(&name);
    }
    Check {
        node: named(fields, "Node").into(),
        id: id.into(),
        name,
        // Words that are no status are taken as the default: a catalog that keeps them misleads every reader.
        status: fields.text("Status").and_then(|text| Status::parse(&text)).unwrap_or_default(),
        notes: text(fields, "Notes"),
        output: text(fields, "Output"),
        service_id: named(fields, "ServiceID").into(),
        service_name: named(fields, "ServiceName").into(),
        service_tags: fields.texts("ServiceTags"),
        definition: fields.object("Definition", check_definition).unwrap_or_default(),
    }
}

fn check_definition(fields: &mut Fields<'_, '_>) -> CheckDefinition {
    let mut duration = |name| fields.duration(name).unwrap_or_default().or_zero();
    CheckDefinition {
        interval: duration("Interval"),
        timeout: duration("Timeout"),
        deregister_critical_service_after: duration("DeregisterCriticalServiceAfter"),
        http: text(fields, "HTTP"),
        tls_skip_verify: fields.flag("TLSSkipVerify").unwrap_or_default(),
        header: fields.texts_map("Header").unwrap_or_default(),
        method: text(fields, "Method"),
        tcp: text(fields, "TCP"),
    }
}

/// `PUT /v1/catalog/deregister`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CatalogRemoval {
    pub(crate) datacenter: String,
    pub(crate) node: String,
    pub(crate) service_id: String,
    pub(crate) check_id: String,
}

/// Reads a [`CatalogRemoval`].
pub(crate) fn catalog_removal(body: &[u8]) -> Result<CatalogRemoval, String> {
    object(body, RULES, |fields| CatalogRemoval {
        datacenter: text(fields, "Datacenter"),
        node: named(fields, "Node"),
        service_id: named(fields, "ServiceID"),
        check_id: named(fields, "CheckID"),
    })
}

/// `POST` and `PUT /v1/connect/intentions`. Times, indexes and precedence are not the client's to say.
pub(crate) fn intention(body: &[u8]) -> Result<Intention, String> {
    object(body, RULES, |fields| Intention {
        id: named(fields, "ID"),
        description: text(fields, "Description"),
        source: Party { namespace: named(fields, "SourceNS"), name: named(fields, "SourceName") },
        destination: Party { namespace: named(fields, "DestinationNS"), name: named(fields, "DestinationName") },
        source_type: text(fields, "SourceType"),
        action: text(fields, "Action"),
        default_addr: text(fields, "DefaultAddr"),
        default_port: fields.int("DefaultPort").unwrap_or_default(),
        meta: fields.text_map("Meta").unwrap_or_default(),
        created_at: 0,
        updated_at: 0,
        created: Revision::ZERO,
        modified: Revision::ZERO,
    })
}

/// `PUT /v1/connect/ca/configuration`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CaSettings {
    pub(crate) provider: String,
    pub(crate) config: Option<Opaque>,
}

/// Reads [`CaSettings`].
pub(crate) fn ca_settings(body: &[u8]) -> Result<CaSettings, String> {
    object(body, RULES, |fields| CaSettings { provider: text(fields, "Provider"), config: fields.opaque("Config") })
}

/// `POST /v1/agent/connect/authorize`. The serial number is there for a revocation that never came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) target: String,
    pub(crate) client_cert_uri: String,
}

/// Reads a [`Question`].
pub(crate) fn question(body: &[u8]) -> Result<Question, String> {
    object(body, RULES, |fields| {
        let _ = fields.text("ClientCertSerial");
        Question { target: named(fields, "Target"), client_cert_uri: named(fields, "ClientCertURI") }
    })
}

/// `PUT /v1/agent/check/update/:id`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckReport {
    pub(crate) status: String,
    pub(crate) output: String,
}

/// Reads a [`CheckReport`].
pub(crate) fn check_report(body: &[u8]) -> Result<CheckReport, String> {
    object(body, RULES, |fields| CheckReport { status: text(fields, "Status"), output: text(fields, "Output") })
}

/// `PUT /v1/session/create`: nothing at all is a session of this node with every default.
pub(crate) fn session(body: &[u8]) -> Result<Session, Failure> {
    let defaults = Session { checks: vec![SERF_HEALTH.into()], lock_delay: DEFAULT_LOCK_DELAY, ..Session::default() };
    if body.is_empty() {
        return Ok(defaults);
    }
    let (session, behavior) = object(body, RULES, |fields| {
        let checks = fields.mentions("Checks").then(|| fields.texts("Checks").unwrap_or_default());
        let session = Session {
            name: named(fields, "Name"),
            node: named(fields, "Node").into(),
            checks: checks.map_or(defaults.checks, |ids| ids.into_iter().map(Into::into).collect()),
            lock_delay: fields.duration("LockDelay").map_or(defaults.lock_delay, lock_delay),
            ttl: text(fields, "TTL"),
            ..Session::default()
        };
        (session, text(fields, "Behavior"))
    })
    .map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))?;
    match Behavior::parse(&behavior) {
        Some(behavior) => Ok(Session { behavior, ..session }),
        None => Err(Failure::refused(format!("Invalid Behavior setting '{behavior}'"))),
    }
}

/// `PUT /v1/coordinate/update`.
pub(crate) fn coordinate(body: &[u8]) -> Result<NodeCoordinate, String> {
    object(body, RULES, |fields| NodeCoordinate {
        node: named(fields, "Node").into(),
        segment: named(fields, "Segment"),
        coordinate: fields.object("Coord", point).unwrap_or(NOWHERE),
    })
}

/// Of no dimension at all, which is refused.
const NOWHERE: Coordinate = Coordinate { vec: Vec::new(), error: 0.0, adjustment: 0.0, height: 0.0 };

fn point(fields: &mut Fields<'_, '_>) -> Coordinate {
    Coordinate {
        vec: fields.floats("Vec").unwrap_or_default(),
        error: fields.float("Error").unwrap_or_default(),
        adjustment: fields.float("Adjustment").unwrap_or_default(),
        height: fields.float("Height").unwrap_or_default(),
    }
}

/// `PUT /v1/operator/autopilot/configuration`.
pub(crate) fn autopilot(body: &[u8]) -> Result<autopilot::Settings, String> {
    object(body, RULES, |fields| {
        let known = autopilot::Settings {
            cleanup_dead_servers: fields.flag("CleanupDeadServers").unwrap_or_default(),
            last_contact_threshold: fields.duration("LastContactThreshold").unwrap_or_default().or_zero(),
            max_trailing_logs: fields.natural("MaxTrailingLogs").unwrap_or_default(),
            server_stabilization_time: fields.duration("ServerStabilizationTime").unwrap_or_default().or_zero(),
            redundancy_zone_tag: text(fields, "RedundancyZoneTag"),
            disable_upgrade_migration: fields.flag("DisableUpgradeMigration").unwrap_or_default(),
            upgrade_version_tag: text(fields, "UpgradeVersionTag"),
        };
        // What a client read before it sends back whole.
        let _ = (fields.int("CreateIndex"), fields.int("ModifyIndex"));
        known
    })
}

/// `POST`, `PUT` and `DELETE /v1/operator/keyring`: a key of gossip encryption.
pub(crate) fn gossip_key(body: &[u8]) -> Result<String, String> {
    object(body, RULES, |fields| named(fields, "Key"))
}

/// A number so small cannot be meant as nanoseconds: it is seconds.
fn lock_delay(given: GoDuration) -> Duration {
    let nanos = given.nanos();
    if nanos < 1000 { GoDuration::from_secs(nanos).or_zero() } else { given.or_zero() }
}

/// `PUT /v1/agent/token/:name`: the secret; empty clears.
pub(crate) fn token(body: &[u8]) -> Result<String, String> {
    object(body, RULES, |fields| named(fields, "Token"))
}

/// `PUT /v1/acl/policy`. Hash and indexes are not the client's to say.
pub(crate) fn policy(body: &[u8]) -> Result<Policy, String> {
    object(body, RULES, |fields| Policy {
        id: named(fields, "ID"),
        name: named(fields, "Name"),
        description: text(fields, "Description"),
        rules: text(fields, "Rules"),
        datacenters: fields.texts("Datacenters"),
        ..Policy::default()
    })
}

/// `PUT /v1/acl/token`. Times, hash and indexes are not the client's to say.
pub(crate) fn acl_token(body: &[u8]) -> Result<TokenRequest, String> {
    object(body, RULES, |fields| TokenRequest {
        accessor: named(fields, "AccessorID"),
        secret: named(fields, "SecretID"),
        description: text(fields, "Description"),
        policies: fields.objects("Policies", policy_link).unwrap_or_default(),
        rules: text(fields, "Rules"),
        kind: text(fields, "Type"),
        local: fields.flag("Local").unwrap_or_default(),
    })
}

fn policy_link(fields: &mut Fields<'_, '_>) -> PolicyLink {
    PolicyLink { id: named(fields, "ID"), name: named(fields, "Name") }
}

/// `PUT /v1/acl/create` and `/v1/acl/update`.
pub(crate) fn legacy_token(body: &[u8]) -> Result<LegacyRequest, String> {
    object(body, RULES, |fields| LegacyRequest {
        secret: named(fields, "ID"),
        name: named(fields, "Name"),
        kind: fields.text("Type").unwrap_or_else(|| "client".to_owned()),
        rules: text(fields, "Rules"),
    })
}

/// `POST` and `PUT /v1/query`. Indexes are not the client's to say.
pub(crate) fn query(body: &[u8]) -> Result<Query, String> {
    object(body, RULES, |fields| {
        let template = fields.object("Template", |fields| Template {
            kind: text(fields, "Type"),
            regexp: text(fields, "Regexp"),
            remove_empty_tags: fields.flag("RemoveEmptyTags").unwrap_or_default(),
        });
        let dns_ttl = fields.object("DNS", |fields| text(fields, "TTL"));
        Query {
            id: named(fields, "ID"),
            name: named(fields, "Name"),
            session: named(fields, "Session"),
            token: named(fields, "Token"),
            template: template.unwrap_or_default(),
            service: fields.object("Service", asked).unwrap_or_default(),
            dns_ttl: dns_ttl.unwrap_or_default(),
            created: Revision::ZERO,
            modified: Revision::ZERO,
        }
    })
}

fn asked(fields: &mut Fields<'_, '_>) -> Asked {
    let failover = fields.object("Failover", |fields| Failover {
        nearest: fields.int("NearestN").unwrap_or_default(),
        datacenters: fields.texts("Datacenters"),
    });
    Asked {
        service: named(fields, "Service"),
        failover: failover.unwrap_or_default(),
        only_passing: fields.flag("OnlyPassing").unwrap_or_default(),
        ignore_check_ids: fields.texts("IgnoreCheckIDs"),
        near: named(fields, "Near"),
        tags: fields.texts("Tags"),
        node_meta: fields.text_map("NodeMeta"),
        service_meta: fields.text_map("ServiceMeta"),
        connect: fields.flag("Connect").unwrap_or_default(),
    }
}

fn text(fields: &mut Fields<'_, '_>, name: &'static str) -> String {
    fields.text(name).unwrap_or_default()
}

fn named(fields: &mut Fields<'_, '_>, name: &'static str) -> String {
    fields.name(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_defaults_for_what_is_not_said() {
        let silent = session(b"").unwrap();
        assert_eq!((silent.checks, silent.lock_delay), (vec!["serfHealth".into()], Duration::from_secs(15)));
        let read = |body: &str| session(body.as_bytes()).unwrap();
        assert_eq!(read(r#"{"checks": null}"#).checks, []);
        assert_eq!(read(r#"{"Checks": ["a"]}"#).checks, ["a".into()]);
        for (delay, expected) in [("\"5s\"", 5_000), ("7", 7_000), ("1500000000", 1_500), ("\"0s\"", 0)] {
            let session = read(&format!(r#"{{"LockDelay": {delay}}}"#));
            assert_eq!(session.lock_delay, Duration::from_millis(expected), "{delay}");
        }
        assert_eq!(read(r#"{"Behavior": "delete"}"#).behavior, Behavior::Delete);
        let failure = session(br#"{"Behavior": "nope"}"#).unwrap_err();
        assert_eq!((failure.status().as_u16(), failure.text().as_str()), (500, "Invalid Behavior setting 'nope'"));
        assert_eq!(session(b"{").unwrap_err().text(), "Request decode failed: unexpected EOF");
    }

    #[test]
    fn a_name_that_nobody_has_is_refused() {
        let long = "x".repeat(5000);
        let why = |at: &str| format!("'{at}' has 5000 bytes, and a name has at most 4096");
        let body = |of: &str| format!("{{{}}}", of.replace("LONG", &format!("\"{long}\"")));
        for (of, at) in [
            (r#""Node": LONG"#, "Node"),
            (r#""Service": {"Service": LONG}"#, "Service.Service"),
            (r#""Service": {"Service": "a", "ID": LONG}"#, "Service.ID"),
            (r#""Checks": [{"CheckID": LONG}]"#, "Checks[0].CheckID"),
            (r#""Service": {"Proxy": {"DestinationServiceName": LONG}}"#, "Service.Proxy.DestinationServiceName"),
        ] {
            assert_eq!(catalog_entry(body(of).as_bytes()).unwrap_err(), why(at));
        }
        let of = |of: &str| body(of).into_bytes();
        assert_eq!(catalog_removal(&of(r#""CheckID": LONG"#)).unwrap_err(), why("CheckID"));
        assert_eq!(intention(&of(r#""SourceName": LONG"#)).unwrap_err(), why("SourceName"));
        assert_eq!(question(&of(r#""Target": LONG"#)).unwrap_err(), why("Target"));
        assert_eq!(query(&of(r#""Name": LONG"#)).unwrap_err(), why("Name"));
        assert_eq!(query(&of(r#""Service": {"Service": LONG}"#)).unwrap_err(), why("Service.Service"));
        let failure = session(&of(r#""Name": LONG"#)).unwrap_err();
        assert_eq!(failure.status(), 400);
        assert_eq!(failure.text(), format!("Request decode failed: {}", why("Name")));
        let refused = transaction(&[b"[", of(r#""Node": {"Node": {"Node": LONG}}"#).as_slice(), b"]"].concat());
        assert!(refused.unwrap_err().contains(&why("[0].Node.Node.Node")));
        // What is no name may be long.
        assert!(intention(&of(r#""Description": LONG"#)).is_ok());
    }

    #[test]
    fn a_catalog_entry_is_read_whole() {
        let entry = catalog_entry(
            br#"{"Datacenter": "dc1", "Node": "n1", "Address": "10.0.0.1", "NodeMeta": {"a": "b"}, "SkipNodeUpdate": true,
                "Service": {"ID": "w1", "Service": "web", "Port": 80, "Tags": ["x"], "Weights": {"Passing": 0},
                    "Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "db", "Upstreams":
                    [{"DestinationName": "u", "LocalBindPort": 9}]}, "Connect": {"Native": true}},
                "Check": {"Name": "c", "status": "passing", "ServiceID": "w1",
                    "Definition": {"http": "http://x", "interval": "30s", "Timeout": 5000000000}},
                "Checks": [{"CheckID": "d", "Status": "odd"}]}"#,
        )
        .unwrap();
        assert_eq!(entry.datacenter, "dc1");
        let Registration { node, skip_node_update, service, checks } = entry.registration;
        assert_eq!((node.name.as_str(), node.address.as_str(), skip_node_update), ("n1", "10.0.0.1", true));
        assert_eq!(node.tagged_addresses, None);
        let service = service.unwrap();
        assert_eq!((service.id.as_str(), service.name.as_str(), service.port), ("w1", "web", 80));
        assert_eq!(service.weights, Weights::default());
        let proxy = service.proxy.unwrap();
        assert_eq!((proxy.destination_name.as_str(), proxy.upstreams[0].local_bind_port), ("db", 9));
        assert_eq!((checks[0].id.as_str(), checks[0].status), ("c", Status::Passing));
        assert_eq!(checks[0].definition.interval, Duration::from_secs(30));
        assert_eq!(checks[0].definition.timeout, Duration::from_secs(5));
        assert_eq!((checks[1].id.as_str(), checks[1].status), ("d", Status::Critical));
    }

    #[test]
    fn mistakes_have_the_texts_clients_know() {
        assert_eq!(question(b"").unwrap_err(), "EOF");
        assert_eq!(question(b"{").unwrap_err(), "unexpected EOF");
        assert_eq!(question(b"[]").unwrap_err(), "'' expected a map, got 'slice'");
        assert_eq!(
            question(br#"{"Target": 1}"#).unwrap_err(),
            "1 error(s) decoding:\n\n* 'Target' expected type 'string', got unconvertible type 'float64'"
        );
        assert_eq!(question(br#"{"target": "db", "unknown": 1}"#).unwrap().target, "db");
        assert_eq!(question(b"null").unwrap(), Question::default());
    }

    #[test]
    fn an_intention_that_says_nothing_is_empty() {
        let intention = intention(br#"{"SourceName": "web", "Meta": {"k": "v"}}"#).unwrap();
        assert_eq!(intention.source.name, "web");
        assert_eq!(intention.meta["k"], "v");
        assert_eq!(super::intention(b"null").unwrap().action, "");
    }
}
