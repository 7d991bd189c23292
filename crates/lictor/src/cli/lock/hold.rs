//! A session that is kept alive, and the requests that locks are made of.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lictor_api::Created;
use lictor_api::client::{Client, Request, Since};
use lictor_api::kv::Entry;
use serde_json::json;

use crate::cli::client;
use crate::cli::kv::{KV, about};

/// How long a session lives without a renewal; servers wait up to twice as long.
const TTL: Duration = Duration::from_secs(15);
/// Pause between tries to renew it after an error.
const RETRY: Duration = Duration::from_secs(1);
/// How long one blocking read may take.
pub(super) const WAIT: Duration = Duration::from_secs(15);

/// What becomes of the keys of a session when it ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// They stay, unlocked.
    Release,
    /// They go: each belongs to one session alone.
    Delete,
}

/// A session that is kept alive.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) id: String,
}

impl Session {
    /// Makes one.
    pub(super) async fn create(client: Arc<Client>, name: &str, end: End) -> Result<Session> {
        let behavior = match end {
            End::Release => "release",
            End::Delete => "delete",
        };
        let body = json!({"Name": name, "TTL": format!("{}s", TTL.as_secs()), "Behavior": behavior});
        let request = Request::put("/v1/session/create").json(&body)?;
        let created: Created<'static> = client::read(&client, request).await.context("failed to create session")?.value;
        Ok(Session { client, id: created.id.into_owned() })
    }

    /// Renews it until that is not possible any more, and says why.
    pub(super) async fn keep_alive(&self) -> anyhow::Error {
        let mut renewed = tokio::time::Instant::now();
        let mut pause = TTL / 2;
        loop {
            tokio::time::sleep(pause).await;
            let request = Request::put("/v1/session/renew/").segment(&self.id).limit(TTL / 2);
            match client::call(&self.client, request).await {
                Ok(_) => {
                    renewed = tokio::time::Instant::now();
                    pause = TTL / 2;
                }
                Err(error) if client::is_not_found(&error) => return anyhow!("the session has expired"),
                // Beyond its life nobody may believe that it is still there.
                Err(error) if renewed.elapsed() > TTL => return error.context("cannot renew the session"),
                Err(_) => pause = RETRY,
            }
        }
    }

    /// Ends it.
    pub(super) async fn destroy(&self) {
        // Without this it ends by itself, a little later.
        let _ = client::call(&self.client, Request::put("/v1/session/destroy/").segment(&self.id)).await;
    }

    /// A key, as soon as it is newer than an index.
    pub(super) async fn key(&self, key: &str, after: u64) -> Result<(Option<Entry<'static>>, u64)> {
        let (mut entries, index) = self.entries(about(Request::get(KV), key), after).await?;
        Ok((entries.pop(), index))
    }

    /// All keys with a prefix, as soon as one of them is newer than an index.
    pub(super) async fn keys(&self, prefix: &str, after: u64) -> Result<(Vec<Entry<'static>>, u64)> {
        self.entries(about(Request::get(KV), prefix).query("recurse", ""), after).await
    }

    async fn entries(&self, request: Request, after: u64) -> Result<(Vec<Entry<'static>>, u64)> {
        // A lock is about now: no server may answer from what it had.
        let request = request.query("consistent", "").since(Since::Index(after), WAIT);
        let asked = client::asked(&self.client, &request);
        let explained = |error| client::explained(&self.client, &asked, error);
        let answer = self.client.send(request).await.map_err(explained)?;
        let index = answer.index.unwrap_or_default();
        if answer.status == 404 {
            return Ok((Vec::new(), index));
        }
        let entries = answer.success().map_err(explained)?.json().context("cannot read the agent's answer")?;
        Ok((entries, index))
    }

    /// Writes a key under a condition, and says whether it held.
    pub(super) async fn write(&self, key: &str, condition: (&str, &str), flags: u64, value: Vec<u8>) -> Result<bool> {
        let request = about(Request::put(KV), key).query(condition.0, condition.1).query("flags", &flags.to_string());
        Ok(client::read(&self.client, request.body(value)).await?.value)
    }

    /// Deletes a key if it has not changed since.
    pub(super) async fn delete(&self, key: &str, index: u64) -> Result<bool> {
        let request = about(Request::delete(KV), key).query("cas", &index.to_string());
        Ok(client::read(&self.client, request).await?.value)
    }
}

/// Waits until a look shows that something is lost. Errors are tolerated so many times in a row.
pub(super) async fn until_lost<F: Future<Output = Result<(bool, u64)>>>(tolerated: u32, look: impl Fn(u64) -> F) {
    let (mut index, mut errors) = (0, 0);
    loop {
        match look(index).await {
            Ok((true, next)) => {
                errors = 0;
                index = if next < index { 0 } else { next };
            }
            Ok((false, _)) => return,
            Err(_) if errors < tolerated => {
                errors += 1;
                index = 0;
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => return,
        }
    }
}
