//! Services, their instances, and what makes an instance part of the mesh.

use crate::Opaque;
use crate::health::CheckSpec;
use crate::meta::Meta;
use crate::name::{ServiceId, ServiceName};

/// What an instance is, apart from being a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary service.
    #[default]
    Typical,
    /// A proxy that speaks for another service ([`ProxySpec::destination_name`]).
    ConnectProxy,
    /// Any other text; stored and shown as given, without meaning.
    Other(String),
}

impl Kind {
    /// Reads the text of a definition.
    pub fn parse(text: &str) -> Kind {
        match text {
            "" => Kind::Typical,
            "connect-proxy" => Kind::ConnectProxy,
            other => Kind::Other(other.to_owned()),
        }
    }

    /// The text of a definition; empty for an ordinary service.
    pub fn as_str(&self) -> &str {
        match self {
            Kind::Typical => "",
            Kind::ConnectProxy => "connect-proxy",
            Kind::Other(text) => text,
        }
    }
}

/// How much traffic an instance gets relative to others (DNS SRV, balancing), by its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// When all checks pass.
    pub passing: i64,
    /// When the worst check warns.
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { passing: 1, warning: 1 }
    }
}

impl Weights {
    /// Checks the ranges; the texts are the ones clients know.
    pub fn validate(self) -> Result<(), &'static str> {
        if self.passing < 1 {
            Err("Passing must be greater than 0")
        } else if self.warning < 0 {
            Err("Warning must be greater or equal than 0")
        } else if self.passing > 65_535 || self.warning > 65_535 {
            Err("DNS Weight must be between 0 and 65535")
        } else {
            Ok(())
        }
    }
}

/// One instance of a service on one node, as registered and as the catalog keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Ordinary, proxy, or a text without meaning.
    pub kind: Kind,
    /// Unique on the node; by default the name.
    pub id: ServiceId,
    /// What clients ask for.
    pub name: ServiceName,
    /// Labels that clients filter by; absent and empty are different in some answers.
    pub tags: Option<Vec<String>>,
    /// An IP address or host name; empty means the node's address.
    pub address: String,
    /// TCP or UDP port; 0 means none. Not bounded: the original stores any integer.
    pub port: i64,
    /// Metadata; absent and empty are different in some answers.
    pub meta: Option<Meta>,
    /// Weights by health.
    pub weights: Weights,
    /// Whether tags changed in the catalog win over the ones registered at the agent.
    pub enable_tag_override: bool,
    /// What a proxy speaks for; only for [`Kind::ConnectProxy`].
    pub proxy: Option<ProxySpec>,
    /// Whether the application itself speaks the mesh's mutual TLS.
    pub native: bool,
}

impl Service {
    /// The service whose mesh traffic this instance can take, if any: a proxy's destination or, for a native
    /// application, its own name. A proxy counts for its destination only, even when it claims to be native.
    pub fn connect_destination(&self) -> Option<&ServiceName> {
        match (&self.kind, &self.proxy) {
            (Kind::ConnectProxy, Some(proxy)) => Some(&proxy.destination_name),
            (Kind::ConnectProxy, None) => None,
            _ if self.native => Some(&self.name),
            _ => None,
        }
    }
}

/// What a proxy instance speaks for and where it sends things (`proxy` of a definition of kind `connect-proxy`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxySpec {
    /// The service this proxy represents; its TLS identity.
    pub destination_name: ServiceName,
    /// The one instance it stands beside, when known.
    pub destination_id: ServiceId,
    /// Host of the local application; empty means 127.0.0.1.
    pub local_service_address: String,
    /// Port of the local application.
    pub local_service_port: i64,
    /// Settings that belong to the proxy.
    pub config: Option<Opaque>,
    /// Services the application reaches through this proxy.
    pub upstreams: Vec<Upstream>,
}

/// One local port behind which another service is reached.
///
/// Registration validates nothing here: an upstream that cannot work is kept, shown, and skipped by the proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upstream {
    /// `service`, `prepared_query`, or another text; empty means `service`.
    pub destination_type: String,
    /// Without meaning in this version; kept and shown.
    pub destination_namespace: String,
    /// Name of the service, or name or id of the prepared query.
    pub destination_name: String,
    /// Where to look; empty means here.
    pub datacenter: String,
    /// Listen address for the application; empty means 127.0.0.1.
    pub local_bind_address: String,
    /// Listen port for the application.
    pub local_bind_port: i64,
    /// Settings that belong to the proxy.
    pub config: Option<Opaque>,
}

