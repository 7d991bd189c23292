//! Services, checks and watches of the files: whether they make sense, and how checks are run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_agent::managed::OwnSettings;
use lictor_model::health::{CheckKind, CheckSpec};
use lictor_model::meta;
use lictor_model::service::{Definition, Kind};

use super::Check;
use crate::config::Purpose;
use crate::config::layer::Declared;
use crate::config::merge::Settings;
use crate::config::report::{Group, Origin, Problem, Stage};

/// How checks are run.
#[derive(Clone, Debug)]
pub(crate) struct ChecksConfig {
    /// Scripts may come from files.
    pub(crate) local_scripts: bool,
    /// Scripts may come over HTTP.
    pub(crate) remote_scripts: bool,
    /// Changes of output alone are published at most that often.
    pub(crate) update_interval: Duration,
    /// Keep no output.
    pub(crate) discard_output: bool,
}

/// Reads how checks are run.
pub(crate) fn checks(check: &mut Check<'_>) -> ChecksConfig {
    let settings = check.settings;
    let remote_scripts = settings.flag("enable_script_checks");
    ChecksConfig {
        local_scripts: settings.flag_if_set("enable_local_script_checks").unwrap_or(remote_scripts),
        remote_scripts,
        update_interval: settings.duration("check_update_interval").or_zero(),
        discard_output: settings.flag("discard_check_output"),
    }
}

/// Judges all service definitions.
pub(crate) fn services(check: &mut Check<'_>) {
    let mut ids: BTreeMap<String, &Declared<Definition>> = BTreeMap::new();
    let settings = check.settings;
    for declared in &settings.services {
        service(check, declared);
        let service = &declared.value.service;
        let id = if service.id.is_empty() { service.name.as_str() } else { service.id.as_str() };
        if id.is_empty() {
            continue;
        }
        match ids.get(id) {
            Some(first) => report(
                check,
                declared,
                "id",
                format!("service {id:?} is defined twice: in {} and in {}", first.origin, declared.origin),
                "give each instance an id of its own, or remove one",
                None,
            ),
            None => {
                ids.insert(id.to_owned(), declared);
            }
        }
    }
}

fn report<T>(
    check: &mut Check<'_>,
    declared: &Declared<T>,
    field: &str,
    text: impl Into<String>,
    remedy: &str,
    group: Option<Group>,
) {
    let key = if declared.path.is_empty() { field.to_owned() } else { format!("{}.{field}", declared.path) };
    // What could not be read at that place, or within it, is missing for that reason alone.
    if check.could_not_read(&declared.origin, &key) {
        return;
    }
    check.report(Problem {
        stage: if group.is_some() { Stage::Rules } else { Stage::Start },
        origin: declared.origin.clone(),
        key,
        text: text.into(),
        remedy: remedy.into(),
        group,
    });
}

fn service(check: &mut Check<'_>, declared: &Declared<Definition>) {
    let definition = &declared.value;
    let name = definition.service.name.as_str();
    let group = || Some(Group { head: format!("service {name:?}"), verb: "occurred" });
    if name.is_empty() {
        let text = "Failed to register service \"\": Service name missing";
        report(check, declared, "name", text, "add name = \"…\"", None);
    }
    structure(check, declared, definition, "", &group);
    if let Some(proxy) = &definition.managed_proxy {
        if definition.service.port == 0 {
            let text = "Services with a Connect managed proxy must have a port set";
            report(check, declared, "port", text, "add port = …, where the application listens", group());
        }
        if definition.service.native {
            let text = "Services that are Connect native may not have a proxy configuration";
            report(check, declared, "connect.native", text, "remove native, or the proxy", group());
        }
        if !matches!(proxy.exec_mode.as_str(), "" | "daemon" | "script") {
            let text = format!("failed adding proxy: invalid exec mode: {}", proxy.exec_mode);
            report(check, declared, "connect.proxy.exec_mode", text, "write \"daemon\", or leave it out", None);
        }
        if let Err(why) = OwnSettings::read(proxy.config.as_ref()) {
            let remedy = "write texts in quotes and ports as numbers, or leave them out";
            report(check, declared, "connect.proxy.config", format!("failed adding proxy: {why}"), remedy, None);
        }
        let user = &proxy.run_as;
        if !user.is_empty() && !check.settings.texts("connect.proxy.allowed_users").contains(user) {
            let text = format!("user {user:?} is not among connect.proxy.allowed_users");
            let remedy = "let the agent's connect.proxy.allowed_users name it, or leave it out";
            report(check, declared, "connect.proxy.run_as", text, remedy, group());
        }
        if let Err((name, why)) = proxy.limits.validate() {
            let remedy = "write a number in that range, or leave it out";
            report(check, declared, &format!("connect.proxy.{name}"), format!("{name} {why}"), remedy, group());
        }
    }
    if let Some(sidecar) = &definition.sidecar {
        let inside = "connect.sidecar_service";
        if !sidecar.service.id.is_empty() {
            let text = "sidecar_service can't specify an ID";
            report(check, declared, &format!("{inside}.id"), text, "remove it; it is made from the service's id", None);
        }
        if sidecar.sidecar.is_some() {
            let text = "sidecar_service can't have a nested sidecar_service";
            report(check, declared, &format!("{inside}.{inside}"), text, "remove the inner one", None);
        }
        if sidecar.managed_proxy.is_some() {
            let text = "sidecar_service can't have a managed proxy";
            report(check, declared, &format!("{inside}.connect.proxy"), text, "remove it; a sidecar is a proxy", None);
        }
        if sidecar.service.kind != Kind::ConnectProxy {
            // Its kind, name and port are filled in when it is registered.
            structure(check, declared, sidecar, "connect.sidecar_service.", &group);
        }
    }
}

