//! What is registered at this node: services, checks and managed proxies, before the catalog knows of them.

use lictor_model::Opaque;
use lictor_model::health::{Check, Status};
use lictor_model::name::ServiceId;
use lictor_model::service::{ProxyLimits, Service, Upstream};

/// A service registered here.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalService {
    /// The service.
    pub service: Service,
    /// Its managed proxy as shown in `Connect.Proxy`, if it has one.
    pub proxy: Option<ManagedProxyView>,
}

/// A managed proxy as clients see it: mode and command resolved, settings as given.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedProxyView {
    /// `daemon` or `script`.
    pub exec_mode: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The service's own settings.
    pub config: Option<Opaque>,
    /// Services reached through it.
    pub upstreams: Vec<Upstream>,
    /// The service's own user for it; empty where it names none.
    pub run_as: String,
    /// The service's own limits for it.
    pub limits: ProxyLimits,
}

/// All that a managed proxy must know, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Id of the generated proxy service.
    pub proxy_service_id: ServiceId,
    /// The service it stands beside.
    pub target_service_id: ServiceId,
    /// The name of that service: the proxy's identity.
    pub target_service_name: String,
    /// Changes when anything else here does.
    pub content_hash: String,
    /// `daemon` or `script`.
    pub exec_mode: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Effective settings.
    pub config: Opaque,
    /// Services reached through it.
    pub upstreams: Vec<Upstream>,
}

/// A service with its checks and what they add up to, by this agent's own knowledge.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceHealth {
    /// The sum.
    pub status: AggregatedStatus,
    /// The service.
    pub service: LocalService,
    /// Checks of the service and of the node.
    pub checks: Vec<Check>,
}

/// What several checks add up to; maintenance is a state of its own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AggregatedStatus {
    /// By the worst check.
    Checked(Status),
    /// Taken out of service by an operator.
    Maintenance,
}

impl AggregatedStatus {
    /// The word shown.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregatedStatus::Checked(status) => status.as_str(),
            AggregatedStatus::Maintenance => "maintenance",
        }
    }
}
