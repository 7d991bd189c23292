//! The keys of services, checks, upstreams, proxies and watches: what suggestions, warnings and the page about them are
//! made from.
//!
//! The reading itself is in `lictor-api` and in [`crate::config::watch`], because definitions come over HTTP as well; a
//! test holds this table to what is asked for there.

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `service`, and in `connect.sidecar_service` of one.
    Service,
    /// In `weights` of a service.
    Weights,
    /// In `connect` of a service.
    Connect,
    /// In `connect.proxy` of a service.
    ManagedProxy,
    /// In `proxy` of a service that is a proxy itself, and of a sidecar.
    Proxy,
    /// In `upstreams` of either.
    Upstream,
    /// In `config` of a proxy.
    ProxyConfig,
    /// In `config` of an upstream.
    UpstreamConfig,
    /// In `check`.
    Check,
    /// In `watches`.
    Watch,
    /// In `http_handler_config` of a watch.
    HttpHandler,
}

/// What a key of `config` must be, which nobody else checks before a proxy reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Checked where it is read.
    Read,
    /// A number of milliseconds, more than none.
    Limit,
    /// A number of milliseconds, at most a day; none turns it off.
    Span,
    /// A port.
    Port,
    /// `host:port`.
    HostPort,
    /// A text.
    Text,
    /// `true` or `false`.
    Flag,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Where it stands.
    pub(crate) place: Place,
    /// Its name.
    pub(crate) name: &'static str,
    /// What its value must be.
    #[cfg_attr(not(test), expect(dead_code, reason = "the page is made by a test"))]
    pub(crate) kind: &'static str,
    /// The value without it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the page is made by a test"))]
    pub(crate) default: &'static str,
    /// What it is for.
    #[cfg_attr(not(test), expect(dead_code, reason = "the page is made by a test"))]
    pub(crate) doc: &'static str,
    /// What is checked here.
    pub(crate) form: Form,
}

const fn field(
    place: Place,
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { place, name, kind, default, doc, form: Form::Read }
}

const fn config(
    place: Place,
    name: &'static str,
    form: Form,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field { place, name, kind, default, doc, form }
}

