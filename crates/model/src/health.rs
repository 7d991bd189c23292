//! Health checks: what to run, what came out, and how several results add up.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::name::{CheckId, NodeName, ServiceId, ServiceName};

/// The result of a check. Ordered from good to bad, so the worst of several is their maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// All is well.
    Passing,
    /// Working, but not as it should.
    Warning,
    /// Not working; the state of a check that has not run yet.
    #[default]
    Critical,
}

impl Status {
    /// Reads `passing`, `warning` or `critical`.
    pub fn parse(text: &str) -> Option<Status> {
        match text {
            "passing" => Some(Status::Passing),
            "warning" => Some(Status::Warning),
            "critical" => Some(Status::Critical),
            _ => None,
        }
    }

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Passing => "passing",
            Status::Warning => "warning",
            Status::Critical => "critical",
        }
    }

    /// The worst of several; none at all counts as passing.
    pub fn worst(all: impl IntoIterator<Item = Status>) -> Status {
        all.into_iter().max().unwrap_or(Status::Passing)
    }
}

/// A check as the user defined it. Several kinds may be named at once; [`CheckSpec::kind`] says which one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckSpec {
    /// Empty means: derived from the service, or the name.
    pub id: CheckId,
    /// Empty means: derived from the service.
    pub name: String,
    /// For people.
    pub notes: String,
    /// The service the check belongs to; empty for a check of the node.
    pub service_id: ServiceId,
    /// ACL token for the check's entry in the catalog.
    pub token: String,
    /// Initial status, when given.
    pub status: Option<Status>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// URL to request.
    pub http: String,
    /// Request headers.
    pub header: BTreeMap<String, Vec<String>>,
    /// Request method; empty means GET.
    pub method: String,
    /// `host:port` to connect to.
    pub tcp: String,
    /// `host:port[/service]` to ask for its gRPC health.
    pub grpc: String,
    /// Whether gRPC uses TLS.
    pub grpc_use_tls: bool,
    /// Whether certificates are accepted unseen.
    pub tls_skip_verify: bool,
    /// Node of the aliased service; empty means this agent.
    pub alias_node: String,
    /// Id of the service whose state is mirrored.
    pub alias_service: String,
    /// Container to run `args` in.
    pub docker_container_id: String,
    /// Shell for that.
    pub shell: String,
    /// Time between runs.
    pub interval: Duration,
    /// Limit of one run; zero means the kind's default.
    pub timeout: Duration,
    /// For TTL checks: how long a report holds.
    pub ttl: Duration,
    /// Remove the service after it was critical for so long; zero means never.
    pub deregister_critical_service_after: Duration,
}

/// Which kind of check a definition means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// The application reports in time or the check turns critical.
    Ttl,
    /// An HTTP request.
    Http,
    /// A TCP connect.
    Tcp,
    /// The gRPC health protocol.
    Grpc,
    /// A program in a container.
    Docker,
    /// A program.
    Script,
    /// The state of another service.
    Alias,
    /// Nothing to run: maintenance checks, and states kept from outside.
    None,
}

impl CheckSpec {
    /// The kind that counts when several are named: the first of this list wins, as in the original.
    pub fn kind(&self) -> CheckKind {
        if self.ttl > Duration::ZERO {
            CheckKind::Ttl
        } else if !self.http.is_empty() {
            CheckKind::Http
        } else if !self.tcp.is_empty() {
            CheckKind::Tcp
        } else if !self.grpc.is_empty() {
            CheckKind::Grpc
        } else if !self.args.is_empty() && !self.docker_container_id.is_empty() {
            CheckKind::Docker
        } else if !self.args.is_empty() {
            CheckKind::Script
        } else if !self.alias_node.is_empty() || !self.alias_service.is_empty() {
            CheckKind::Alias
        } else {
            CheckKind::None
        }
    }

    /// Whether nothing at all was said; such a single `check` is ignored.
    pub fn is_empty(&self) -> bool {
        *self == CheckSpec::default()
    }

