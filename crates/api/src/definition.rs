//! Registrations as people and programs write them, in both spellings: files (`local_bind_port`, strict) and HTTP
//! bodies (`LocalBindPort`, lenient), read into one [`Definition`].
//!
//! Only the shape is judged here. Whether a definition makes sense (a port for a proxy, an interval for a check) is
//! the agent's business, except for what has no place in the result: a status that is none, a negative duration.

mod written;

use lictor_model::health::{CheckSpec, Status};
use lictor_model::service::{Definition, Kind, ManagedProxy, ProxyLimits, ProxySpec, Service, Upstream, Weights};
use lictor_notation::decode::{self, Fields, Mistake, Problem, Problems, Rules, Spelling, UnknownKeys};
use lictor_notation::{Tree, json};
use serde_json::Value;

/// Rules for definitions in HTTP bodies.
const HTTP: Rules = Rules::HTTP.spelled(http_spelling);

/// Reads the body of a service registration. The error is the whole text of the 400 answer.
pub fn service_from_http(body: &[u8]) -> Result<Definition, String> {
    from_http(body, "Status for checks must 'passing', 'warning', 'critical'", |fields| service(fields, 0))
}

/// Reads the body of a check registration. The error is the whole text of the 400 answer.
pub fn check_from_http(body: &[u8]) -> Result<CheckSpec, String> {
    from_http(body, "Bad check status", |fields| check(fields, CheckPlace::Alone))
}

/// Reads a service definition of a file. `rules` are those of the file's language, `path` is the place of the
/// definition in the file, for messages.
pub fn service_from_file(tree: &Tree, rules: Rules, path: &str, problems: &mut Problems) -> Definition {
    from_file(tree, rules, path, problems, |fields| service(fields, 0))
}

/// Reads a check definition of a file; see [`service_from_file`].
pub fn check_from_file(tree: &Tree, rules: Rules, path: &str, problems: &mut Problems) -> CheckSpec {
    from_file(tree, rules, path, problems, |fields| check(fields, CheckPlace::Alone))
}

/// The body of a registration that says what a definition says: the way back from [`service_from_http`].
pub fn service_to_http(definition: &Definition) -> Value {
    written::service(definition)
}

/// Reads the fields of a service definition that is a part of something larger, such as a configuration file. The
/// fields should be spelled by [`file_spelling`].
pub fn service_fields(fields: &mut Fields<'_, '_>) -> Definition {
    service(fields, 0)
}

/// Reads the fields of a check definition that is a part of something larger; see [`service_fields`].
pub fn check_fields(fields: &mut Fields<'_, '_>) -> CheckSpec {
    check(fields, CheckPlace::Alone)
}

/// How definitions are spelled in files: one spelling, and for a few fields of checks the old CamelCase one.
pub fn file_spelling(name: &'static str) -> Spelling {
    let others: &[&str] = match name {
        "args" => &["ScriptArgs"],
        "deregister_critical_service_after" => &["DeregisterCriticalServiceAfter"],
        "docker_container_id" => &["DockerContainerID"],
        "service_id" => &["ServiceID"],
        "tls_skip_verify" => &["TLSSkipVerify"],
        _ => &[],
    };
    Spelling { shown: name, others }
}

