//! One run of any kind of check that runs.

use std::sync::Arc;
use std::time::Duration;

use lictor_model::health::{CheckKind, CheckSpec};

use crate::docker::Docker;
use crate::grpc::Grpc;
use crate::http::Http;
use crate::runner::Config;
use crate::script::Script;
use crate::{Outcome, dial, limit, room};

/// What is run again and again.
pub(crate) enum Probe {
    Http(Http),
    Tcp(Tcp),
    Grpc(Grpc),
    Script(Script),
    Docker(Docker),
}

impl Probe {
    /// The probe of a definition; `None` for kinds that nobody runs from here.
    pub(crate) fn new(spec: &CheckSpec, config: &Config) -> Option<Arc<Probe>> {
        let probe = match spec.kind() {
            CheckKind::Http => Probe::Http(Http::new(spec, &config.trust)),
            CheckKind::Tcp => Probe::Tcp(Tcp { address: spec.tcp.clone(), limit: limit::tcp(spec) }),
            CheckKind::Grpc => Probe::Grpc(Grpc::new(spec, &config.trust)),
            CheckKind::Script => Probe::Script(Script::new(spec)),
            CheckKind::Docker => Probe::Docker(Docker::new(spec, &config.docker_host)),
            CheckKind::Ttl | CheckKind::Alias | CheckKind::None => return None,
        };
        Some(Arc::new(probe))
    }

    /// Runs once. Cancel safe: nothing of a dropped run is left.
    pub(crate) async fn run(&self) -> Outcome {
        let (mut outcome, lack) = room::watch(self.run_once()).await;
        if let Some(lack) = lack {
            outcome.output.push_str(&format!(" (the agent could not try: {})", dial::cause_text(&lack)));
        }
        outcome
    }

    async fn run_once(&self) -> Outcome {
        match self {
            Probe::Http(http) => http.run().await,
            Probe::Tcp(tcp) => tcp.run().await,
            Probe::Grpc(grpc) => grpc.run().await,
            Probe::Script(script) => script.run().await,
            Probe::Docker(docker) => docker.run().await,
        }
    }
}

/// A TCP connect.
pub(crate) struct Tcp {
    address: String,
    limit: Option<Duration>,
}

impl Tcp {
    async fn run(&self) -> Outcome {
        let address = &self.address;
        let dialled = match self.limit {
            None => dial::tcp(address).await,
            Some(limit) => match tokio::time::timeout(limit, dial::tcp(address)).await {
                Ok(dialled) => dialled,
                Err(_) => return Outcome::critical(format!("dial tcp {address}: i/o timeout")),
            },
        };
        match dialled {
            Ok(_) => Outcome::passing(format!("TCP connect {address}: Success")),
            Err(refused) => Outcome::critical(refused.to_string()),
        }
    }
}