/// All of them.
#[rustfmt::skip] // one key, one line: a table is read down its columns
pub(crate) const FIELDS: &[Field] = &[
    field(Place::Service, "name", "string", "", "Name of the service; required."),
    field(Place::Service, "id", "string", "`name`", "Id of this instance, unique on its agent."),
    field(Place::Service, "port", "int", "0", "Where the application listens; required beside `connect.proxy`."),
    field(Place::Service, "address", "string", "the node's", "Where others reach it, when that is not the node's address."),
    field(Place::Service, "tags", "list of strings", "", "Tags, for discovery by tag."),
    field(Place::Service, "meta", "map of strings", "", "Metadata, at most 64 pairs."),
    field(Place::Service, "weights", "object", "1 and 1", "Weights in DNS answers (SRV)."),
    field(Place::Service, "enable_tag_override", "bool", "`false`", "Leave tags alone that somebody changed in the catalog."),
    field(Place::Service, "token", "string", "`acl.tokens.default`", "ACL token with `service:write` on its name, and on that of its proxy."),
    field(Place::Service, "check", "check", "", "One check of this service."),
    field(Place::Service, "checks", "list of checks", "", "Several of them."),
    field(Place::Service, "connect", "object", "", "How it takes part in the mesh."),
    field(Place::Service, "kind", "string", "", "`connect-proxy` for a proxy that is run by hand; else left out."),
    field(Place::Service, "proxy", "object", "", "What a service of kind `connect-proxy` stands for."),
    field(Place::Service, "proxy_destination", "string", "", "Old form of `proxy.destination_service_name`."),

    field(Place::Weights, "passing", "int", "`1`", "Weight while its checks pass."),
    field(Place::Weights, "warning", "int", "`1`", "Weight while one of them warns."),

    field(Place::Connect, "proxy", "object", "", "A proxy that the agent starts and looks after; `{}` is enough."),
    field(Place::Connect, "sidecar_service", "object", "", "Registers a proxy that somebody else runs, with `lictor connect proxy -sidecar-for ID` or otherwise; `{}` is enough. It is a service with defaults: name `NAME-sidecar-proxy`, a port of `ports.sidecar_min_port` and following, checks of its port and of the service."),
    field(Place::Connect, "native", "bool", "`false`", "The application speaks mutual TLS itself and has no proxy."),

    field(Place::ManagedProxy, "upstreams", "list of upstreams", "", "What the application wants to reach."),
    field(Place::ManagedProxy, "config", "object", "", "Settings of the proxy, over those of `connect.proxy_defaults.config`; see below."),
    field(Place::ManagedProxy, "command", "list of strings", "built-in proxy", "Program and arguments to run instead."),
    field(Place::ManagedProxy, "exec_mode", "string", "`daemon`", "`daemon`; `script` is accepted and starts nothing."),
    field(Place::ManagedProxy, "run_as", "string", "the agent's user", "`user` or `user:group` to run it as, where `connect.proxy.allowed_users` lists these words. Not over HTTP."),
    field(Place::ManagedProxy, "limit_open_files", "int", "`connect.proxy_defaults`", "Files that it may open."),
    field(Place::ManagedProxy, "limit_memory", "int", "`connect.proxy_defaults`", "Bytes of memory that it may use."),
    field(Place::ManagedProxy, "cpu_weight", "int", "`connect.proxy_defaults`", "Its share of the processor, 1 to 10000."),

    field(Place::Proxy, "destination_service_name", "string", "the service", "Name of the service it stands for; required outside of `sidecar_service`."),
    field(Place::Proxy, "destination_service_id", "string", "the service", "Id of that instance."),
    field(Place::Proxy, "local_service_address", "string", "`127.0.0.1`", "Where the application listens, without its port."),
    field(Place::Proxy, "local_service_port", "int", "the service's", "Port of the application."),
    field(Place::Proxy, "upstreams", "list of upstreams", "", "What the application wants to reach."),
    field(Place::Proxy, "config", "object", "", "Settings of the proxy; see below."),

    field(Place::Upstream, "destination_name", "string", "", "Name of the service, or name or id of the prepared query; required."),
    field(Place::Upstream, "local_bind_port", "int", "", "Port on which the application finds it; required."),
    field(Place::Upstream, "local_bind_address", "string", "`127.0.0.1`", "Address on which the application finds it."),
    field(Place::Upstream, "destination_type", "string", "`service`", "`service` or `prepared_query`."),
    field(Place::Upstream, "destination_namespace", "string", "`default`", "Shown in logs only."),
    field(Place::Upstream, "datacenter", "string", "the agent's", "Must be the agent's: there is one datacenter."),
    field(Place::Upstream, "config", "object", "", "Settings of this upstream; see below."),

    config(Place::ProxyConfig, "bind_port", Form::Port, "int", "one of `ports.proxy_min_port` and following", "Port for peers. Managed proxies only; a sidecar has `port`."),
    config(Place::ProxyConfig, "bind_address", Form::Text, "string", "the agent's `bind_addr`", "Address for peers. Managed proxies only; a sidecar has `address`."),
    config(Place::ProxyConfig, "local_service_address", Form::HostPort, "string", "`127.0.0.1` and the service's port", "`host:port` of the application. Managed proxies only."),
    config(Place::ProxyConfig, "local_service_port", Form::Port, "int", "the service's `port`", "Port of the application as the catalog shows it. Managed proxies only."),
    config(Place::ProxyConfig, "tcp_check_address", Form::Text, "string", "`bind_address`, or loopback", "Host at which the agent's check looks for the proxy. Managed proxies only."),
    config(Place::ProxyConfig, "disable_tcp_check", Form::Flag, "bool", "`false`", "No such check: the proxy always counts as healthy. Managed proxies only."),
    config(Place::ProxyConfig, "restart_on_config_change", Form::Flag, "bool", "`false`", "Start a custom command (`command`) again when its settings or upstreams have changed, because it reads them at its start only. The built-in proxy never needs that."),
    config(Place::ProxyConfig, "local_connect_timeout_ms", Form::Limit, "int (ms)", "`1000`", "How long a connection to the application may take."),
    config(Place::ProxyConfig, "handshake_timeout_ms", Form::Limit, "int (ms)", "`10000`", "How long a peer may take for its handshake."),
    config(Place::ProxyConfig, "local_service_wait_ms", Form::Span, "int (ms)", "`0`: off", "How long an application that does not listen is waited for."),
    config(Place::ProxyConfig, "bind_timeout_ms", Form::Span, "int (ms)", "`0`: for ever", "How long the port for peers may be taken before the proxy gives up with exit code 2."),
    config(Place::ProxyConfig, "reuse", Form::Text, "string", "`connections`", "What is saved between connections of two lictor proxies: `connections`, `sessions` or `none` (reuse.md)."),
    config(Place::ProxyConfig, "telemetry", Form::Read, "object", "the agent's", "Where the proxy's numbers go: keys of the agent's `telemetry`."),
    config(Place::ProxyConfig, "upstreams", Form::Read, "list", "", "Old place of upstreams, with `destination_datacenter` for `datacenter`."),

    config(Place::UpstreamConfig, "connect_timeout_ms", Form::Limit, "int (ms)", "`10000`", "How long discovery, connection and handshake may take together."),

    field(Place::Check, "name", "string", "", "Name of the check; required outside of a service."),
    field(Place::Check, "id", "string", "`name`, or `service:ID`", "Id, unique on its agent. Over HTTP inside of a service: `CheckID`."),
    field(Place::Check, "service_id", "string", "the node", "The service it belongs to, when it stands outside of one."),
    field(Place::Check, "notes", "string", "", "A text for people."),
    field(Place::Check, "token", "string", "that of its service, else `acl.tokens.default`", "ACL token for its registration."),
    field(Place::Check, "status", "string", "`critical`", "State until the first result: `passing`, `warning` or `critical`."),
    field(Place::Check, "interval", "duration", "", "Time between two runs; required for all but `ttl` and aliases."),
    field(Place::Check, "timeout", "duration", "`10s`; scripts `30s`", "How long one run may take."),
    field(Place::Check, "http", "string", "", "URL: 2xx passes, 429 warns, all else is critical."),
    field(Place::Check, "method", "string", "`GET`", "Method of that request."),
    field(Place::Check, "header", "map of lists", "", "Headers of that request."),
    field(Place::Check, "tls_skip_verify", "bool", "`false`", "Take any certificate."),
    field(Place::Check, "tcp", "string", "", "`host:port` that must accept a connection."),
    field(Place::Check, "grpc", "string", "", "`host:port[/service]` that is asked by the health protocol of gRPC."),
    field(Place::Check, "grpc_use_tls", "bool", "`false`", "Over TLS."),
    field(Place::Check, "args", "list of strings", "", "Program and arguments: exit code 0 passes, 1 warns, all else is critical. Needs `enable_local_script_checks`."),
    field(Place::Check, "docker_container_id", "string", "", "Run `args` in this container."),
    field(Place::Check, "shell", "string", "", "Shell that `args` are given to in that container."),
    field(Place::Check, "ttl", "duration", "", "It is reported over HTTP, at least this often."),
    field(Place::Check, "alias_service", "string", "", "As healthy as this service."),
    field(Place::Check, "alias_node", "string", "the agent's", "As healthy as this node, or that service on it."),
    field(Place::Check, "deregister_critical_service_after", "duration", "never", "Take the service away when it has been critical for so long, at least a minute."),

    field(Place::Watch, "type", "string", "", "`key`, `keyprefix`, `services`, `nodes`, `service`, `checks`, `event` or `agent_service`; required."),
    field(Place::Watch, "args", "list of strings", "", "Program and arguments to call; what changed is its standard input."),
    field(Place::Watch, "handler", "string", "", "Old form of `args`: a line for the shell."),
    field(Place::Watch, "handler_type", "string", "`script`", "`script`, or `http` with `http_handler_config`."),
    field(Place::Watch, "http_handler_config", "object", "", "URL to call."),
    field(Place::Watch, "key", "string", "", "With `key`: the key; required."),
    field(Place::Watch, "prefix", "string", "", "With `keyprefix`: the beginning of the keys; required."),
    field(Place::Watch, "service", "string", "", "With `service`: its name, required. With `checks`: only those of this service."),
    field(Place::Watch, "tag", "string", "", "With `service`: only instances with this tag."),
    field(Place::Watch, "passingonly", "bool", "`false`", "With `service`: only instances whose checks pass."),
    field(Place::Watch, "state", "string", "", "With `checks`: only those in this state."),
    field(Place::Watch, "name", "string", "", "With `event`: only those of this name."),
    field(Place::Watch, "service_id", "string", "", "With `agent_service`: id of the service; required."),
    field(Place::Watch, "stale", "bool", "`false`", "Any server may answer. Not with `event`."),
    field(Place::Watch, "datacenter", "string", "the agent's", "Must be the agent's."),
    field(Place::Watch, "token", "string", "`acl.tokens.default`", "ACL token to look with."),

    field(Place::HttpHandler, "path", "string", "", "URL; required."),
    field(Place::HttpHandler, "method", "string", "`POST`", "Method."),
    field(Place::HttpHandler, "header", "map of lists", "", "Headers."),
    field(Place::HttpHandler, "timeout", "duration", "`10s`", "How long a call may take."),
    field(Place::HttpHandler, "tls_skip_verify", "bool", "`false`", "Take any certificate."),
];

