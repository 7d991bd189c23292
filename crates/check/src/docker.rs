//! A check inside a container: a program is run there by the container engine, and its exit code is the status.
//!
//! The engine is asked over its HTTP API, mostly on a Unix socket: make an execution, start it and read what it prints
//! until it ends, then ask for its exit code.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use lictor_model::health::{CheckSpec, Status};
use lictor_model::text;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::connection::Packing;
use crate::tail::Tail;
use crate::{Outcome, connection, dial, limit, room};

/// Answers of the engine are small; what the program prints is not one of them.
const LARGEST_ANSWER: usize = 256 * 1024;
/// How often and how long the engine is asked for the exit code of a program whose output has ended.
const ASK_AGAIN: Duration = Duration::from_millis(50);
const MAX_ASKED: u32 = 40;

/// A check in a container.
pub(crate) struct Docker {
    container: String,
    args: Vec<String>,
    engine: Engine,
    limit: Option<Duration>,
}

/// Where the engine listens.
enum Engine {
    Unix(PathBuf),
    Tcp(String),
    /// An address we do not understand.
    Unknown(String),
}

impl Docker {
    pub(crate) fn new(spec: &CheckSpec, host: &str) -> Docker {
        let tcp = ["tcp://", "http://"].iter().find_map(|scheme| host.strip_prefix(scheme));
        let engine = match (host.strip_prefix("unix://"), tcp) {
            (Some(path), _) => Engine::Unix(path.into()),
            (None, Some(address)) => Engine::Tcp(address.trim_end_matches('/').to_owned()),
            (None, None) => Engine::Unknown(host.to_owned()),
        };
        Docker {
            container: spec.docker_container_id.clone(),
            args: spec.args.clone(),
            engine,
            limit: limit::docker(spec),
        }
    }

    pub(crate) async fn run(&self) -> Outcome {
        let Some(limit) = self.limit else { return self.outcome().await };
        match tokio::time::timeout(limit, self.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::critical(format!("Timed out ({}) running check", text::duration(limit))),
        }
    }

    async fn outcome(&self) -> Outcome {
        match self.execute().await {
            Ok((0, output)) => Outcome { status: Status::Passing, output },
            Ok((1, output)) => Outcome { status: Status::Warning, output },
            Ok((_, output)) => Outcome { status: Status::Critical, output },
            Err(why) => Outcome::critical(why),
        }
    }

    /// The exit code of the program and what it printed.
    async fn execute(&self) -> Result<(i64, String), String> {
        let container = &self.container;
        let wanted = json!({
            "AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "Tty": true, "Cmd": self.args,
        });
        let create = self.request(Method::POST, &format!("/containers/{}/exec", encoded(container)), Some(&wanted))?;
        let failed = |why| format!("failed to create exec for container {container}: {why}");
        let created = self.exchange(create, answer).await.and_then(|answer| answer).map_err(failed)?;
        let id = created["Id"].as_str().ok_or_else(|| failed("the engine gave no id".into()))?;

        let start = json!({"Detach": false, "Tty": true});
        let start = self.request(Method::POST, &format!("/exec/{}/start", encoded(id)), Some(&start))?;
        let failed = |why| format!("failed to run exec {id} for container {container}: {why}");
        let tail = self.exchange(start, output).await.and_then(|output| output).map_err(failed)?;

        let failed = |why| format!("failed to get the exit code of exec {id} for container {container}: {why}");
        let path = format!("/exec/{}/json", encoded(id));
        for _ in 0..MAX_ASKED {
            let inspect = self.request(Method::GET, &path, None)?;
            let state = self.exchange(inspect, answer).await.and_then(|answer| answer).map_err(failed)?;
            // A program can close its output before it ends.
            if let (Some(false), Some(code)) = (state["Running"].as_bool(), state["ExitCode"].as_i64()) {
                return Ok((code, tail.text_with_remark()));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Err(failed("it is still running".into()))
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, String> {
        let invalid = |_| format!("container id {:?} cannot be part of a request", self.container);
        let mut request = Request::new(Full::from(body.map(ToString::to_string).unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(invalid)?;
        let host = match &self.engine {
            Engine::Tcp(address) => HeaderValue::try_from(address),
            Engine::Unix(_) | Engine::Unknown(_) => Ok(HeaderValue::from_static("docker")),
        };
        let headers = request.headers_mut();
        headers.insert(HOST, host.map_err(|_| "the address of the container engine is none".to_owned())?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }

    async fn exchange<T, F: Future<Output = T>>(
        &self,
        request: Request<Full<Bytes>>,
        use_answer: impl FnOnce(Response<Incoming>) -> F,
    ) -> Result<T, String> {
        match &self.engine {
            Engine::Unix(path) => {
                let stream = room::wait(|| UnixStream::connect(path))
                    .await
                    .map_err(|error| format!("dial unix {}: connect: {}", path.display(), dial::cause_text(&error)))?;
                connection::exchange(stream, request, use_answer).await
            }
            Engine::Tcp(address) => {
                let stream = dial::tcp(address).await.map_err(|refused| refused.to_string())?;
                connection::exchange(stream, request, use_answer).await
            }
            Engine::Unknown(host) => {
                return Err(format!("the container engine at {host:?} cannot be reached: use unix:// or tcp://"));
            }
        }
        .map_err(|error| error.to_string())
    }
}

/// A part of a path, so that nothing in it has a meaning.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A small answer of the engine, or what it says against the request.
async fn answer(response: Response<Incoming>) -> Result<Value, String> {
    let (status, body) = whole(response).await?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| format!("the engine's answer is no JSON: {error}"));
    }
    Err(refusal(status, &body))
}

/// What the program prints, until it ends.
async fn output(response: Response<Incoming>) -> Result<Tail, String> {
    if response.status().is_success() {
        return Ok(connection::read_tail(response.into_body(), Packing::Plain).await);
    }
    let (status, body) = whole(response).await?;
    Err(refusal(status, &body))
}

async fn whole(response: Response<Incoming>) -> Result<(StatusCode, Bytes), String> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| error.to_string())?;
    Ok((head.status, body.to_bytes()))
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).ok();
    let message = said.as_ref().and_then(|said| said["message"].as_str());
    let body = String::from_utf8_lossy(body);
    format!("{}: {}", status.as_u16(), message.unwrap_or(body.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_cannot_lead_elsewhere() {
        assert_eq!(encoded("web_1.a-b"), "web_1.a-b");
        assert_eq!(encoded("../x?y"), "..%2Fx%3Fy");
    }

    #[test]
    fn a_refusal_has_the_words_of_the_engine() {
        let text = |body: &str| refusal(StatusCode::NOT_FOUND, body.as_bytes());
        assert_eq!(text(r#"{"message":"No such container: x"}"#), "404: No such container: x");
        assert_eq!(text("page not found\n"), "404: page not found");
    }
}
