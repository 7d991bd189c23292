//! Docker checks against a server that speaks the part of the engine's API that they use, on a Unix socket: a machine
//! that builds this has no engine.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lictor_check::{Config, Outcome};
use lictor_model::health::{CheckSpec, Status};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::process::Command;

use crate::once::run;

/// Executions made so far: the program, and its exit code once it has ended.
#[derive(Default)]
struct Engine(Mutex<Vec<(Vec<String>, Option<i32>)>>);

fn said(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

impl Engine {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let parts: Vec<&str> = head.uri.path().split('/').skip(1).collect();
        match (head.method, parts.as_slice()) {
            (Method::POST, ["containers", "web", "exec"]) => {
                assert_eq!((&asked["AttachStdout"], &asked["AttachStderr"]), (&json!(true), &json!(true)));
                let words = asked["Cmd"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
                let mut made = self.0.lock().unwrap();
                made.push((words.collect(), None));
                said(StatusCode::CREATED, json!({"Id": (made.len() - 1).to_string()}).to_string())
            }
            (Method::POST, ["containers", name, "exec"]) => {
                said(StatusCode::NOT_FOUND, json!({"message": format!("No such container: {name}")}).to_string())
            }
            (Method::POST, ["exec", id, "start"]) => {
                assert_eq!(asked, json!({"Detach": false, "Tty": true}));
                let id: usize = id.parse().unwrap();
                let words = self.0.lock().unwrap()[id].0.clone();
                let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().await.unwrap();
                self.0.lock().unwrap()[id].1 = output.status.code();
                said(StatusCode::OK, [output.stdout, output.stderr].concat())
            }
            (Method::GET, ["exec", id, "json"]) => {
                let code = self.0.lock().unwrap()[id.parse::<usize>().unwrap()].1;
                said(StatusCode::OK, json!({"Running": code.is_none(), "ExitCode": code}).to_string())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Starts an engine; it ends with the runtime of the test.
fn start(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    let engine = Arc::new(Engine::default());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                let service =
                    service_fn(|request| async { Ok::<_, std::convert::Infallible>(engine.answer(request).await) });
                // A check that is over closes its connection.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

async fn check(host: String, container: &str, script: &str, timeout: Duration) -> Outcome {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    let spec = CheckSpec { docker_container_id: container.into(), args, timeout, ..CheckSpec::default() };
    run(spec, Config { docker_host: host, ..Config::default() }).await
}

#[tokio::test]
async fn the_exit_code_of_a_program_in_a_container_is_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    start(&socket);
    let run = async |script: &str| check(format!("unix://{}", socket.display()), "web", script, Duration::ZERO).await;
    for (code, status) in [(0, Status::Passing), (1, Status::Warning), (2, Status::Critical), (127, Status::Critical)] {
        let outcome = run(&format!("echo says {code}; exit {code}")).await;
        assert_eq!(outcome, Outcome { status, output: format!("says {code}\n") });
    }
    let long = run("head -c 5000 /dev/zero | tr '\\0' x").await;
    assert!(long.output.starts_with("Captured 4096 of 5000 bytes\n...\nxxx"), "{}", long.output);
}

#[tokio::test]
async fn what_cannot_be_run_is_critical_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let away = check(host.clone(), "web", "true", Duration::ZERO).await;
    assert_eq!(away.status, Status::Critical);
    assert!(away.output.ends_with("docker.sock: connect: no such file or directory"), "{}", away.output);
    start(&socket);
    let unknown = check(host.clone(), "nope", "true", Duration::ZERO).await;
    assert_eq!(unknown.output, "failed to create exec for container nope: 404: No such container: nope");
    let slow = check(host, "web", "sleep 30", Duration::from_millis(300)).await;
    assert_eq!((slow.status, slow.output.as_str()), (Status::Critical, "Timed out (300ms) running check"));
    let strange = check("npipe://x".into(), "web", "true", Duration::ZERO).await;
    assert!(strange.output.contains("use unix:// or tcp://"), "{}", strange.output);
}
