//! DNS answers and recursors.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lictor_notation::duration::GoDuration;

use super::Check;
use crate::config::address;
use crate::config::report::Stage;

/// DNS answers.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    /// Servers for other domains, in order, without doubles: `ip:port` or `name:port`.
    pub(crate) recursors: Vec<String>,
    /// Time to live of node records.
    pub(crate) node_ttl: Duration,
    /// Time to live of service records by name.
    pub(crate) service_ttl: BTreeMap<String, Duration>,
    /// Leave out instances that warn.
    pub(crate) only_passing: bool,
    /// Most address records; 0 is no limit.
    pub(crate) a_record_limit: u32,
    /// Most records over UDP without EDNS.
    pub(crate) udp_answer_limit: u32,
    /// Mark shortened UDP answers.
    pub(crate) enable_truncate: bool,
    /// Do not compress names.
    pub(crate) disable_compression: bool,
    /// Add node metadata.
    pub(crate) node_meta_txt: bool,
    /// Limit of a question to a recursor.
    pub(crate) recursor_timeout: Duration,
    /// Start of authority.
    pub(crate) soa: Soa,
}

/// The numbers of a start-of-authority record, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Soa {
    pub(crate) refresh: u32,
    pub(crate) retry: u32,
    pub(crate) expire: u32,
    pub(crate) min_ttl: u32,
}

/// Reads and judges.
pub(crate) fn dns(check: &mut Check<'_>) -> Dns {
    let settings = check.settings;
    let seconds = |key: &str| u32::try_from(settings.int(key)).unwrap_or_default(); // its type allows nothing else
    Dns {
        recursors: recursors(check),
        node_ttl: settings.duration("dns_config.node_ttl").or_zero(),
        service_ttl: settings
            .duration_map("dns_config.service_ttl")
            .into_iter()
            .map(|(name, ttl)| (name, GoDuration::or_zero(ttl)))
            .collect(),
        only_passing: settings.flag("dns_config.only_passing"),
        a_record_limit: limit(check, "dns_config.a_record_limit"),
        udp_answer_limit: limit(check, "dns_config.udp_answer_limit"),
        enable_truncate: settings.flag("dns_config.enable_truncate"),
        disable_compression: settings.flag("dns_config.disable_compression"),
        node_meta_txt: settings.flag("dns_config.enable_additional_node_meta_txt"),
        recursor_timeout: settings.duration("dns_config.recursor_timeout").or_zero(),
        soa: Soa {
            refresh: seconds("dns_config.soa.refresh"),
            retry: seconds("dns_config.soa.retry"),
            expire: seconds("dns_config.soa.expire"),
            min_ttl: seconds("dns_config.soa.min_ttl"),
        },
    }
}

fn limit(check: &mut Check<'_>, key: &str) -> u32 {
    let number = check.settings.int(key);
    u32::try_from(number).unwrap_or_else(|_| {
        let text = format!("{key} cannot be {number}. Must be greater than or equal to zero");
        check.refuse(Stage::Rules, key, text, "write 0 for no limit, or a number");
        0
    })
}

fn recursors(check: &mut Check<'_>) -> Vec<String> {
    const KEY: &str = "recursors";
    let mut all: Vec<String> = Vec::new();
    for text in check.settings.texts(KEY) {
        let words = match address::evaluated(KEY, &text, &check.machine.interfaces) {
            Ok(expanded) if text.contains("{{") => expanded.split_whitespace().map(str::to_owned).collect(),
            Ok(word) => vec![word],
            Err(why) => {
                check.refuse(Stage::Addresses, KEY, why, "correct the template");
                continue;
            }
        };
        for word in words {
            if word.starts_with("unix://") {
                let text = format!("DNS Recursors cannot be unix sockets: {word}");
                check.refuse(Stage::Addresses, KEY, text, "name a DNS server by address");
                continue;
            }
            let recursor = with_port(&word);
            let any = recursor.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
            if any || word.is_empty() {
                let text = "DNS recursor address cannot be 0.0.0.0, :: or [::]";
                check.refuse(Stage::Addresses, KEY, text, "name a DNS server by address");
            } else if !recursor
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                let text = format!("Invalid recursor address: {word:?} is no ip or ip:port");
                check.refuse(
                    Stage::Addresses,
                    KEY,
                    text,
                    "name a DNS server by address, as \"8.8.8.8\" or \"8.8.8.8:53\"",
                );
            } else if !all.contains(&recursor) {
                all.push(recursor);
            }
        }
    }
    all
}

/// Adds port 53 where none is given.
fn with_port(word: &str) -> String {
    if let Ok(ip) = word.trim_matches(['[', ']']).parse::<IpAddr>() {
        return SocketAddr::new(ip, 53).to_string();
    }
    if word.parse::<SocketAddr>().is_ok() || word.contains(':') {
        return word.to_owned();
    }
    format!("{word}:53")
}
