//! The first result of a check.

use std::time::Duration;

use lictor_check::{Config, Outcome, Runner};
use lictor_model::health::CheckSpec;
use tokio::sync::mpsc;

/// The longest that anything may take before a test has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Runs a check now and gives what it found.
pub(crate) async fn run(spec: CheckSpec, config: Config) -> Outcome {
    let (sender, mut results) = mpsc::channel(1);
    let spec = CheckSpec { interval: Duration::from_secs(60), ..spec };
    let check = Runner::start(spec, config, move |outcome| {
        let sender = sender.clone();
        async move {
            // Only the first one is waited for.
            let _ = sender.send(outcome).await;
        }
    });
    check.run_now();
    tokio::time::timeout(LIMIT, results.recv()).await.unwrap().unwrap()
}