/// The keys that may stand in a place.
pub(crate) fn names(place: Place) -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter(move |field| field.place == place).map(|field| field.name)
}

/// The place that a path of a file leads to, for the last of its parts: `services[0].connect.proxy.upstreams[1].prot`.
pub(crate) fn place_of(path: &str) -> Option<Place> {
    let mut parts = path.split('.').map(|part| part.split('[').next().unwrap_or(part));
    let mut place = match parts.next()? {
        "service" | "services" => Place::Service,
        "check" | "checks" => Place::Check,
        "watches" => Place::Watch,
        _ => return None,
    };
    let parts: Vec<&str> = parts.collect();
    let (_, around) = parts.split_last()?;
    for part in around {
        place = match (place, *part) {
            (Place::Service, "check" | "checks") => Place::Check,
            (Place::Service, "weights") => Place::Weights,
            (Place::Service, "connect") => Place::Connect,
            (Place::Service, "proxy") => Place::Proxy,
            (Place::Connect, "proxy") => Place::ManagedProxy,
            (Place::Connect, "sidecar_service") => Place::Service,
            (Place::Proxy | Place::ManagedProxy, "upstreams") => Place::Upstream,
            (Place::Watch, "http_handler_config") => Place::HttpHandler,
            _ => return None,
        };
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use lictor_api::definition;
    use lictor_notation::decode::{self, Fields, Problems, Rules, Spelling};
    use lictor_notation::hcl;

    use super::*;
    use crate::config::watch::Watch;

    thread_local!(static ASKED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) });

    fn recorded(name: &'static str) -> Spelling {
        ASKED.with_borrow_mut(|asked| asked.insert(name));
        definition::file_spelling(name)
    }

    /// The names that are asked for while something is read.
    fn asked<T>(source: &str, read: impl FnOnce(&mut Fields<'_, '_>) -> T) -> BTreeSet<&'static str> {
        ASKED.take();
        let object = hcl::parse(source).unwrap();
        decode::object(&object, "", Rules::HCL.spelled(recorded), &mut Problems::new(), read);
        ASKED.take()
    }

    fn declared(places: &[Place]) -> BTreeSet<&'static str> {
        places.iter().flat_map(|place| names(*place)).collect()
    }

    #[test]
    fn the_table_has_what_is_read_and_nothing_else() {
        let whole = "check {} checks = [{}] weights {} proxy { upstreams = [{}] } \
                     connect { proxy { upstreams = [{}] } sidecar_service {} }";
        let service = asked(whole, definition::service_fields);
        let places = [
            Place::Service,
            Place::Weights,
            Place::Connect,
            Place::ManagedProxy,
            Place::Proxy,
            Place::Upstream,
            Place::Check,
        ];
        assert_eq!(service, declared(&places));
        assert_eq!(asked("", definition::check_fields), declared(&[Place::Check]));
        let mut watch = BTreeSet::new();
        for kind in ["key", "keyprefix", "services", "nodes", "service", "checks", "event", "agent_service"] {
            watch.extend(asked(&format!("type = \"{kind}\" http_handler_config {{}}"), Watch::read));
        }
        assert_eq!(watch, declared(&[Place::Watch, Place::HttpHandler]));
    }

    #[test]
    fn the_settings_that_proxies_and_agent_read_are_in_the_table() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sources = ["proxy/src/settings.rs", "agent/src/managed.rs"]
            .map(|file| std::fs::read_to_string(root.join(file)).unwrap());
        // Up to the tests, which have wrong ones on purpose.
        let sources: String = sources.iter().map(|source| source.split("#[cfg(test)]").next().unwrap()).collect();
        for name in names(Place::ProxyConfig).chain(names(Place::UpstreamConfig)) {
            let elsewhere = ["telemetry", "upstreams"].contains(&name);
            assert!(elsewhere || sources.contains(&format!("\"{name}\"")), "nobody reads {name}");
        }
        for (before, _) in sources.match_indices("_ms\"") {
            let name = sources[..before].rsplit('"').next().unwrap();
            let name = format!("{name}_ms");
            assert!(
                declared(&[Place::ProxyConfig, Place::UpstreamConfig]).contains(name.as_str()),
                "{name} is not in the table"
            );
        }
    }

    #[test]
    fn a_path_leads_to_its_place() {
        assert_eq!(place_of("services[0].connect.proxy.upstreams[1].prot"), Some(Place::Upstream));
        assert_eq!(place_of("service.connect.sidecar_service.proxy.x"), Some(Place::Proxy));
        assert_eq!(place_of("checks[2].x"), Some(Place::Check));
        assert_eq!((place_of("service"), place_of("ports.x")), (None, None));
    }

    const INTRODUCTION: &str = "\
# Keys of definitions