/// How the same fields are spelled over HTTP, and which of them may be given in the files' spelling as well.
pub fn http_spelling(name: &'static str) -> Spelling {
    let (shown, others): (_, &'static [&'static str]) = match name {
        "address" => ("Address", &[]),
        "alias_node" => ("AliasNode", &[]),
        "alias_service" => ("AliasService", &[]),
        "args" => ("ScriptArgs", &["args", "script_args"]),
        "check" => ("Check", &[]),
        "check_id" => ("CheckID", &[]),
        "checks" => ("Checks", &[]),
        "command" => ("Command", &[]),
        "config" => ("Config", &[]),
        "cpu_weight" => ("CPUWeight", &["cpu_weight"]),
        "connect" => ("Connect", &[]),
        "datacenter" => ("Datacenter", &[]),
        "deregister_critical_service_after" => {
            ("DeregisterCriticalServiceAfter", &["deregister_critical_service_after"])
        }
        "destination_name" => ("DestinationName", &["destination_name"]),
        "destination_namespace" => ("DestinationNamespace", &["destination_namespace"]),
        "destination_service_id" => ("DestinationServiceID", &["destination_service_id"]),
        "destination_service_name" => ("DestinationServiceName", &["destination_service_name"]),
        "destination_type" => ("DestinationType", &["destination_type"]),
        "docker_container_id" => ("DockerContainerID", &["docker_container_id"]),
        "enable_tag_override" => ("EnableTagOverride", &["enable_tag_override"]),
        "exec_mode" => ("ExecMode", &["exec_mode"]),
        "grpc" => ("GRPC", &[]),
        "grpc_use_tls" => ("GRPCUseTLS", &[]),
        "header" => ("Header", &[]),
        "http" => ("HTTP", &[]),
        "id" => ("ID", &[]),
        "interval" => ("Interval", &[]),
        "kind" => ("Kind", &[]),
        "limit_memory" => ("LimitMemory", &["limit_memory"]),
        "limit_open_files" => ("LimitOpenFiles", &["limit_open_files"]),
        "local_bind_address" => ("LocalBindAddress", &["local_bind_address"]),
        "local_bind_port" => ("LocalBindPort", &["local_bind_port"]),
        "local_service_address" => ("LocalServiceAddress", &["local_service_address"]),
        "local_service_port" => ("LocalServicePort", &["local_service_port"]),
        "meta" => ("Meta", &[]),
        "method" => ("Method", &[]),
        "name" => ("Name", &[]),
        "native" => ("Native", &[]),
        "notes" => ("Notes", &[]),
        "passing" => ("Passing", &[]),
        "port" => ("Port", &[]),
        "proxy" => ("Proxy", &[]),
        "proxy_destination" => ("ProxyDestination", &[]),
        "run_as" => ("RunAs", &["run_as"]),
        "service_id" => ("ServiceID", &["service_id"]),
        "shell" => ("Shell", &[]),
        "sidecar_service" => ("SidecarService", &["sidecar_service"]),
        "status" => ("Status", &[]),
        "tags" => ("Tags", &[]),
        "tcp" => ("TCP", &[]),
        "timeout" => ("Timeout", &[]),
        "tls_skip_verify" => ("TLSSkipVerify", &["tls_skip_verify"]),
        "token" => ("Token", &[]),
        "ttl" => ("TTL", &[]),
        "upstreams" => ("Upstreams", &[]),
        "warning" => ("Warning", &[]),
        "weights" => ("Weights", &[]),
        other => (other, &[]),
    };
    Spelling { shown, others }
}

fn from_http<T: Default>(
    body: &[u8],
    bad_status: &str,
    read: impl FnOnce(&mut Fields<'_, '_>) -> T,
) -> Result<T, String> {
    let tree = json::decode_first(body).map_err(|error| format!("Request decode failed: {error}"))?;
    let object = match &tree {
        Tree::Object(object) => object,
        Tree::Null => return Ok(T::default()),
        Tree::List(_) => return Err("Request decode failed: '' expected a map, got 'slice'".into()),
        Tree::Text(_) => return Err("Request decode failed: '' expected a map, got 'string'".into()),
        Tree::Number(_) => return Err("Request decode failed: '' expected a map, got 'float64'".into()),
        Tree::Bool(_) => return Err("Request decode failed: '' expected a map, got 'bool'".into()),
    };
    let mut problems = Problems::new();
    let value = decode::object(object, "", HTTP, &mut problems, read);
    if let Some(form) = problems.first(Mistake::Form) {
        return Err(format!("Request decode failed: {}", form.text));
    }
    let (values, types): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(|problem| problem.mistake == Mistake::Value);
    if !types.is_empty() {
        let mut texts: Vec<String> = types.into_iter().map(|problem| problem.text).collect();
        texts.sort_unstable();
        return Err(format!("Request decode failed: {}", decode::listed("decoding", &texts)));
    }
    if values.is_empty() { Ok(value) } else { Err(bad_status.to_owned()) }
}

