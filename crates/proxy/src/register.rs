//! Registering a proxy that was started by hand, and keeping its entry alive (`-register`).

use std::time::Duration;

use lictor_api::client::{Client, Error, Request};
use lictor_model::name::ServiceName;
use lictor_task::Stop;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::outcome::chain;
use crate::settings::Place;

/// How long the agent believes in a proxy that says nothing.
const TTL: &str = "30s";
/// How often the proxy says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often it looks whether its entry is still there.
const RECONCILE: Duration = Duration::from_secs(30);
/// Tries to remove the entry at the end.
const FAREWELLS: u32 = 3;
/// Pause between them.
const FAREWELL_PAUSE: Duration = Duration::from_millis(500);

/// The entry of a proxy that was started by hand.
#[derive(Clone, Debug)]
pub struct Registration {
    service: ServiceName,
    id: String,
    listen: Place,
}

impl Registration {
    /// For a service whose proxy listens at `listen`; the suffix tells several of them apart.
    pub fn new(service: ServiceName, listen: Place, suffix: Option<&str>) -> Registration {
        let id = match suffix {
            Some(suffix) if !suffix.is_empty() => format!("{service}-proxy-{suffix}"),
            _ => format!("{service}-proxy"),
        };
        Registration { service, id, listen }
    }

    /// The id of the entry.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> String {
        format!("{}-proxy", self.service)
    }

    fn check_id(&self) -> String {
        format!("{}-ttl", self.id)
    }

    fn definition(&self) -> Value {
        json!({
            "Kind": "connect-proxy",
            "ID": self.id,
            "Name": self.name(),
            "Address": self.listen.host,
            "Port": self.listen.port,
            "Proxy": {"DestinationServiceName": self.service.as_str()},
            "Check": {
                "CheckID": self.check_id(),
                "Name": "proxy heartbeat",
                "TTL": TTL,
                "Status": "passing",
                "Notes": "Built-in proxy will heartbeat this check.",
            },
        })
    }

    /// Registers, keeps the entry and its check alive until told to stop, and removes it then. Certificates and
    /// listeners do not matter for that, as in the original.
    pub async fn run(&self, client: &Client, stop: &Stop) {
        stop.or_stopped(self.keep(client)).await;
        for left in (0..FAREWELLS).rev() {
            match client.deregister(&self.id).await {
                Ok(()) => return,
                Err(error) if left == 0 => tracing::warn!("cannot deregister {}: {}", self.id, chain(&error)),
                Err(_) => tokio::time::sleep(FAREWELL_PAUSE).await,
            }
        }
    }

    async fn keep(&self, client: &Client) {
        self.register(client).await;
        let (mut heartbeat, mut reconcile) = (interval(HEARTBEAT), interval(RECONCILE));
        for ticks in [&mut heartbeat, &mut reconcile] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once.
            ticks.tick().await;
        }
        loop {
            tokio::select! {
                _ = heartbeat.tick() => {
                    if let Err(error) = client.pass(&self.check_id(), "").await {
                        tracing::debug!("heartbeat of {} failed: {}", self.id, chain(&error));
                    }
                }
                _ = reconcile.tick() => {
                    if !self.is_registered(client).await {
                        self.register(client).await;
                    }
                }
            }
        }
    }

    async fn register(&self, client: &Client) {
        match client.register(&self.definition()).await {
            Ok(()) => tracing::info!("registered as {}", self.id),
            Err(error) => tracing::warn!("cannot register {}: {}", self.id, chain(&error)),
        }
    }

    /// Whether the catalog has the entry with our address. When it cannot be asked, registering is not needed either.
    async fn is_registered(&self, client: &Client) -> bool {
        let request = Request::get("/v1/catalog/service/").segment(&self.name()).query("stale", "");
        let found: Result<Vec<Value>, Error> = async { client.send(request).await?.success()?.json() }.await;
        found.map_or(true, |entries| {
            entries.iter().any(|entry| {
                entry["ServiceID"] == self.id.as_str()
                    && entry["ServiceAddress"] == self.listen.host.as_str()
                    && entry["ServicePort"] == self.listen.port
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_the_one_that_the_original_makes() {
        let listen = Place { host: "127.0.0.1".into(), port: 20000 };
        let registration = Registration::new("cli".into(), listen.clone(), Some("7"));
        let entry = registration.definition();
        assert_eq!((entry["ID"].as_str(), entry["Name"].as_str()), (Some("cli-proxy-7"), Some("cli-proxy")));
        assert_eq!(entry["Check"]["CheckID"], "cli-proxy-7-ttl");
        assert_eq!(entry["Port"], 20000);
        assert_eq!(Registration::new("cli".into(), listen, None).id(), "cli-proxy");
    }
}