/// The `connect.proxy` block: the agent shall run a proxy for this service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManagedProxy {
    /// `daemon`, `script` or empty, as given.
    pub exec_mode: String,
    /// Program and arguments; empty means the agent's defaults.
    pub command: Vec<String>,
    /// Settings for the proxy, a few of which the agent reads as well.
    pub config: Option<Opaque>,
    /// Services the application reaches through its proxy.
    pub upstreams: Vec<Upstream>,
    /// The user that it runs as, as the agent's `allowed_users` has it; empty means the agent's default.
    pub run_as: String,
    /// What it may use of the machine.
    pub limits: ProxyLimits,
}

/// What a managed proxy may use of the machine. 0 means the agent's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Files that it may open.
    pub open_files: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Its share of the processor; the usual one is 100.
    pub cpu_weight: i64,
}

impl ProxyLimits {
    /// Fewer files do not let a proxy open its listeners.
    const FEWEST_FILES: i64 = 64;
    /// More than kernels give.
    const MOST_FILES: i64 = 1_073_741_816;
    /// With less no proxy comes up.
    const LEAST_MEMORY: i64 = 8 << 20;

    /// Names the first value that makes no sense, and tells what would.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let rules = [
            ("limit_open_files", self.open_files, Self::FEWEST_FILES, Self::MOST_FILES),
            ("limit_memory", self.memory, Self::LEAST_MEMORY, i64::MAX),
            ("cpu_weight", self.cpu_weight, 1, 10_000),
        ];
        match rules.into_iter().find(|(_, value, least, most)| *value != 0 && !(*least..=*most).contains(value)) {
            None => Ok(()),
            Some((name, _, least, i64::MAX)) => Err((name, format!("must be 0 or at least {least}"))),
            Some((name, _, least, most)) => Err((name, format!("must be 0 or between {least} and {most}"))),
        }
    }
}

/// Everything one registration says: the service, its checks, and what shall stand beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    /// The service itself.
    pub service: Service,
    /// Its checks, in the order given.
    pub checks: Vec<CheckSpec>,
    /// The `check` key of the definition, apart from `checks`; together they count as one list, `check` first.
    pub check: Option<CheckSpec>,
    /// ACL token for this service's entries in the catalog; empty means the agent's.
    pub token: String,
    /// The `connect.proxy` block.
    pub managed_proxy: Option<ManagedProxy>,
    /// The `connect.sidecar_service` shorthand.
    pub sidecar: Option<Box<Definition>>,
}

impl Definition {
    /// `check` and `checks` as one list.
    pub fn all_checks(&self) -> impl Iterator<Item = &CheckSpec> {
        self.check.iter().chain(&self.checks)
    }

    /// Those, and the ones of its sidecar.
    pub fn every_check(&self) -> impl Iterator<Item = &CheckSpec> {
        self.all_checks().chain(self.sidecar.iter().flat_map(|sidecar| sidecar.all_checks()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_counts_for_its_destination_only() {
        let mut service = Service { name: "web".into(), native: true, ..Service::default() };
        assert_eq!(service.connect_destination().unwrap().as_str(), "web");
        service.kind = Kind::ConnectProxy;
        assert_eq!(service.connect_destination(), None);
        service.proxy = Some(ProxySpec { destination_name: "db".into(), ..ProxySpec::default() });
        assert_eq!(service.connect_destination().unwrap().as_str(), "db");
        assert_eq!(Service::default().connect_destination(), None);
    }

    #[test]
    fn weights_have_the_texts_clients_know() {
        let check = |passing, warning| Weights { passing, warning }.validate();
        assert_eq!(check(1, 0), Ok(()));
        assert_eq!(check(0, 0), Err("Passing must be greater than 0"));
        assert_eq!(check(1, -1), Err("Warning must be greater or equal than 0"));
        assert_eq!(check(65_536, 1), Err("DNS Weight must be between 0 and 65535"));
    }
}