fn from_file<T: Default>(
    tree: &Tree,
    rules: Rules,
    path: &str,
    problems: &mut Problems,
    read: impl FnOnce(&mut Fields<'_, '_>) -> T,
) -> T {
    match tree {
        Tree::Object(object) => decode::object(object, path, rules.spelled(file_spelling), problems, read),
        _ => {
            let text = format!("'{path}' expected a map");
            problems.push(Problem { mistake: Mistake::Type, path: path.to_owned(), line: 0, text });
            T::default()
        }
    }
}

/// Sidecars inside each other are read to this depth only: the second is refused later, with its own message.
const MAX_SIDECARS: u8 = 2;

fn service(fields: &mut Fields<'_, '_>, sidecars_around: u8) -> Definition {
    let strict = fields.rules().unknown_keys == UnknownKeys::Refused;
    let kind = fields.text("kind").map_or(Kind::Typical, |text| match Kind::parse(&text) {
        Kind::Other(_) if strict => Kind::Typical, // files of the original forget kinds nobody knows
        kind => kind,
    });
    let mut definition = Definition {
        service: Service {
            kind,
            id: fields.name("id").unwrap_or_default().into(),
            name: fields.name("name").unwrap_or_default().into(),
            tags: fields.texts("tags"),
            address: fields.text("address").unwrap_or_default(),
            port: fields.int("port").unwrap_or_default(),
            meta: fields.text_map("meta"),
            weights: fields.object("weights", weights).unwrap_or_default(),
            enable_tag_override: fields.flag("enable_tag_override").unwrap_or_default(),
            proxy: None,
            native: false,
        },
        checks: fields.objects("checks", |check_fields| check(check_fields, CheckPlace::InService)).unwrap_or_default(),
        check: fields.object("check", |check_fields| check(check_fields, CheckPlace::InService)),
        token: fields.name("token").unwrap_or_default(),
        managed_proxy: None,
        sidecar: None,
    };
    let old_destination = fields.name("proxy_destination").filter(|name| !name.is_empty());
    definition.service.proxy = fields
        .object("proxy", proxy)
        .or_else(|| old_destination.map(|name| ProxySpec { destination_name: name.into(), ..ProxySpec::default() }));
    fields.object("connect", |connect| {
        definition.service.native = connect.flag("native").unwrap_or_default();
        definition.managed_proxy = connect.object("proxy", managed_proxy);
        if sidecars_around < MAX_SIDECARS {
            definition.sidecar =
                connect.object("sidecar_service", |inner| Box::new(service(inner, sidecars_around + 1)));
        } else {
            let _ = connect.any("sidecar_service");
        }
    });
    definition
}

fn weights(fields: &mut Fields<'_, '_>) -> Weights {
    Weights { passing: fields.int("passing").unwrap_or_default(), warning: fields.int("warning").unwrap_or_default() }
}

fn proxy(fields: &mut Fields<'_, '_>) -> ProxySpec {
    ProxySpec {
        destination_name: fields.name("destination_service_name").unwrap_or_default().into(),
        destination_id: fields.name("destination_service_id").unwrap_or_default().into(),
        local_service_address: fields.text("local_service_address").unwrap_or_default(),
        local_service_port: fields.int("local_service_port").unwrap_or_default(),
        config: fields.opaque("config"),
        upstreams: fields.objects("upstreams", upstream).unwrap_or_default(),
    }
}

