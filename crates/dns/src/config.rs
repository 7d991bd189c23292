//! What this room must be told, and the same made ready for use.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::error::Error;
use crate::kept::Kept;
use crate::record::{self, Data, Record};

/// The longest zone and datacenter together: `<node>.node.` in front of them must still fit into a name.
const MAX_SUFFIX: usize = 150;

/// The zone's start-of-authority numbers, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soa {
    /// How often a secondary would ask.
    pub refresh: u32,
    /// How soon it would ask again after a failure.
    pub retry: u32,
    /// When it would give up.
    pub expire: u32,
    /// How long "there is no such thing" may be remembered.
    pub min_ttl: u32,
}

impl Default for Soa {
    fn default() -> Self {
        Soa { refresh: 3600, retry: 600, expire: 86_400, min_ttl: 0 }
    }
}

/// Settings as configured; [`Settings::new`] checks them. The defaults are the original's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The zone, with or without the final dot.
    pub domain: String,
    /// The one datacenter.
    pub datacenter: String,
    /// This agent's node, by which its numbers are told apart from those of others, and which queries may mean.
    pub node_name: String,
    /// Time to live of node records.
    pub node_ttl: Duration,
    /// Time to live of service records, by service name or by a prefix that ends in `*`.
    pub service_ttl: BTreeMap<String, Duration>,
    /// Leave instances with a warning out, too.
    pub only_passing: bool,
    /// So many instances at most give address records; 0 means all.
    pub a_record_limit: usize,
    /// So many answer records at most over UDP without EDNS, 8 in any case; 0 means as many as fit.
    pub udp_answer_limit: usize,
    /// Mark shortened answers as truncated.
    pub enable_truncate: bool,
    /// Write every name in full.
    pub disable_compression: bool,
    /// Add node metadata as TXT to answers that did not ask for it.
    pub enable_additional_node_meta_txt: bool,
    /// Numbers of the SOA record.
    pub soa: Soa,
    /// Who answers for names outside the zone, in order.
    pub recursors: Vec<SocketAddr>,
    /// How long each of them may take.
    pub recursor_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            domain: "consul.".to_owned(),
            datacenter: "dc1".to_owned(),
            node_name: String::new(),
            node_ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            only_passing: false,
            a_record_limit: 0,
            udp_answer_limit: 3,
            enable_truncate: false,
            disable_compression: false,
            enable_additional_node_meta_txt: true,
            soa: Soa::default(),
            recursors: Vec::new(),
            recursor_timeout: Duration::from_secs(2),
        }
    }
}

/// A checked [`Config`] with everything a lookup would otherwise compute again.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) config: Config,
    pub(crate) node_ttl: u32,
    /// `consul.`
    pub(crate) zone: Name,
    /// `node.dc1.consul.`
    pub(crate) node_suffix: Name,
    /// `addr.dc1.consul.`
    pub(crate) addr_suffix: Name,
    /// `service.consul.`: answers to reverse questions never named the datacenter.
    pub(crate) service_suffix: Name,
    ns: Name,
    hostmaster: Name,
    exact_ttl: HashMap<String, u32>,
    /// Longest prefix first.
    prefix_ttl: Vec<(String, u32)>,
    /// Instances as they are shown by these settings.
    pub(crate) kept: Arc<Kept>,
}

/// The names that all others are made of.
struct Names {
    zone: Name,
    node_suffix: Name,
    addr_suffix: Name,
    service_suffix: Name,
    ns: Name,
    hostmaster: Name,
}

impl Names {
    fn of(domain: &str, datacenter: &str) -> Result<Names, Error> {
        let bad_domain = || Error::Domain { domain: domain.to_owned() };
        let mut zone = Name::from_ascii(domain.to_ascii_lowercase()).map_err(|_| bad_domain())?;
        zone.set_fqdn(true);
        let below = |labels: &[&str]| {
            let labels = labels.iter().map(|label| label.as_bytes());
            Name::from_labels(labels).and_then(|name| name.append_domain(&zone)).map_err(|_| bad_domain())
        };
        let lower = datacenter.to_ascii_lowercase();
        if lower.is_empty() || lower.len() > 63 || lower.contains('.') {
            return Err(Error::Datacenter { datacenter: datacenter.to_owned() });
        }
        let node_suffix = below(&["node", &lower])?;
        if node_suffix.len() > MAX_SUFFIX {
            return Err(bad_domain());
        }
        let (addr_suffix, service_suffix) = (below(&["addr", &lower])?, below(&["service"])?);
        let (ns, hostmaster) = (below(&["ns"])?, below(&["hostmaster"])?);
        Ok(Names { zone, node_suffix, addr_suffix, service_suffix, ns, hostmaster })
    }
}

