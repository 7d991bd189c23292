//! What to say about keys that are not declared: removed long ago, known only to newer versions, or mistyped.

use super::{KEYS, definitions};
use crate::cli::suggest::distance;

/// The remedy for an unknown key.
pub(crate) fn hint(path: &str) -> String {
    if let Some(hint) = removed(path).or_else(|| newer(path)) {
        return hint.to_owned();
    }
    match nearest(path) {
        Some(near) => format!("did you mean {near}?"),
        None if definitions::names(definitions::Place::Service).any(|name| name == path) => {
            "write it inside of a service: service { … }".to_owned()
        }
        None => "remove it; nobody knows this key".to_owned(),
    }
}

/// Keys that the original removed before 1.4.
fn removed(path: &str) -> Option<&'static str> {
    let leaf = path.rsplit('.').next().unwrap_or(path);
    Some(match path {
        "recursor" => "write recursors = [\"…\"]",
        "advertise_addrs" => "write advertise_addr, and the ports in ports { … }",
        "http_api_response_headers" => "write http_config { response_headers { … } }",
        "statsd_addr" => "write telemetry { statsd_address = \"…\" }",
        "statsite_addr" => "write telemetry { statsite_address = \"…\" }",
        "statsite_prefix" | "telemetry.statsite_prefix" => "write telemetry { metrics_prefix = \"…\" }",
        "dogstatsd_addr" => "write telemetry { dogstatsd_addr = \"…\" }",
        "dogstatsd_tags" => "write telemetry { dogstatsd_tags = [\"…\"] }",
        "ports.rpc" | "addresses.rpc" => "remove it; there is no RPC client any more",
        "reap" => "remove it; it has no meaning any more",
        "retry_join_ec2" | "retry_join_gce" | "retry_join_azure" => "write retry_join = [\"provider=…\"]",
        "encrypt_key" => "write encrypt = \"…\"",
        "nodes" => "remove it; it has no meaning any more",
        "http_config.http_header" => "write http_config { response_headers { … } }",
        _ if path.starts_with("atlas") => "remove it; that service has ended",
        _ if leaf == "script" && path.contains("check") => "write args = [\"sh\", \"-c\", \"…\"]",
        _ if leaf == "enableTagOverride" => "write enable_tag_override",
        _ => return None,
    })
}

/// Keys of newer versions, with what 1.4 says instead.
fn newer(path: &str) -> Option<&'static str> {
    const NO_SUCH: &str = "known to newer Consul; there is no such thing in 1.4";
    let top = path.split('.').next().unwrap_or(path);
    Some(match path {
        "acl.tokens.initial_management" => "known to newer Consul; the 1.4 spelling is acl.tokens.master",
        "acl.tokens.agent_recovery" => "known to newer Consul; the 1.4 spelling is acl.tokens.agent_master",
        "ports.grpc_tls" => "known to newer Consul; the 1.4 spelling is ports.grpc",
        "log_json" | "log_rotate_max_files" | "enable_central_service_config" | "primary_gateways" => NO_SUCH,
        "limits.http_max_conns_per_client" => NO_SUCH,
        "ui_config.enabled" => "known to newer Consul; the 1.4 spelling is ui = true",
        "ui_config.dir" => "known to newer Consul; the 1.4 spelling is ui_dir",
        _ => match top {
            "tls" => "known to newer Consul; the 1.4 spellings are ca_file, cert_file, key_file and verify_…",
            "ui_config" => "known to newer Consul; the 1.4 spellings are ui and ui_dir",
            "auto_encrypt" | "auto_config" | "config_entries" | "peering" => NO_SUCH,
            _ => return None,
        },
    })
}

/// A declared key that differs only a little, in the same place or by its last part.
fn nearest(path: &str) -> Option<&'static str> {
    if let Some(place) = definitions::place_of(path) {
        let leaf = path.rsplit('.').next().unwrap_or(path);
        return nearest_of(leaf, definitions::names(place)).or_else(|| shortened(leaf, definitions::names(place)));
    }
    let names = KEYS.iter().map(|key| key.path);
    let groups = KEYS.iter().flat_map(|key| key.path.match_indices('.').map(|(end, _)| &key.path[..end]));
    nearest_of(path, names.chain(groups)).or_else(|| {
        // The right name in the wrong place.
        KEYS.iter().map(|key| key.path).find(|declared| declared.rsplit('.').next() == Some(path))
    })
}

/// The one of some names that differs only a little from the one that was written.
pub(crate) fn nearest_of(written: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let plain = |name: &str| name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).take(LONGEST).collect();
    let wanted: String = plain(written);
    let allowed = (1 + wanted.chars().count() / 8).min(4);
    let far = |name: &str| distance(&wanted, &plain(name));
    names
        .map(|name| (far(name), name))
        .min_by_key(|(far, _)| *far)
        .filter(|(far, _)| *far <= allowed)
        .map(|(_, name)| name)
}

/// The shortest name that has all the words of the one that was written, in their order: `local_port` leaves one out.
fn shortened(written: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let has_all = |name: &&str| {
        let mut words = name.split('_');
        written.split('_').all(|wanted| words.any(|word| word.eq_ignore_ascii_case(wanted)))
    };
    names.filter(has_all).min_by_key(|name| name.split('_').count())
}

/// Keys are short; words longer than any key are cut, so that comparing them costs little.
const LONGEST: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_get_a_remedy_that_fits() {
        assert_eq!(hint("recursor"), "write recursors = [\"…\"]");
        assert_eq!(hint("atlas_token"), "remove it; that service has ended");
        assert_eq!(hint("service.check.script"), "write args = [\"sh\", \"-c\", \"…\"]");
        assert_eq!(hint("ui_config.enabled"), "known to newer Consul; the 1.4 spelling is ui = true");
        assert_eq!(hint("NodeName"), "did you mean node_name?");
        assert_eq!(hint("ports.htp"), "did you mean ports.http?");
        assert_eq!(hint("conect"), "did you mean connect?");
        assert_eq!(hint("service.prot"), "did you mean port?", "letters that changed places are one mistake");
        assert_eq!(hint("watches[0].handlr_type"), "did you mean handler_type?");
        assert_eq!(hint("service.connect.sidecar_servce"), "did you mean sidecar_service?");
        assert_eq!(hint("proxy_min_port"), "did you mean ports.proxy_min_port?");
        assert_eq!(hint("services[0].connect.proxy.upstreams[0].DestinationName"), "did you mean destination_name?");
        assert_eq!(hint("tags"), "write it inside of a service: service { … }");
        assert_eq!(hint("connect.proxy_default"), "did you mean connect.proxy_defaults?");
        assert_eq!(hint("service.connect.proxy.upstreams[0].destination"), "did you mean destination_name?");
        assert_eq!(hint("service.connect.proxy.upstreams[0].local_port"), "did you mean local_bind_port?");
        assert_eq!(hint("service.connect.proxy.upstreams[0].port_local"), "remove it; nobody knows this key");
        assert_eq!(hint("frobnicate"), "remove it; nobody knows this key");
        assert_eq!(hint(&"x".repeat(100_000)), "remove it; nobody knows this key");
    }
}