fn upstream(fields: &mut Fields<'_, '_>) -> Upstream {
    Upstream {
        destination_type: fields.text("destination_type").unwrap_or_default(),
        destination_namespace: fields.name("destination_namespace").unwrap_or_default(),
        destination_name: fields.name("destination_name").unwrap_or_default(),
        datacenter: fields.text("datacenter").unwrap_or_default(),
        local_bind_address: fields.text("local_bind_address").unwrap_or_default(),
        local_bind_port: fields.int("local_bind_port").unwrap_or_default(),
        config: fields.opaque("config"),
    }
}

fn managed_proxy(fields: &mut Fields<'_, '_>) -> ManagedProxy {
    ManagedProxy {
        exec_mode: fields.text("exec_mode").unwrap_or_default(),
        command: fields.texts("command").unwrap_or_default(),
        // Version 1.2 had the upstreams in there. They stay where they were written, so that whoever reads them can tell
        // which of them cannot be read.
        config: fields.opaque_with_lists("config", &["upstreams"]),
        upstreams: fields.objects("upstreams", upstream).unwrap_or_default(),
        run_as: fields.text("run_as").unwrap_or_default(),
        limits: ProxyLimits {
            open_files: fields.int("limit_open_files").unwrap_or_default(),
            memory: fields.int("limit_memory").unwrap_or_default(),
            cpu_weight: fields.int("cpu_weight").unwrap_or_default(),
        },
    }
}

/// Where a check definition stands, which decides what its id is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckPlace {
    Alone,
    InService,
}

fn check(fields: &mut Fields<'_, '_>, place: CheckPlace) -> CheckSpec {
    let lenient = fields.rules().unknown_keys == UnknownKeys::Ignored;
    let id = match place {
        CheckPlace::InService if lenient => fields.name("check_id"),
        CheckPlace::InService | CheckPlace::Alone => fields.name("id"),
    }
    .unwrap_or_default();
    let name = fields.name("name").unwrap_or_default();
    let label = |field: &str| format!("check[{id}].{field}");
    let interval = fields.duration_of("interval", &label("interval"));
    let timeout = fields.duration_of("timeout", &label("timeout"));
    let ttl = fields.duration_of("ttl", &label("ttl"));
    let deregister =
        fields.duration_of("deregister_critical_service_after", &label("deregister_critical_service_after"));
    let status = fields.text("status").filter(|text| !text.is_empty()).and_then(|text| {
        let status = Status::parse(&text);
        if status.is_none() {
            let text = format!("{}: unknown status {text:?}, use passing, warning or critical", label("status"));
            fields.refuse("status", text);
        }
        status
    });
    CheckSpec {
        id: id.into(),
        name,
        notes: fields.text("notes").unwrap_or_default(),
        service_id: fields.name("service_id").unwrap_or_default().into(),
        token: fields.name("token").unwrap_or_default(),
        status,
        args: fields.texts("args").unwrap_or_default(),
        http: fields.text("http").unwrap_or_default(),
        header: fields.texts_map("header").unwrap_or_default(),
        method: fields.text("method").unwrap_or_default(),
        tcp: fields.text("tcp").unwrap_or_default(),
        grpc: fields.text("grpc").unwrap_or_default(),
        grpc_use_tls: fields.flag("grpc_use_tls").unwrap_or_default(),
        tls_skip_verify: fields.flag("tls_skip_verify").unwrap_or_default(),
        alias_node: fields.name("alias_node").unwrap_or_default(),
        alias_service: fields.name("alias_service").unwrap_or_default(),
        docker_container_id: fields.text("docker_container_id").unwrap_or_default(),
        shell: fields.text("shell").unwrap_or_default(),
        interval: interval.unwrap_or_default().or_zero(),
        timeout: timeout.unwrap_or_default().or_zero(),
        ttl: ttl.unwrap_or_default().or_zero(),
        deregister_critical_service_after: deregister.unwrap_or_default().or_zero(),
    }
}

#[cfg(test)]
mod tests;