    /// Checks that the definition makes sense; the texts are the ones clients know (without their prefix).
    pub fn validate(&self) -> Result<(), &'static str> {
        let alias = !self.alias_node.is_empty() || !self.alias_service.is_empty();
        let by_interval =
            !self.args.is_empty() || !self.http.is_empty() || !self.tcp.is_empty() || !self.grpc.is_empty();
        if self.interval > Duration::ZERO && self.ttl > Duration::ZERO {
            Err("Interval and TTL cannot both be specified")
        } else if by_interval && self.interval.is_zero() {
            Err("Interval must be > 0 for Script, HTTP, or TCP checks")
        } else if by_interval && alias {
            Err("Interval cannot be set for Alias checks")
        } else if alias && !self.ttl.is_zero() {
            Err("TTL must be not be set for Alias checks")
        } else if !by_interval && !alias && self.ttl.is_zero() {
            Err("TTL must be > 0 for TTL checks")
        } else {
            Ok(())
        }
    }
}

/// A check and its present state, as the agent and the catalog keep it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// Where it runs.
    pub node: NodeName,
    /// Unique on the node.
    pub id: CheckId,
    /// For people.
    pub name: String,
    /// The present result.
    pub status: Status,
    /// For people.
    pub notes: String,
    /// What the last run said.
    pub output: String,
    /// The service it belongs to; empty for a check of the node.
    pub service_id: ServiceId,
    /// Name of that service.
    pub service_name: ServiceName,
    /// Tags of that service.
    pub service_tags: Option<Vec<String>>,
    /// What outside registrations said about how to run it; nobody runs it from here.
    pub definition: CheckDefinition,
}

/// The part of a check's definition that the catalog keeps for checks registered from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckDefinition {
    /// URL to request.
    pub http: String,
    /// Whether certificates are accepted unseen.
    pub tls_skip_verify: bool,
    /// Request headers.
    pub header: BTreeMap<String, Vec<String>>,
    /// Request method.
    pub method: String,
    /// `host:port` to connect to.
    pub tcp: String,
    /// Time between runs.
    pub interval: Duration,
    /// Limit of one run.
    pub timeout: Duration,
    /// Remove the service after it was critical for so long.
    pub deregister_critical_service_after: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_worst_result_counts_and_none_is_passing() {
        assert_eq!(Status::worst([]), Status::Passing);
        assert_eq!(Status::worst([Status::Passing, Status::Warning]), Status::Warning);
        assert_eq!(Status::worst([Status::Critical, Status::Warning]), Status::Critical);
    }

    #[test]
    fn definitions_that_make_no_sense_are_named() {
        let spec = CheckSpec::default;
        assert_eq!(spec().validate(), Err("TTL must be > 0 for TTL checks"));
        assert_eq!(
            CheckSpec { interval: SECOND, ttl: SECOND, ..spec() }.validate(),
            Err("Interval and TTL cannot both be specified")
        );
        assert_eq!(
            CheckSpec { tcp: "h:1".into(), ..spec() }.validate(),
            Err("Interval must be > 0 for Script, HTTP, or TCP checks")
        );
        assert_eq!(
            CheckSpec { tcp: "h:1".into(), interval: SECOND, alias_service: "x".into(), ..spec() }.validate(),
            Err("Interval cannot be set for Alias checks")
        );
        assert_eq!(
            CheckSpec { alias_service: "x".into(), ttl: SECOND, ..spec() }.validate(),
            Err("TTL must be not be set for Alias checks")
        );
        assert_eq!(CheckSpec { alias_service: "x".into(), interval: SECOND, ..spec() }.validate(), Ok(()));
        assert_eq!(CheckSpec { tcp: "h:1".into(), interval: SECOND, ..spec() }.validate(), Ok(()));
    }

    #[test]
    fn the_first_kind_of_several_wins() {
        let spec = CheckSpec { http: "http://h".into(), tcp: "h:1".into(), interval: SECOND, ..CheckSpec::default() };
        assert_eq!(spec.kind(), CheckKind::Http);
    }
}