What services, checks, upstreams, proxies and watches may say in a configuration file. The keys of the agent itself are in
[configuration.md](configuration.md). This page is made from the table by which `lictor validate` knows them; to make it
again, run `LICTOR_WRITE_DOCS=1 cargo test -p lictor definitions_page`.

A key that is not here is refused, with its place and the nearest one that is; what stands in `config` is nobody's business but
the proxy's, so there it is a warning. Over HTTP the same keys are spelled `LikeThis`, and most like here as well.

```hcl
service {
  name = \"web\"
  port = 8080
  check {
    http     = \"http://127.0.0.1:8080/health\"
    interval = \"10s\"
  }
  connect {
    proxy {
      upstreams = [{ destination_name = \"redis\", local_bind_port = 1234 }]
      config { local_connect_timeout_ms = 500 }
    }
  }
}
```
";

    /// The headings of the page in its order.
    const SECTIONS: &[(Place, &str, &str)] = &[
        (Place::Service, "Service", "`service { … }`, `services = [{ … }]`, and `sidecar_service` of one."),
        (Place::Weights, "Weights", "`weights { … }` of a service."),
        (Place::Connect, "Connect", "`connect { … }` of a service."),
        (Place::ManagedProxy, "Managed proxy", "`connect { proxy { … } }` of a service."),
        (
            Place::Proxy,
            "Proxy that is run by hand",
            "`proxy { … }` of a service of kind `connect-proxy`, and of a `sidecar_service`.",
        ),
        (Place::Upstream, "Upstream", "`upstreams = [{ … }]` of either kind of proxy."),
        (
            Place::ProxyConfig,
            "Settings of a proxy",
            "`config { … }` of either kind of proxy, and `connect { proxy_defaults { config { … } } }` of the agent. Programs of your own get what else stands there, too.",
        ),
        (Place::UpstreamConfig, "Settings of an upstream", "`config { … }` of an upstream."),
        (
            Place::Check,
            "Check",
            "`check { … }`, `checks = [{ … }]`, in a service or by themselves. One of `http`, `tcp`, `grpc`, `args`, `docker_container_id`, `ttl`, `alias_service` and `alias_node` says what is looked at.",
        ),
        (Place::Watch, "Watch", "`watches = [{ … }]`."),
        (Place::HttpHandler, "URL of a watch", "`http_handler_config { … }` of a watch."),
    ];

    #[test]
    fn the_definitions_page_is_made_from_the_table() {
        let mut page = String::from(INTRODUCTION);
        for (place, title, about) in SECTIONS {
            let _ = write!(page, "\n## {title}\n\n{about}\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
            for Field { name, kind, default, doc, .. } in FIELDS.iter().filter(|field| field.place == *place) {
                assert!(doc.ends_with('.') && !doc.contains('|'), "{name}: {doc}");
                let _ = writeln!(page, "| `{name}` | {kind} | {default} | {doc} |");
            }
        }
        assert_eq!(page.lines().filter(|line| line.starts_with("| `")).count(), FIELDS.len());
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/definitions.md");
        if std::env::var_os("LICTOR_WRITE_DOCS").is_some() {
            std::fs::write(&file, &page).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == page, "docs/definitions.md is out of date: LICTOR_WRITE_DOCS=1 makes it again");
    }
}
