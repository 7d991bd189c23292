//! The watches of the configuration: each looks at something through the agent's own API, and calls a program or a URL
//! with what it found, at its start and at each change.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::client::address::{Address, Scheme};
use lictor_api::client::config::{Consistency, TlsFiles};
use lictor_api::client::{Client, Config, Request};
use lictor_task::{Scope, Stop};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::cli::child::{self, By};
use crate::cli::watch::kinds::{Position, Target};
use crate::cli::watch::{PAUSE, look, pause_after};
use crate::cli::{client, output};
use crate::config::watch::{Handler, HttpHandler, Watch};

/// What is kept of a handler's output, for the log.
const KEPT: usize = 4096;
/// How long output of a handler that has ended may still arrive. Something it left running may hold the pipe for ever.
const REST: Duration = Duration::from_millis(250);
/// What is read of a URL's answer.
const ANSWER: usize = 64 << 10;

/// The watches that run.
pub(crate) struct Watches {
    /// How this agent is reached, in the variables that clients read.
    reach: Vec<(String, String)>,
    scope: Scope,
    running: Vec<(Watch, Scope)>,
}

impl Watches {
    /// Nothing is watched yet. Watches end with the scope.
    pub(crate) fn new(reach: Vec<(String, String)>, scope: Scope) -> Watches {
        Watches { reach, scope, running: Vec::new() }
    }

    /// From now on these are watched. One that was before goes on undisturbed; the others end, with the programs that
    /// they are calling.
    pub(crate) fn replace(&mut self, wanted: Vec<Watch>) {
        let mut before = std::mem::take(&mut self.running);
        for watch in wanted {
            let known = before.iter().position(|(known, _)| *known == watch);
            let running = known.map(|position| before.swap_remove(position)).or_else(|| self.start(watch));
            self.running.extend(running);
        }
        for (_, scope) in before {
            scope.stop();
        }
    }

    fn start(&self, watch: Watch) -> Option<(Watch, Scope)> {
        let plan = self.client(&watch).and_then(|client| Ok((client, target(&watch)?)));
        let (client, target) = match plan {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!("agent: cannot watch (type: {}): {error:#}", watch.kind);
                return None;
            }
        };
        let own = self.scope.child("watches");
        let (stop, handler) = (own.stop_signal(), watch.handler.clone());
        // The agent's scope waits for it; the watch's own only tells it to stop.
        self.scope.spawn("watch", async move { follow(&client, &target, &handler, &stop).await });
        Some((watch, own))
    }

    fn client(&self, watch: &Watch) -> Result<Client> {
        let variable = |name: &str| {
            let found = self.reach.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let mut config = Config::from_env(variable).context("cannot reach this agent")?;
        client::encrypt(&mut config).context("cannot reach this agent")?;
        config.token.clone_from(&watch.token);
        config.datacenter.clone_from(&watch.datacenter);
        if watch.stale {
            config.consistency = Consistency::Stale;
        }
        Ok(Client::new(config))
    }
}

fn target(watch: &Watch) -> Result<Target> {
    let given = |name: &str| watch.parameters.get(name.replace('-', "_").as_str()).cloned();
    let tags = given("tag").filter(|tag| !tag.is_empty()).into_iter().collect();
    Target::of(&watch.kind, &given, tags, given("passingonly").as_deref() == Some("true"))
}

async fn follow(client: &Client, target: &Target, handler: &Handler, stop: &Stop) {
    let kind = target.kind();
    let mut position = Position::Start;
    let mut seen = false;
    let mut errors = 0_u32;
    loop {
        let Some(looked) = stop.or_stopped(look(client, target, &position)).await else { return };
        let pause = match looked {
            Ok((value, next)) => {
                errors = 0;
                let changed = !seen || next != position;
                (position, seen) = (next, true);
                if changed {
                    match call(handler, &value, &position, stop).await {
                        Ok(said) if said.is_empty() => {}
                        Ok(said) => tracing::debug!("agent: watch handler (type: {kind}) output: {said}"),
                        Err(error) => tracing::error!("agent: watch handler (type: {kind}): {error:#}"),
                    }
                }
                // What has no position cannot be waited for.
                (position == Position::Start).then_some(PAUSE)
            }
            Err(error) => {
                errors = errors.saturating_add(1);
                let pause = pause_after(errors);
                let seconds = pause.as_secs();
                tracing::error!("agent: watch (type: {kind}) errored: {error:#}, retry in {seconds}s");
                position = Position::Start;
                Some(pause)
            }
        };
        if let Some(pause) = pause
            && stop.or_stopped(tokio::time::sleep(pause)).await.is_none()
        {
            return;
        }
        if stop.is_requested() {
            return;
        }
    }
}