/// What holds for a service and for its sidecar.
fn structure(
    check: &mut Check<'_>,
    declared: &Declared<Definition>,
    definition: &Definition,
    prefix: &str,
    group: &dyn Fn() -> Option<Group>,
) {
    let service = &definition.service;
    let field = |name: &str| format!("{prefix}{name}");
    let place = |name: &str| format!("{}.{}", declared.path, field(name));
    if service.kind == Kind::ConnectProxy {
        if service.proxy.as_ref().is_none_or(|proxy| proxy.destination_name.is_empty()) {
            let text = "Proxy.DestinationServiceName must be non-empty for Connect proxy services";
            let remedy = "add proxy { destination_service_name = \"…\" }";
            report(check, declared, &field("proxy.destination_service_name"), text, remedy, group());
        }
        if service.port == 0 {
            let text = "Port must be set for a Connect proxy";
            report(check, declared, &field("port"), text, "add port = …, where the proxy listens", group());
        }
        if service.native {
            let text = "A Proxy cannot also be Connect Native, only typical services";
            report(check, declared, &field("connect.native"), text, "remove native", group());
        }
    }
    if let Err(why) = service.weights.validate() {
        let text = format!("Invalid weight definition for service: {why}");
        report(check, declared, &field("weights"), text, "use 1 to 65535 for passing, 0 to 65535 for warning", group());
    }
    if let Err(why) = service.meta.as_ref().map_or(Ok(()), meta::validate) {
        let text = format!("invalid meta for service {:?}: {why}", service.name.as_str());
        report(check, declared, &field("meta"), text, "change or remove this pair", group());
    }
    // The original registers such services, though nobody can use them; so they load here too, but not in silence.
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        let address = &service.address;
        check.warn(format!("config: {}: {}: nobody can reach {address}", declared.origin, place("address")));
    }
    if !(0..=65_535).contains(&service.port) && prefix.is_empty() {
        check.warn(format!("config: {}: {}: {} is no port", declared.origin, place("port"), service.port));
    }
    // A single empty `check` means none; an empty one in the list is a mistake.
    if let Some(single) = definition.check.as_ref().filter(|check| !check.is_empty()) {
        one_check(check, declared, &field("check"), single);
    }
    for (position, listed) in definition.checks.iter().enumerate() {
        one_check(check, declared, &field(&format!("checks[{position}]")), listed);
    }
}

fn one_check<T>(check: &mut Check<'_>, declared: &Declared<T>, field: &str, spec: &CheckSpec) {
    if let Err(why) = spec.validate() {
        let remedy = match spec.kind() {
            CheckKind::None => "say what to do: http, tcp, grpc, args with interval, or ttl, or alias_service",
            _ if spec.interval.is_zero() => "add interval = \"10s\"",
            _ => "remove one of the two",
        };
        report(check, declared, field, format!("Invalid check: {why}"), remedy, None);
    }
    let place = if declared.path.is_empty() { field.to_owned() } else { format!("{}.{field}", declared.path) };
    for text in hopeless(check.settings, spec) {
        check.warn(format!("config: {}: {place}: {text}", declared.origin));
    }
    let scripts = check.settings.flag("enable_script_checks")
        || check.settings.flag_if_set("enable_local_script_checks") == Some(true);
    if matches!(spec.kind(), CheckKind::Script | CheckKind::Docker) && !scripts {
        let text = "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or \
                    'enable_local_script_checks' to true";
        // A flag of the command line may allow them, and whoever validates a directory does not see it.
        match check.purpose {
            Purpose::Run => {
                report(check, declared, field, text, "add enable_local_script_checks = true, or remove the check", None);
            }
            Purpose::Validate => check.warn(format!(
                "config: {}: {place}: scripts are disabled here: the agent will not start without -enable-local-script-checks, \
                 or enable_local_script_checks = true",
                declared.origin
            )),
        }
    }
}