/// Whether there can be names of a datacenter below a domain; the error says why not.
pub fn check_names(domain: &str, datacenter: &str) -> Result<(), Error> {
    Names::of(domain, datacenter).map(drop)
}

impl Settings {
    /// Checks a configuration.
    pub fn new(config: Config) -> Result<Settings, Error> {
        let Names { zone, node_suffix, addr_suffix, service_suffix, ns, hostmaster } =
            Names::of(&config.domain, &config.datacenter)?;
        let (exact_ttl, prefix_ttl) = by_name(&config.service_ttl);
        let node_ttl = seconds(config.node_ttl);
        Ok(Settings {
            config,
            node_ttl,
            zone,
            node_suffix,
            addr_suffix,
            service_suffix,
            ns,
            hostmaster,
            exact_ttl,
            prefix_ttl,
            kept: Arc::default(),
        })
    }

    /// Time to live of a service's records: its own, else that of the longest prefix, else none.
    pub(crate) fn service_ttl(&self, service: &str) -> u32 {
        if self.exact_ttl.is_empty() && self.prefix_ttl.is_empty() {
            return 0;
        }
        let service = service.to_ascii_lowercase();
        if let Some(ttl) = self.exact_ttl.get(&service) {
            return *ttl;
        }
        self.prefix_ttl.iter().find(|(prefix, _)| service.starts_with(prefix)).map_or(0, |(_, ttl)| *ttl)
    }

    /// The SOA record of the zone as of now.
    pub(crate) fn soa(&self) -> Record {
        let Soa { refresh, retry, expire, min_ttl } = self.config.soa;
        let data = record::Soa {
            server: self.ns.clone(),
            mailbox: self.hostmaster.clone(),
            // The serial number wraps in 2106; serial number arithmetic (RFC 1982) is made for that.
            serial: u32::try_from(lictor_task::clock::unix_seconds() & i64::from(u32::MAX)).unwrap_or_default(),
            refresh,
            retry,
            expire,
            min_ttl,
        };
        Record { owner: self.zone.clone(), ttl: min_ttl, data: Data::Soa(Box::new(data)) }
    }

    /// Whether somebody answers for names outside the zone.
    pub(crate) fn has_recursors(&self) -> bool {
        !self.config.recursors.is_empty()
    }
}

/// Whole seconds, as far as a record can say them.
pub(crate) fn seconds(ttl: Duration) -> u32 {
    // RFC 2181 section 8: a TTL with the highest bit set counts as zero.
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

fn by_name(ttls: &BTreeMap<String, Duration>) -> (HashMap<String, u32>, Vec<(String, u32)>) {
    let mut exact = HashMap::new();
    let mut prefixes = Vec::new();
    for (key, ttl) in ttls {
        let key = key.to_ascii_lowercase();
        match key.strip_suffix('*') {
            Some(prefix) => prefixes.push((prefix.to_owned(), seconds(*ttl))),
            None => {
                exact.insert(key, seconds(*ttl));
            }
        }
    }
    prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    (exact, prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_name_beats_the_longest_prefix_beats_the_star() {
        let of = |key: &str, secs| (key.to_owned(), Duration::from_secs(secs));
        let service_ttl = BTreeMap::from([of("*", 5), of("db", 7), of("db*", 9), of("Web", 3)]);
        let settings = Settings::new(Config { service_ttl, ..Config::default() }).unwrap();
        let ttls = ["db", "dbx", "zz", "DB", "web"].map(|name| settings.service_ttl(name));
        assert_eq!(ttls, [7, 9, 5, 7, 3]);
        assert_eq!(Settings::new(Config::default()).unwrap().service_ttl("db"), 0);
    }

    #[test]
    fn the_final_dot_of_the_domain_may_be_missing() {
        for domain in ["mesh.example", "mesh.example.", "Mesh.Example"] {
            let settings = Settings::new(Config { domain: domain.to_owned(), ..Config::default() }).unwrap();
            assert_eq!(settings.node_suffix.to_ascii(), "node.dc1.mesh.example.");
        }
    }

    #[test]
    fn names_that_cannot_be_written_are_refused() {
        let with = |domain: &str, datacenter: &str| {
            Settings::new(Config { domain: domain.to_owned(), datacenter: datacenter.to_owned(), ..Config::default() })
        };
        assert!(matches!(with("a..b", "dc1"), Err(Error::Domain { .. })));
        assert!(matches!(with(&"x".repeat(64), "dc1"), Err(Error::Domain { .. })));
        assert!(matches!(with(&["long-label"; 15].join("."), "dc1"), Err(Error::Domain { .. })));
        assert!(matches!(with("consul.", "dc.1"), Err(Error::Datacenter { .. })));
        assert!(matches!(with("consul.", ""), Err(Error::Datacenter { .. })));
    }
}