/// Calls a handler and gives what it said.
async fn call(handler: &Handler, value: &RawValue, position: &Position, stop: &Stop) -> Result<String> {
    let body = output::compact(value.get());
    match handler {
        Handler::None => Ok(String::new()),
        Handler::Shell(line) => run(std::slice::from_ref(line), By::Shell, &body, position, stop).await,
        Handler::Program(words) => run(words, By::Itself, &body, position, stop).await,
        Handler::Http(http) => match stop.or_stopped(send(http, &body, position)).await {
            Some(outcome) => outcome,
            None => Ok(String::new()),
        },
    }
}

/// Runs a program with the JSON on its standard input, until it ends or the watch does.
async fn run(words: &[String], by: By, body: &str, position: &Position, stop: &Stop) -> Result<String> {
    // One pipe for both streams keeps what was printed in its order.
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut command = child::command(words, by);
    command.env("CONSUL_INDEX", position.shown()).stdin(Stdio::piped());
    command.stdout(writer.try_clone()?).stderr(writer);
    let program = words.first().map(String::as_str).unwrap_or_default();
    let mut child = command.spawn().with_context(|| format!("cannot run {program:?}"))?;
    // It holds our copies of the writing end.
    drop(command);
    let stdin = child.stdin.take();
    let body = format!("{body}\n");
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is told.
            let _ = stdin.write_all(body.as_bytes()).await;
        }
    };
    let mut feed = std::pin::pin!(feed);
    let (mut fed, mut open) = (false, true);
    let mut said = Vec::new();
    let mut buffer = [0_u8; KEPT];
    let status: ExitStatus = loop {
        tokio::select! {
            () = &mut feed, if !fed => fed = true,
            read = reader.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => keep(&mut said, &buffer[..count]),
            },
            status = child.wait() => break status.with_context(|| format!("cannot wait for {program:?}"))?,
            () = stop.requested() => {
                child::end(&mut child).await?;
                return Ok(String::new());
            }
        }
    };
    let rest = async {
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            keep(&mut said, &buffer[..count]);
        }
    };
    if open {
        let _ = tokio::time::timeout(REST, rest).await;
    }
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    if status.success() { Ok(said) } else { Err(anyhow!("{program:?} failed: {status}: {said}")) }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT.saturating_sub(said.len());
    said.extend_from_slice(&more[..more.len().min(room)]);
}

/// Sends the JSON to a URL.
async fn send(http: &HttpHandler, body: &str, position: &Position) -> Result<String> {
    let (config, target) = url(&http.path, http.tls_skip_verify)?;
    let (method, address) = (&http.method, config.address.clone());
    let form = || format!("cannot form the request to {address}");
    // A query may hold what is secret; the path tells one handler from another.
    let path = target.split('?').next().unwrap_or_default();
    let mut request = Request::by(method, &target).with_context(form)?;
    let given = |name: &str| http.header.keys().any(|key| key.eq_ignore_ascii_case(name));
    if !given("content-type") {
        request = request.header("Content-Type", "application/json").with_context(form)?;
    }
    request = request.header("X-Consul-Index", &position.shown()).with_context(form)?;
    for (name, values) in &http.header {
        for value in values {
            request = request.header(name, value).with_context(form)?;
        }
    }
    let request = request.body(body.to_owned()).limit(http.timeout).max_body(ANSWER);
    let answer = Client::new(config).send(request).await.with_context(|| format!("{method} {path}"))?;
    match answer.status {
        200..300 => Ok(String::from_utf8_lossy(&answer.body[..answer.body.len().min(KEPT)]).trim_end().to_owned()),
        status => bail!("{method} {address}{path}: the answer is {status}"),
    }
}

/// Where a URL points to: how to get there, and what to ask for.
fn url(text: &str, skip_verify: bool) -> Result<(Config, String)> {
    // A URL may hold a password: it is not shown.
    let wrong = || anyhow!("the path of http_handler_config is no URL: write http://host:port/path or https://…");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if !matches!(scheme, "http" | "https") {
        return Err(wrong());
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (basic_auth, host) = place.rsplit_once('@').unwrap_or(("", place));
    let address = Address::parse(&format!("{scheme}://{host}"), Scheme::Http).map_err(|_| wrong())?;
    let mut config = Config {
        address,
        basic_auth: basic_auth.to_owned(),
        tls: TlsFiles { verify: !skip_verify, ..TlsFiles::default() },
        ..Config::default()
    };
    client::encrypt(&mut config)?;
    Ok((config, if target.starts_with('/') { target.to_owned() } else { format!("/{target}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let (config, target) = url("http://user:word@localhost:81/hook?x=1#part", false).unwrap();
        assert_eq!((config.address.to_string().as_str(), target.as_str()), ("http://localhost:81", "/hook?x=1"));
        assert_eq!(config.basic_auth, "user:word");
        assert_eq!(url("http://[::1]:81", false).unwrap().1, "/");
        assert_eq!(url("http://a?b", false).unwrap().1, "/?b");
        for wrong in ["", "localhost:81", "ftp://a", "http://", "http:///x", "unix:///x"] {
            assert!(url(wrong, false).is_err(), "{wrong}");
        }
    }
}