/// What a check is accepted with, as by the original, and can never pass with.
fn hopeless(settings: &Settings, spec: &CheckSpec) -> Vec<String> {
    let mut texts = Vec::new();
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if !spec.tcp.is_empty() && !spec.tcp.rsplit_once(':').is_some_and(|(_, port)| is_port(port)) {
        texts.push(format!("tcp = {:?} has no port: write host:port, or the check never passes", spec.tcp));
    }
    let host = spec.http.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    if !spec.http.is_empty() && host.is_none_or(|(_, host)| host.is_empty()) {
        // A URL may hold a password: it is not shown.
        texts.push("http is no URL: write http://host:port/path or https://…, or the check never passes".to_owned());
    }
    let alias = spec.alias_service.as_str();
    let known = settings.services.iter().any(|declared| {
        let service = &declared.value.service;
        let id = if service.id.is_empty() { service.name.as_str() } else { service.id.as_str() };
        alias.strip_prefix(id).is_some_and(|rest| matches!(rest, "" | "-proxy" | "-sidecar-proxy"))
    });
    if !alias.is_empty() && spec.alias_node.is_empty() && !known {
        // It may be registered over HTTP.
        texts.push(format!("alias_service = {alias:?} is the id of no service that a file defines"));
    }
    texts
}

/// Judges the checks that belong to the node or, by id, to a service.
pub(crate) fn alone(check: &mut Check<'_>) {
    let settings = check.settings;
    let mut ids: BTreeMap<String, Origin> = BTreeMap::new();
    for declared in &settings.checks {
        let spec = &declared.value;
        let id = if spec.id.is_empty() { spec.name.clone() } else { spec.id.to_string() };
        if id.is_empty() {
            report(check, declared, "name", "Failed to register check: CheckID missing", "add name = \"…\"", None);
        } else if let Some(first) = ids.insert(id.clone(), declared.origin.clone()) {
            let text = format!("check {id:?} is defined twice: in {first} and in {}", declared.origin);
            report(check, declared, "id", text, "give each check an id of its own, or remove one", None);
        }
        let whole = Declared { value: (), origin: declared.origin.clone(), path: String::new() };
        one_check(check, &whole, &declared.path, spec);
        let service_id = spec.service_id.as_str();
        let known = settings.services.iter().any(|declared| {
            let service = &declared.value.service;
            let id = if service.id.is_empty() { service.name.as_str() } else { service.id.as_str() };
            id == service_id
        });
        if !service_id.is_empty() && !known {
            // It may have been registered over HTTP and kept, so this is no mistake yet.
            check.inform(format!("config: check {id:?} belongs to service {service_id:?}, which no file defines"));
        }
    }
}

/// Judges the watches.
pub(crate) fn watches(check: &mut Check<'_>) {
    let settings = check.settings;
    for declared in &settings.watches {
        match declared.value.problem() {
            Some(text) => {
                let key = declared.value.problem_key();
                let remedy = match key {
                    "args" => {
                        "add args = [\"PROGRAM\", …], or handler_type = \"http\" with http_handler_config; one of the two"
                    }
                    "type" => "write key, keyprefix, services, nodes, service, checks, event or agent_service",
                    "handler_type" => "write \"script\" or \"http\"",
                    "state" => "keep one of the two",
                    "handler" => "write it in quotes, or use args = [\"PROGRAM\", …]; one of the two",
                    "http_handler_config" | "http_handler_config.path" => {
                        "add http_handler_config { path = \"http://…\" }"
                    }
                    _ => "say which one to watch",
                };
                report(check, declared, key, text, remedy, None);
            }
            None => {
                if let crate::config::watch::Handler::Shell(_) = declared.value.handler {
                    let place: Arc<str> = declared.origin.to_string().into();
                    check.warn(format!("config: {place}: 'handler' of a watch is deprecated; use 'args'"));
                }
            }
        }
    }
}
