//! Watches of the configuration on the built binary: programs and URLs are called with what was found.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use common::{LICTOR, serve};
use lictor_testkit::house::is_running;
use lictor_testkit::{House, until, wait::PATIENCE};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What a URL was called with: the first line, the headers, the body.
type Called = (String, Vec<String>, Value);

/// A server that hands out what it is called with.
fn hook() -> (String, mpsc::Receiver<Called>) {
    let (tell, calls) = mpsc::channel();
    let address = serve("127.0.0.1:0", move |connection: TcpStream| {
        let mut reader = BufReader::new(&connection);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or_default() <= 2 {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let length = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body).unwrap();
        let _ = write!(&connection, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        if !lines.is_empty() {
            let first = lines.remove(0);
            // The test may be over.
            let _ = tell.send((first, lines, serde_json::from_slice(&body).unwrap()));
        }
    });
    (format!("http://{address}/hook?from=agent"), calls)
}

#[test]
fn programs_and_urls_are_called_at_the_start_and_at_each_change() {
    let (url, calls) = hook();
    let mut house = House::build(LICTOR, json!({}));
    let seen = house.folder().join("seen");
    let nobody = format!("127.0.0.1:{}", lictor_testkit::ports::one());
    let line = format!("read line; echo \"$CONSUL_INDEX $line\" >> {}", seen.display());
    house.reconfigure(|config| {
        config["watches"] = json!([
            {"type": "key", "key": "color", "args": ["/bin/sh", "-c", line]},
            {"type": "service", "service": "db", "passingonly": true, "handler_type": "http",
                "http_handler_config": {"path": url, "method": "PUT", "header": {"X-Reason": ["a", "b"]}}},
            {"type": "nodes", "handler": "exit 3"},
            {"type": "services", "handler_type": "http",
                "http_handler_config": {"path": format!("http://{nobody}/gone?key=hidden")}},
        ]);
    });
    house.start_agent();
    house.wait_ready();
    let lines = || -> Vec<String> { fs::read_to_string(&seen).unwrap_or_default().lines().map(String::from).collect() };
    until("the program is told that there is no such key", || {
        lines().last().is_some_and(|line| line.ends_with(" null"))
    });
    let (first, headers, body) = calls.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.as_str(), body), ("PUT /hook?from=agent HTTP/1.1", json!([])));
    let has = |header: &str| headers.iter().any(|line| line.eq_ignore_ascii_case(header));
    assert!(has("Content-Type: application/json") && has("X-Reason: a") && has("X-Reason: b"), "{headers:?}");
    assert!(headers.iter().any(|line| line.to_lowercase().starts_with("x-consul-index: ")), "{headers:?}");
    until("a handler that fails is in the log", || {
        house.log().contains("watch handler (type: nodes): \"exit 3\" failed")
    });
    // With its path, without what a query may hide, and with the address once.
    let refused = format!("POST /gone: cannot connect to http://{nobody}: ");
    until("so is one that nobody answers", || house.log().contains(&refused));
    let log = house.log();
    let line = log.lines().find(|line| line.contains(&refused)).unwrap();
    assert!(line.matches(&nobody).count() == 1 && !line.contains("hidden"), "{line}");

    house.request("PUT", "/v1/kv/color", b"blue");
    until("the program is told the value", || {
        lines().last().is_some_and(|line| line.contains("\"Value\":\"Ymx1ZQ==\""))
    });
    let index = house.get("/v1/kv/color").json()[0]["ModifyIndex"].to_string();
    assert!(lines().last().unwrap().starts_with(&format!("{index} ")), "{:?}", lines());
    house.put("/v1/agent/service/register", json!({"Name": "db", "Port": 1}));
    let ports =
        |body: &Value| body.as_array().map(|all| all.iter().map(|one| one["Service"]["Port"].clone()).collect());
    until("the URL is told of the instance", || {
        calls.try_recv().is_ok_and(|(_, _, body)| ports(&body) == Some(vec![json!(1)]))
    });

    // A reload ends what is no longer wanted, and a program that is running with it, and leaves the rest alone.
    let pid_file = house.folder().join("pid");
    let told = lines().len();
    house.reconfigure(|config| {
        let kept = config["watches"][0].clone();
        let slow = format!("echo $$ > {}; exec sleep 300", pid_file.display());
        config["watches"] = json!([kept, {"type": "services", "args": ["/bin/sh", "-c", slow]}]);
    });
    house.put("/v1/agent/reload", json!(null));
    let mut pid = 0;
    until("the new watch calls its program", || {
        pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        is_running(pid)
    });
    assert_eq!(lines().len(), told, "the watch that stayed did not begin anew");
    house.request("PUT", "/v1/kv/color", b"red");
    until("the watch that stayed goes on", || lines().last().is_some_and(|line| line.contains("\"cmVk\"")));
    house.put("/v1/agent/service/deregister/db", json!(null));
    house.reconfigure(|config| config["watches"] = json!([config["watches"][0].clone()]));
    house.put("/v1/agent/reload", json!(null));
    until("the program of a watch that is gone ends", || !is_running(pid));
    assert!(calls.try_iter().all(|(_, _, body)| body != json!([])), "a watch that is gone calls nobody");
    house.end_agent(Signal::INT);
}

#[test]
fn the_agents_end_ends_the_programs_of_its_watches_and_tokens_count() {
    let mut house = House::build(
        LICTOR,
        json!({"acl": {"enabled": true, "default_policy": "deny",
        "tokens": {"master": "b6a1f5c5-9d51-4b83-a6a1-4b4b2a2b0b01"}}}),
    );
    let (with, without) = (house.folder().join("with"), house.folder().join("without"));
    let write = |path: &std::path::Path| format!("cat > {0}; echo $$ > {0}.pid; exec sleep 300", path.display());
    let (with_line, without_line) = (write(&with), write(&without));
    house.reconfigure(|config| {
        config["watches"] = json!([
            {"type": "keyprefix", "prefix": "a/", "args": ["/bin/sh", "-c", with_line],
                "token": "b6a1f5c5-9d51-4b83-a6a1-4b4b2a2b0b01"},
            {"type": "agent_service", "service_id": "x", "args": ["/bin/sh", "-c", without_line]},
        ]);
    });
    house.start_agent();
    house.wait_ready();
    until("a watch that may look calls", || fs::read_to_string(&with).is_ok_and(|text| text.ends_with('\n')));
    until("a watch that may not says so", || house.log().contains("watch (type: agent_service) errored"));
    let mut pid = 0;
    until("its program runs", || {
        let text = fs::read_to_string(house.folder().join("with.pid")).unwrap_or_default();
        pid = text.trim().parse().unwrap_or_default();
        is_running(pid)
    });
    house.end_agent(Signal::TERM);
    until("nothing of it is left", || !is_running(pid));
    assert!(!without.exists());
    assert!(!house.log().contains("b6a1f5c5"), "a token is in the log");
}
