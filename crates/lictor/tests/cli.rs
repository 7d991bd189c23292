//! The command line against a real agent: outputs, exit codes, and what reaches whom.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::LICTOR;
use lictor_testkit::{House, eventually, house, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How a command ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// It worked and printed this.
    #[track_caller]
    fn said(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (Some(0), out, ""));
    }

    /// It failed with this code and text, and printed no result.
    #[track_caller]
    fn refused(&self, code: i32, err: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (Some(code), "", err));
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A command without the environment of whoever runs the tests.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60", LICTOR]).args(words).stdin(Stdio::null());
    for (name, _) in std::env::vars() {
        if name.starts_with("CONSUL_") || name.starts_with("CONNECT_") || name == "SHELL" {
            command.env_remove(name);
        }
    }
    command
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A command that asks nobody.
fn alone(words: &[&str]) -> Ended {
    ended(&mut command(words))
}

/// A command that asks the agent of a house.
fn of(house: &House, words: &[&str]) -> Command {
    let mut command = command(words);
    command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port)).current_dir(house.folder());
    command
}

/// A command that goes on until it is told to end; killed when dropped.
struct Running(Child);

impl Running {
    fn start(house: &House, words: &[&str], out: Stdio) -> Running {
        let mut command = Command::new(LICTOR);
        command.args(words).stdin(Stdio::null()).stdout(out).env_remove("SHELL");
        command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port)).current_dir(house.folder());
        Running(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        house::send(self.0.id(), signal);
    }

    fn code(&mut self) -> Option<i32> {
        eventually("the command ends", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(house: &House, words: &[&str]) -> Ended {
    ended(&mut of(house, words))
}

/// [`run`] with a standard input.
fn fed(house: &House, words: &[&str], input: &[u8]) -> Ended {
    let mut child =
        of(house, words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn agent() -> House {
    House::start_dev(LICTOR, json!({"node_name": "n1"}))
}

#[test]
fn what_is_no_text_is_refused_with_its_place_and_never_shown() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = OsStr::from_bytes(b"sesame\xff");
    for words in [&["kv", "put"][..], &["members"], &["agent", "-config-dir"], &[]] {
        let output = Command::new(LICTOR).args(words).arg(bad).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let wanted = format!("Error! Argument {} is not UTF-8", words.len() + 1);
        assert!(said.starts_with(&wanted) && !said.contains("sesame"), "{said}");
    }
    let output = Command::new(LICTOR).arg("members").env("CONSUL_HTTP_TOKEN", "ID: sesame\nName: x").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the token has blanks or line ends in it") && !said.contains("sesame"), "{said}");
    for variable in ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN"] {
        for words in [&["members"][..], &["connect", "proxy", "-sidecar-for", "web"]] {
            let output = Command::new(LICTOR).args(words).env(variable, bad).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains(&format!("{variable}: the value is not UTF-8")) && !said.contains("sesame"),
                "{said}"
            );
        }
    }
}

#[test]
fn the_program_alone_and_unknown_words_print_the_usage_as_an_error() {
    let nothing = alone(&[]);
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(1), ""));
    assert!(nothing.err.starts_with("Usage: lictor [--version] [--help] <command> [<args>]\n"), "{}", nothing.err);
    let unknown = alone(&["agnet"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(1), ""));
    assert!(unknown.err.ends_with("There is no command \"agnet\"; did you mean \"agent\"?\n"), "{}", unknown.err);
    let group = alone(&["intention"]);
    assert_eq!((group.code, group.out.as_str()), (Some(1), ""));
    assert!(group.err.starts_with("Usage: lictor intention <subcommand> [options] [args]\n"), "{}", group.err);
    let unknown = alone(&["acl", "token", "creat"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.ends_with("did you mean \"acl token create\"?\n"), "{}", unknown.err);
}

#[test]
fn help_and_version_are_results() {
    for words in [&["-h"][..], &["--help"], &["kv", "-help"], &["kv", "put", "-h"], &["connect", "proxy", "--help"]] {
        let help = alone(words);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{words:?}");
        assert!(help.out.starts_with("Usage: lictor "), "{words:?}: {}", help.out);
    }
    let protocol = "Protocol 2 spoken by default, understands 2 to 3 (agent will automatically use protocol >2 when \
                    speaking to compatible agents)\n";
    for words in [&["version"][..], &["-v"], &["--version"]] {
        let version = alone(words);
        assert!(version.code == Some(0) && version.out.ends_with(protocol), "{words:?}: {}", version.out);
    }
    let wrong = alone(&["kv", "get", "-bogus"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(1), ""));
    assert!(wrong.err.starts_with("flag provided but not defined: -bogus\n\nUsage: lictor kv get"), "{}", wrong.err);
}

#[test]
fn what_is_not_offered_says_what_to_use() {
    for words in
        [&["exec", "-node=x", "ls"][..], &["debug", "-interval=1s"], &["connect", "envoy", "-sidecar-for", "web"]]
    {
        let refused = alone(words);
        assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{words:?}");
        assert!(refused.err.contains("lictor "), "{words:?}: {}", refused.err);
        assert_eq!(alone(&[words[0], words.get(1).copied().unwrap_or_default(), "-h"]).code, Some(0));
    }
}

/// A8.1, A8.4, A8.5, A8.7, and the rest of what is asked about members.
#[test]
fn members_are_listed_filtered_and_found_by_every_kind_of_address() {
    let mut house = House::build_dev(LICTOR, json!({"node_name": "n1", "ports": {"serf_lan": 8301}}));
    let socket = house.folder().join("agent.sock");
    let addresses = format!("127.0.0.1 unix://{}", socket.display());
    house.reconfigure(|config| config["addresses"] = json!({"http": addresses}));
    house.start_agent();
    house.wait_ready();
    let house = &house;
    let port = house.http_port;
    let table = "Node  Address         Status  Type    Build  Protocol  DC   Segment\n\
                 n1    127.0.0.1:8301  alive   server  1.4.3  2         dc1  <all>\n";
    run(house, &["members"]).said(table);
    // A8.7
    for words in [&["members", "--status=alive"][..], &["members", "-status", "alive"], &["members", "-status=alive"]] {
        run(house, words).said(table);
    }
    // A8.1
    run(house, &["members", "-status=zz"]).refused(2, "");
    let detailed = run(house, &["members", "-detailed"]).out;
    assert!(
        detailed.starts_with("Node  Address         Status  Tags\nn1    127.0.0.1:8301  alive   acls=0,"),
        "{detailed}"
    );
    let members = run(house, &["members", "-format=json"]).json();
    assert_eq!((&members[0]["Name"], &members[0]["Status"]), (&json!("n1"), &json!(1)));
    assert_eq!(run(house, &["members", "-format=yaml"]).code, Some(1));
    // A8.4
    run(house, &["members", "-http-addr=127.0.0.1:1"]).refused(
        1,
        "Error retrieving members: Get http://127.0.0.1:1/v1/agent/members?segment=_all: dial tcp 127.0.0.1:1: connect: \
         connection refused\n",
    );
    // A8.5
    let by = |address: &str| ended(command(&["members"]).env("CONSUL_HTTP_ADDR", address));
    by(&format!("http://127.0.0.1:{port}")).said(table);
    by(&format!("unix://{}", socket.display())).said(table);
    let https = ended(of(house, &["members"]).env("CONSUL_HTTP_SSL", "true"));
    assert_eq!(https.code, Some(1));
    assert!(
        https.err.starts_with(&format!("Error retrieving members: Get https://127.0.0.1:{port}/v1/")),
        "{}",
        https.err
    );
    let secret = alone(&["members", "-http-addr=ftp://user:geheim@host"]);
    assert!(secret.code == Some(1) && !secret.err.contains("geheim"), "{}", secret.err);
}

#[test]
fn an_agent_behind_https_is_asked_with_certificates_of_our_own_making() {
    let mut house = House::build_dev(LICTOR, json!({"node_name": "n1"}));
    let tls = |words: &[&str]| ended(command(words).current_dir(house.folder()));
    tls(&["tls", "ca", "create", "-name-constraint"])
        .said("==> Saved consul-agent-ca.pem\n==> Saved consul-agent-ca-key.pem\n");
    assert_eq!(tls(&["tls", "ca", "create"]).err, "consul-agent-ca.pem already exists.\n");
    let server = tls(&["tls", "cert", "create", "-server"]);
    assert!(
        server.out.ends_with(
            "==> Using consul-agent-ca.pem and consul-agent-ca-key.pem\n==> Saved dc1-server-consul-0.pem\n==> Saved \
             dc1-server-consul-0-key.pem\n"
        ),
        "{}",
        server.out
    );
    assert_eq!(tls(&["tls", "cert", "create", "-cli"]).code, Some(0));
    tls(&["tls", "cert", "create"]).refused(1, "Please provide either -server, -client, or -cli\n");
    for key in ["consul-agent-ca-key.pem", "dc1-server-consul-0-key.pem", "dc1-cli-consul-0-key.pem"] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(house.folder().join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
    let folder = house.folder().to_owned();
    let file = |name: &str| folder.join(name).display().to_string();
    let https = lictor_testkit::ports::one();
    let (ca, cert, key) =
        (file("consul-agent-ca.pem"), file("dc1-server-consul-0.pem"), file("dc1-server-consul-0-key.pem"));
    house.reconfigure(|config| {
        config["ports"]["https"] = https.into();
        config["ca_file"] = ca.clone().into();
        config["cert_file"] = cert.into();
        config["key_file"] = key.into();
        config["verify_incoming_https"] = true.into();
        config["enable_agent_tls_for_checks"] = true.into();
        config["tls_cipher_suites"] = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".into();
        config["check"] = json!({"id": "self", "name": "self", "interval": "1s",
            "http": format!("https://localhost:{https}/v1/status/leader")});
    });
    house.start_agent();
    house.wait_ready();
    // Its own listener lets nobody in without a certificate: the check shows the agent's.
    until("a check shows the agent's certificate", || {
        house.get("/v1/agent/checks").json()["self"]["Status"] == "passing"
    });
    if let Some(openssl) = lictor_testkit::program::find("openssl") {
        let agree = |suite: &str| {
            let mut command = std::process::Command::new(&openssl);
            command.args(["s_client", "-tls1_2", "-cipher", suite, "-connect", &format!("127.0.0.1:{https}")]);
            command.args(["-cert", &file("dc1-cli-consul-0.pem"), "-key", &file("dc1-cli-consul-0-key.pem")]);
            command.stdin(std::process::Stdio::null()).output().unwrap().status.success()
        };
        assert!(agree("ECDHE-ECDSA-AES256-GCM-SHA384"), "the suite that was asked for");
        assert!(!agree("ECDHE-ECDSA-AES128-GCM-SHA256"), "another one");
    }
    let ask = |more: &[(&str, String)]| {
        let mut command = command(&["members"]);
        command.env("CONSUL_HTTP_ADDR", format!("https://127.0.0.1:{https}")).envs(more.iter().cloned());
        ended(&mut command)
    };
    let certificate = [
        ("CONSUL_CACERT", ca),
        ("CONSUL_CLIENT_CERT", file("dc1-cli-consul-0.pem")),
        ("CONSUL_CLIENT_KEY", file("dc1-cli-consul-0-key.pem")),
    ];
    assert!(ask(&certificate).out.contains("\nn1 "), "{}", ask(&certificate).err);
    assert_eq!(ask(&certificate[..1]).code, Some(1), "the agent wants to know who asks");
    let stranger = ask(&certificate[1..]);
    assert_eq!(stranger.code, Some(1), "nobody vouches for the agent");
    assert!(
        stranger.err.ends_with("name the CA of the agent's certificate: -ca-file or CONSUL_CACERT\n"),
        "{}",
        stranger.err
    );
    let plain = ended(command(&["members"]).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{https}")));
    assert!(plain.err.ends_with("write https:// or set CONSUL_HTTP_SSL=true\n"), "{}", plain.err);
    let processes = ended(command(&["connect", "ps"]).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{https}")));
    assert!(processes.err.ends_with("write https:// or set CONSUL_HTTP_SSL=true\n"), "{}", processes.err);
    let encrypted =
        ended(command(&["members"]).env("CONSUL_HTTP_ADDR", format!("https://127.0.0.1:{}", house.http_port)));
    assert!(encrypted.err.ends_with("write http:// or leave CONSUL_HTTP_SSL out\n"), "{}", encrypted.err);

    // A server that shows the certificate of the CA itself, as a self-signed one often is.
    house.end_agent(Signal::TERM);
    house.reconfigure(|config| {
        config["cert_file"] = config["ca_file"].clone();
        config["key_file"] = file("consul-agent-ca-key.pem").into();
    });
    house.start_agent();
    house.wait_ready();
    let refused = ask(&certificate);
    assert!(refused.code == Some(1) && refused.err.contains("basicConstraints=critical,CA:FALSE"), "{}", refused.err);
}

#[test]
fn the_catalog_is_listed() {
    let house = agent();
    run(&house, &["catalog", "datacenters"]).said("dc1\n");
    let id = run(&house, &["catalog", "nodes", "-format=json"]).json()[0]["ID"].as_str().unwrap().to_owned();
    run(&house, &["catalog", "nodes"])
        .said(&format!("Node  ID        Address    DC\nn1    {}  127.0.0.1  dc1\n", &id[..8]));
    run(&house, &["catalog", "nodes", "-detailed"]).said(&format!(
        "Node  ID                                    Address    DC   TaggedAddresses               Meta\nn1    {id}  \
         127.0.0.1  dc1  lan=127.0.0.1, wan=127.0.0.1  consul-network-segment=\n"
    ));
    let nothing = "No nodes match the given query - try expanding your search.\n";
    run(&house, &["catalog", "nodes", "-service=nope"]).said(nothing);
    run(&house, &["catalog", "nodes", "-node-meta=a=b"]).said(nothing);
    run(&house, &["services", "register", "-name=web", "-port=80", "-tag=b", "-tag=a"])
        .said("Registered service: web\n");
    until("the service is in the catalog", || run(&house, &["catalog", "services"]).out == "consul\nweb\n");
    run(&house, &["catalog", "services", "-tags"]).said("consul\nweb     a,b\n");
    run(&house, &["catalog", "services", "-node=n1"]).said("consul\nweb\n");
    run(&house, &["catalog", "services", "-node=nope"])
        .said("No services match the given query - try expanding your search.\n");
    assert!(run(&house, &["catalog", "nodes", "-service=web"]).out.contains("\nn1 "));
}

/// A8.2 and spec 02, 5.7.
#[test]
fn intentions_are_made_shown_checked_matched_and_deleted() {
    let house = agent();
    let create = |words: &[&str]| run(&house, &[&["intention", "create"], words].concat());
    create(&["web", "pantry"]).said("Created: web => pantry (allow)\n");
    let id =
        run(&house, &["intention", "get", "-format=json", "web", "pantry"]).json()["ID"].as_str().unwrap().to_owned();
    create(&["web", "pantry"]).refused(
        1,
        &format!(
            "Error creating intention \"web => pantry (allow)\": Unexpected response code: 500 (duplicate intention found: \
             ALLOW default/web => default/pantry (ID: {id}, Precedence: 9))\n"
        ),
    );
    // A8.2
    let check = |source: &str| run(&house, &["intention", "check", source, "pantry"]);
    check("web").said("Allowed\n");
    create(&["-replace", "-deny", "-meta", "b=2", "-meta", "a=1", "web", "pantry"]).said("");
    let denied = check("web");
    assert_eq!((denied.code, denied.out.as_str()), (Some(1), "Denied\n"));
    assert_eq!(run(&house, &["intention", "check", "-http-addr=127.0.0.1:1", "web", "pantry"]).code, Some(2));
    assert_eq!(run(&house, &["intention", "check", "web"]).code, Some(2));
    assert_eq!(run(&house, &["intention", "check", "-bogus"]).code, Some(2));

    let got = run(&house, &["intention", "get", "web", "pantry"]).out;
    let head = format!(
        "Source:       web\nDestination:  pantry\nAction:       deny\nID:           {id}\nMeta[a]:      1\nMeta[b]:      \
         2\nCreated At:   "
    );
    assert!(got.starts_with(&head), "{got}");
    assert_eq!(run(&house, &["intention", "get", &id]).out, got);
    create(&["*", "pantry"]).said("Created: * => pantry (allow)\n");
    run(&house, &["intention", "match", "pantry"]).said("web => pantry (deny)\n* => pantry (allow)\n");
    run(&house, &["intention", "match", "-source", "web"]).said("web => pantry (deny)\n* => pantry (allow)\n");
    run(&house, &["intention", "match", "attic"]).said("");
    run(&house, &["intention", "match"]).refused(1, "Error: command requires exactly one argument: src or dst\n");
    run(&house, &["intention", "match", "-source", "-destination", "web"])
        .refused(1, "Error: only one of -source or -destination may be specified\n");

    let file = house.folder().join("i.json");
    fs::write(&file, r#"{"SourceName": "a", "DestinationName": "b", "Action": "deny", "Description": "dd"}"#).unwrap();
    create(&["-file", file.to_str().unwrap()]).said("Created: a => b (deny)\n");
    assert!(run(&house, &["intention", "get", "a", "b"]).out.contains("\nDescription:  dd\n"));
    fed(
        &house,
        &["intention", "create", "-file", "-"],
        br#"{"SourceName":"c","DestinationName":"d","Action":"allow"}"#,
    )
    .said("Created: c => d (allow)\n");
    create(&["-allow", "-deny", "x", "y"]).refused(1, "Only one of -allow or -deny may be specified.\n");
    create(&["x"]).refused(1, "Error: Must specify two arguments: source and destination\n");

    run(&house, &["intention", "delete", "default/web", "pantry"]).said("Intention deleted.\n");
    run(&house, &["intention", "delete", "web", "attic"])
        .refused(1, "Error: Intention with source \"web\" and destination \"attic\" not found.\n");
}

#[test]
fn services_are_registered_and_removed_by_flags_and_by_files() {
    let house = agent();
    run(
        &house,
        &["services", "register", "-name=cli1", "-id=c1", "-port=80", "-address=10.0.0.9", "-tag=a", "-meta=k=v"],
    )
    .said("Registered service: cli1\n");
    let service = house.get("/v1/agent/service/c1").json();
    assert_eq!(
        (&service["Service"], &service["Port"], &service["Address"], &service["Tags"], &service["Meta"]),
        (&json!("cli1"), &json!(80), &json!("10.0.0.9"), &json!(["a"]), &json!({"k": "v"}))
    );
    run(&house, &["services", "deregister", "-id=c1"]).said("Deregistered service: c1\n");
    assert_eq!(house.get("/v1/agent/service/c1").status, 404);
    run(&house, &["services", "register"])
        .refused(1, "Service registration requires at least one argument or flags.\n");
    let file = house.folder().join("s.hcl");
    let text = "services { name = \"one\" port = 1 check { ttl = \"10s\" } }\nservices { name = \"two\" connect { \
                sidecar_service {} } port = 2 }";
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    run(&house, &["services", "register", file]).said("Registered service: one\nRegistered service: two\n");
    let services = house.get("/v1/agent/services").json();
    assert_eq!(services["two-sidecar-proxy"]["Kind"], "connect-proxy");
    assert_eq!(house.get("/v1/agent/checks").json()["service:one"]["Status"], "critical");
    run(&house, &["services", "deregister", file]).said("Deregistered service: one\nDeregistered service: two\n");
    assert_eq!(house.get("/v1/agent/services").json(), json!({}));
    let missing = run(&house, &["services", "deregister", "cli1"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.starts_with("Error: config: Open failed on cli1. "), "{}", missing.err);
}

#[test]
fn maintenance_begins_is_listed_and_ends() {
    let house = agent();
    run(&house, &["services", "register", "-name=web"]).said("Registered service: web\n");
    run(&house, &["maint"]).said("");
    run(&house, &["maint", "-enable", "-reason=moving house"]).said("Node maintenance is now enabled\n");
    run(&house, &["maint", "-enable", "-service=web", "-reason=x"])
        .said("Service maintenance is now enabled for \"web\"\n");
    run(&house, &["maint"])
        .said("Node:\n  Name:   n1\n  Reason: moving house\n\nService:\n  ID:     web\n  Reason: x\n");
    assert_eq!(
        run(&house, &["maint", "-format=json"]).json()[1],
        json!({"Kind": "Service", "ID": "web", "Reason": "x"})
    );
    run(&house, &["maint", "-disable", "-service=web"]).said("Service maintenance is now disabled for \"web\"\n");
    run(&house, &["maint", "-disable"]).said("Node maintenance is now disabled\n");
    run(&house, &["maint"]).said("");
    run(&house, &["maint", "-enable", "-disable"]).refused(1, "Only one of -enable or -disable may be provided\n");
}

#[test]
fn the_ca_is_shown_and_changed() {
    let house = agent();
    let shown = run(&house, &["connect", "ca", "get-config"]).out;
    assert!(shown.starts_with("{\n\t\"Provider\": \"consul\",\n\t\"Config\": {\n\t\t\""), "{shown}");
    let file = house.folder().join("ca.json");
    fs::write(&file, r#"{"Provider": "consul", "Config": {"LeafCertTTL": "48h"}}"#).unwrap();
    run(&house, &["connect", "ca", "set-config", "-config-file", file.to_str().unwrap()])
        .said("Configuration updated!\n");
    assert!(run(&house, &["connect", "ca", "get-config"]).out.contains("\"LeafCertTTL\": \"48h\""));
    run(&house, &["connect", "ca", "set-config"]).refused(1, "The -config-file flag is required\n");
    fs::write(&file, r#"{"Provider": "consul", "Config": {"PrivateKey": "geheim" x}}"#).unwrap();
    let broken = run(&house, &["connect", "ca", "set-config", "-config-file", file.to_str().unwrap()]);
    assert!(broken.code == Some(1) && !broken.err.contains("geheim"), "{}", broken.err);
}

#[test]
fn a_log_that_is_followed_ends_with_its_agent_and_tells_it_by_its_code() {
    let mut house = agent();
    let mut log = Running::start(&house, &["monitor"], Stdio::piped());
    let mut lines = BufReader::new(log.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("] "), "it follows");
    house.kill_agent();
    assert_eq!(log.code(), Some(1));
}

#[test]
fn the_agent_shows_itself_and_its_log_reloads_and_has_nobody_to_join() {
    let house = agent();
    let info = run(&house, &["info"]).out;
    assert!(info.starts_with("agent:\n\t") && info.contains("\n\tleader = true\n"), "{info}");
    assert_eq!(run(&house, &["info", "-format=json"]).json()["consul"]["leader"], "true");
    let mut log = Running::start(&house, &["monitor", "-log-level=debug"], Stdio::piped());
    let mut lines = BufReader::new(log.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("] "), "the lines that are kept come first");
    run(&house, &["reload"]).said("Configuration reload triggered\n");
    assert!(lines.any(|line| line.unwrap().contains("eload")), "the reload is logged");
    log.signal(Signal::INT);
    assert_eq!(log.code(), Some(0));
    // Who looks into the log sees which check failed.
    house.put("/v1/agent/check/register", json!({"Name": "seen", "TTL": "1h", "Status": "passing"}));
    house.put("/v1/agent/check/fail/seen", Value::Null);
    until("the log tells", || house.log().contains("[INFO] agent: Check \"seen\" is now critical"));
    house.put("/v1/agent/check/pass/seen", Value::Null);
    until("the log tells", || house.log().contains("[INFO] agent: Check \"seen\" is now passing"));
    run(&house, &["monitor", "-log-level=zz"])
        .refused(1, "Error starting monitor: Unexpected response code: 400 (Unknown log level: ZZ)\n");
    let join = run(&house, &["join", "10.1.2.3"]);
    assert_eq!(join.code, Some(1));
    assert!(join.err.starts_with("Error joining address '10.1.2.3': Unexpected response code: 500 ("), "{}", join.err);
    assert!(join.err.ends_with("\nFailed to join any nodes.\n"), "{}", join.err);
    run(&house, &["join"]).refused(1, "At least one address to join must be specified.\n");
    run(&house, &["force-leave", "nobody"]).said("");
    run(&house, &["force-leave"]).refused(1, "A single node name must be specified to force leave.\n");
}

/// A8.6.
#[test]
fn leave_ends_a_server_well_and_sigterm_does_not() {
    let mut house = House::start(LICTOR, json!({}));
    house.put("/v1/agent/service/register", json!({"Name": "kept"}));
    assert_eq!(house.end_agent(Signal::TERM).code(), Some(1));
    house.start_agent();
    house.wait_ready();
    assert_eq!(house.get("/v1/agent/service/kept").status, 200, "its data is kept");
    run(&house, &["leave"]).said("Graceful leave complete\n");
    assert!(house.log().lines().any(|line| line.contains("agent: leaving")));
    until("the agent has ended", || house.try_request("GET", "/v1/status/leader", b"").is_err());
    // The signal finds nobody; the code is that of the leave.
    assert_eq!(house.end_agent(Signal::CONT).code(), Some(0));
}

/// A8.3.
#[test]
fn a_configuration_is_judged_with_what_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("v.hcl", &format!("server = true\ndata_dir = \"{}/data\"", folder.path().display()));
    alone(&["validate", &good]).said("Configuration is valid!\n");
    alone(&["validate", "-quiet", &good]).said("");
    let ignored = file(
        "i.hcl",
        &format!(
            "data_dir = \"{}/data\"\nretry_join = [\"10.0.0.1\"]\nserver = true\nbootstrap = true\nraft_protocol = 2",
            folder.path().display()
        ),
    );
    let ended = alone(&["validate", &ignored]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.ends_with("Configuration is valid!\n") && ended.out.contains("retry_join"), "{}", ended.out);
    let explained = alone(&["validate", "-explain", &ignored]).out;
    assert!(
        explained.starts_with("Where") && explained.contains("  retry_join     none on servers: there is no gossip"),
        "{explained}"
    );
    let fates = alone(&["validate", "-format=json", &ignored]).json();
    let fate = |what: &str| fates.as_array().unwrap().iter().find(|fate| fate["What"] == what).unwrap().clone();
    assert_eq!((&fate("data_dir")["Effect"], &fate("data_dir")["Reload"]), (&json!("honoured"), &json!("restart")));
    let bad = file("b.hcl", "bogus = 1");
    let ended = alone(&["validate", &bad]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert!(ended.err.starts_with("Config validation failed: Error parsing "), "{}", ended.err);
    let without = alone(&["validate", &file("n.hcl", "server = true")]);
    // A flag of the agent may name it.
    assert!(without.code == Some(0) && without.out.contains("data_dir is not set"), "{} {}", without.out, without.err);
    let client =
        alone(&["validate", &file("client.hcl", "server = false\ndata_dir = \"/x\"\nretry_join = [\"10.0.0.1\"]")]);
    assert!(client.code == Some(0) && client.out.contains("Configuration is valid!"), "{} {}", client.out, client.err);
    alone(&["validate"]).refused(1, "Must specify at least one config file or directory\n");
    // Certificates and keys that are there are looked into.
    let (made, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&made, &other] {
        for words in [&["tls", "ca", "create"][..], &["tls", "cert", "create", "-server"]] {
            assert_eq!(crate::ended(command(words).current_dir(folder.path())).code, Some(0));
        }
    }
    let served = |keys: &tempfile::TempDir, root: &str| {
        let (made, keys) = (made.path().display(), keys.path().display());
        let text = format!(
            "server = true\ndata_dir = \"/x\"\nports {{ https = 8501 }}\ncert_file = \"{made}/dc1-server-consul-0.pem\"\n\
             key_file = \"{keys}/dc1-server-consul-0-key.pem\"\nconnect {{ enabled = true {root} }}"
        );
        let ended = alone(&["validate", &file("served.hcl", &text)]);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out
    };
    let pair = |certificate: &str, key: &str| {
        let read = |name: &str| fs::read_to_string(made.path().join(name)).unwrap().replace('\n', "\\n");
        format!("ca_config {{ root_cert = \"{}\" private_key = \"{}\" }}", read(certificate), read(key))
    };
    let good = pair("consul-agent-ca.pem", "consul-agent-ca-key.pem");
    let fine = served(&made, &good);
    assert!(!fine.contains("WARN"), "{fine}");
    let foreign = served(&other, &pair("dc1-server-consul-0.pem", "dc1-server-consul-0-key.pem"));
    for part in [": the agent does not start", "connect.ca_config: root_cert: ", ": a CA cannot be founded with it"] {
        assert!(foreign.contains(part), "{foreign}");
    }
}

#[test]
fn a_watch_prints_once_or_calls_its_child_at_each_change() {
    let house = agent();
    let nodes: Value = run(&house, &["watch", "-type=nodes"]).json();
    assert_eq!(nodes[0]["Node"], "n1");
    run(&house, &["watch", "-type=zz"]).refused(1, "Unsupported watch type: zz\n");
    run(&house, &["watch"]).refused(1, "Watch type must be specified\n");
    assert!(run(&house, &["watch", "-type=connect_roots"]).json()["ActiveRootID"].is_string());
    assert_eq!(run(&house, &["watch", "-type=checks", "-state=critical"]).json(), json!([]));

    let seen = house.folder().join("seen");
    let read = || fs::read_to_string(&seen).unwrap_or_default();
    let script = format!("cat >>{0}; echo \"index $CONSUL_INDEX\" >>{0}", seen.display());
    let mut watch = Running::start(&house, &["watch", "-type=services", &script], Stdio::null());
    until("the child is called at once", || read().contains("{\"consul\":[]}\nindex "));
    run(&house, &["services", "register", "-name=web"]).said("Registered service: web\n");
    until("the child is called at the change", || read().contains("{\"consul\":[],\"web\":[]}\nindex "));
    watch.signal(Signal::TERM);
    assert_eq!(watch.code(), Some(0));

    // Without a shell nothing is expanded; and a child that fails ends the watch.
    let failed =
        run(&house, &["watch", "-type=agent_service", "-service-id=web", "-shell=false", "/bin/sh", "-c", "exit 3"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.starts_with("Error executing handler: exit status 3"), "{}", failed.err);
    let nobody = run(&house, &["watch", "-http-addr=127.0.0.1:1", "-type=nodes", "cat"]);
    assert!(nobody.code == Some(1) && nobody.err.starts_with("Error querying Consul agent: Get "), "{}", nobody.err);
}

#[test]
fn a_key_for_gossip_is_made_of_16_bytes() {
    use base64::Engine;
    let key = alone(&["keygen"]).out;
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(key.trim_end()).unwrap().len(), 16);
    assert_ne!(alone(&["keygen"]).out, key);
}

#[test]
fn shells_ask_for_candidates_and_are_told_to() {
    let candidates = |line: &str| ended(command(&["lictor", "x", "y"]).env("COMP_LINE", line)).out;
    assert_eq!(candidates("lictor intention c"), "check\ncreate\n");
    let bash = alone(&["completion", "bash"]).out;
    assert_eq!(bash, "complete -C lictor lictor\n");
    assert!(alone(&["completion", "fish"]).out.contains("COMP_LINE"));
    // As bash itself does it.
    let folder = Path::new(LICTOR).parent().unwrap().display();
    let script = format!(
        "PATH={folder}:$PATH; source <(lictor completion bash); complete -p lictor; COMP_LINE='lictor kv ex' COMP_POINT=12 \
         lictor"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "complete -C 'lictor' lictor\nexport\n");

    let home = tempfile::tempdir().unwrap();
    let install = |words: &[&str]| ended(command(words).env("HOME", home.path()));
    assert_eq!(install(&["-autocomplete-install"]).code, Some(1), "there is no shell");
    let rc = home.path().join(".bashrc");
    fs::write(&rc, "alias l=ls").unwrap();
    install(&["-autocomplete-install"]).said(&format!("changed {}\n", rc.display()));
    assert_eq!(fs::read_to_string(&rc).unwrap(), format!("alias l=ls\ncomplete -C {LICTOR} lictor\n"));
    install(&["-autocomplete-install"]).said("");
    install(&["-autocomplete-uninstall"]).said(&format!("changed {}\n", rc.display()));
    assert_eq!(fs::read_to_string(&rc).unwrap(), "alias l=ls\n");
}

#[test]
fn keys_are_written_read_exported_imported_and_deleted() {
    let house = agent();
    let kv = |words: &[&str]| run(&house, &[&["kv"], words].concat());
    kv(&["put", "a/k", "value"]).said("Success! Data written to: a/k\n");
    kv(&["get", "a/k"]).said("value\n");
    kv(&["get", "/a/k"]).said("value\n");
    kv(&["get", "none"]).refused(1, "Error! No key exists at: none\n");
    kv(&["get"]).refused(1, "Error! Missing KEY argument\n");
    let file = house.folder().join("value");
    fs::write(&file, "from a file\n").unwrap();
    kv(&["put", "-flags=7", "a/file", &format!("@{}", file.display())]).said("Success! Data written to: a/file\n");
    kv(&["get", "a/file"]).said("from a file\n\n");
    fed(&house, &["kv", "put", "a/in", "-"], b"from input").said("Success! Data written to: a/in\n");
    kv(&["put", "-base64", "a/b64", "aGVsbG8="]).said("Success! Data written to: a/b64\n");
    kv(&["get", "-base64", "a/b64"]).said("aGVsbG8=\n");
    kv(&["put", "a b/ü?&"]).said("Success! Data written to: a b/ü?&\n");
    kv(&["get", "a b/ü?&"]).said("\n");
    kv(&["put", "/a", "x"]).refused(1, "Error! Failed writing data: Invalid key. Key must not begin with a '/': /a\n");
    kv(&["get", "-recurse", "a/"]).said("a/b64:hello\na/file:from a file\n\na/in:from input\na/k:value\n");
    kv(&["get", "-recurse", "none"]).said("");
    kv(&["get", "-keys", ""]).said("a b/\na/\n");
    kv(&["get", "-keys", "a/"]).said("a/b64\na/file\na/in\na/k\n");
    kv(&["get", "-keys", "-separator=6", "a/b"]).said("a/b6\n");

    let entry = kv(&["get", "-format=json", "a/file"]).json()[0].clone();
    let index = entry["ModifyIndex"].as_u64().unwrap().to_string();
    kv(&["get", "-detailed", "-base64", "a/file"]).said(&format!(
        "CreateIndex      {index}\nFlags            7\nKey              a/file\nLockIndex        0\nModifyIndex      \
         {index}\nSession          -\nValue            ZnJvbSBhIGZpbGUK\n"
    ));
    kv(&["put", "-cas", "-modify-index=1", "a/file", "x"]).refused(1, "Error! Did not write to a/file: CAS failed\n");
    kv(&["put", "-cas", &format!("-modify-index={index}"), "a/file", "x"]).said("Success! Data written to: a/file\n");
    kv(&["delete", "-cas", "-modify-index=1", "a/file"]).refused(1, "Error! Did not delete key a/file: CAS failed\n");

    let exported = kv(&["export", "a/k"]).out;
    assert_eq!(exported, "[\n\t{\n\t\t\"key\": \"a/k\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"dmFsdWU=\"\n\t}\n]\n");
    kv(&["delete", "a/k"]).said("Success! Deleted key: a/k\n");
    fed(&house, &["kv", "import", "-"], exported.as_bytes()).said("Imported: a/k\n");
    kv(&["get", "a/k"]).said("value\n");
    let broken = kv(&["import", r#"[{"key": "x", "value": "geheim!"}]"#]);
    assert!(broken.code == Some(1) && !broken.err.contains("geheim"), "{}", broken.err);
    kv(&["delete", "-recurse", "a/"]).said("Success! Deleted keys with prefix: a/\n");
    kv(&["get", "-keys", "a/"]).said("");
    kv(&["delete"]).refused(1, "Error! Missing KEY argument\n");
    kv(&["put", "all", "x"]).said("Success! Data written to: all\n");
    kv(&["delete", "-recurse"]).said("Success! Deleted keys with prefix: \n");
    kv(&["get", "-keys", ""]).said("");

    let session = house.put("/v1/session/create", Value::Null).json()["ID"].as_str().unwrap().to_owned();
    let session = format!("-session={session}");
    kv(&["put", "-acquire", &session, "k", "x"]).said("Success! Lock acquired on: k\n");
    let other = house.put("/v1/session/create", Value::Null).json()["ID"].as_str().unwrap().to_owned();
    kv(&["put", "-acquire", &format!("-session={other}"), "k", "x"]).refused(1, "Error! Did not acquire lock\n");
    kv(&["put", "-release", &session, "k", "x"]).said("Success! Lock released on: k\n");
    kv(&["put", "-acquire", "k", "x"]).refused(1, "Error! Missing -session (required with -acquire and -release)\n");
}

#[test]
fn a_lock_runs_one_child_at_a_time_and_hands_signals_on() {
    let house = agent();
    let trace = house.folder().join("trace");
    let read = || fs::read_to_string(&trace).unwrap_or_default();
    let trap = |name: &str| {
        let file = trace.display();
        format!(
            "trap 'echo {name} ends >>{file}; exit 0' TERM; echo {name} $CONSUL_LOCK_HELD >>{file}; while :; do sleep 0.05; done"
        )
    };
    let mut first = Running::start(&house, &["lock", "-verbose", "p", &trap("first")], Stdio::null());
    until("the first child runs", || read() == "first true\n");
    run(&house, &["lock", "-timeout=100ms", "p", "true"])
        .refused(1, "Shutdown triggered or timeout during lock acquisition\n");
    let mut second =
        Running::start(&house, &["lock", "-shell=false", "p", "/bin/sh", "-c", &trap("second")], Stdio::null());
    // It waits for the lock: its session is there, its child is not.
    until("the second one asks", || house.get("/v1/session/list").json().as_array().is_some_and(|all| all.len() == 2));
    assert_eq!(read(), "first true\n");
    first.signal(Signal::TERM);
    assert_eq!(first.code(), Some(0));
    until("the second child runs", || read() == "first true\nfirst ends\nsecond true\n");

    // A lock that is taken away ends the child.
    let session = house.get("/v1/kv/p/.lock").json()[0]["Session"].as_str().unwrap().to_owned();
    house.put(&format!("/v1/session/destroy/{session}"), Value::Null);
    assert_eq!(second.code(), Some(1));
    assert!(read().ends_with("second ends\n"), "{}", read());
}

#[test]
fn a_lock_says_how_its_child_ended_and_leaves_nothing_behind() {
    let house = agent();
    run(&house, &["lock", "q", "exit 0"]).said("");
    let failed = run(&house, &["lock", "-child-exit-code", "q", "exit 3"]);
    assert_eq!((failed.code, failed.err.as_str()), (Some(2), "Error running handler: exit status 3\n"));
    assert_eq!(run(&house, &["lock", "q", "exit 3"]).code, Some(0));
    assert_eq!(house.get("/v1/kv/?keys").json(), json!([]), "the key is gone");
    assert_eq!(house.get("/v1/session/list").json(), json!([]), "the session is gone");
    run(&house, &["lock", "-try=-1s", "q", "true"]).refused(1, "Timeout must be positive\n");
    run(&house, &["lock", "q"]).refused(1, "Key prefix and child command must be specified\n");
    house.put("/v1/kv/q/.lock", Value::Null);
    run(&house, &["lock", "q", "true"]).refused(1, "Lock acquisition failed: Existing key does not match lock use\n");
}

#[test]
fn a_lock_for_two_lets_two_run_and_not_three() {
    let house = agent();
    let trace = house.folder().join("trace");
    let read = || fs::read_to_string(&trace).unwrap_or_default();
    let script = format!("echo in >>{}; exec sleep 60", trace.display());
    let mut holders: Vec<Running> =
        (0..2).map(|_| Running::start(&house, &["lock", "-n=2", "s", &script], Stdio::null())).collect();
    until("both children run", || read() == "in\nin\n");
    run(&house, &["lock", "-n=2", "-timeout=200ms", "s", "true"])
        .refused(1, "Shutdown triggered or timeout during lock acquisition\n");
    let conflict = run(&house, &["lock", "-n=3", "s", "true"]);
    assert_eq!(
        (conflict.code, conflict.err.as_str()),
        (Some(1), "Lock acquisition failed: semaphore limit conflict (lock: 2, local: 3)\n")
    );
    holders[0].signal(Signal::TERM);
    assert_eq!(holders[0].code(), Some(0));
    run(&house, &["lock", "-n=2", "s", "true"]).said("");
    holders[1].signal(Signal::TERM);
    assert_eq!(holders[1].code(), Some(0));
    until("nothing is left", || house.get("/v1/kv/?keys").json() == json!([]));
}

#[test]
fn the_page_about_compatibility_names_every_endpoint_and_promises_none_that_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/compatibility.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `/v1/") && line.contains("| honoured |"));
    let promised: BTreeMap<&str, (Vec<&str>, bool)> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let methods = cells[1].split(", ").collect();
            (cells[0].trim_matches('`'), (methods, cells[3].contains("blocking by ")))
        })
        .collect();
    let waiting: Vec<&str> = lictor_http::waiting().collect();
    let there: BTreeMap<&str, (Vec<&str>, bool)> = lictor_http::endpoints()
        // What looks after managed proxies has a page of its own.
        .filter(|(path, _)| !path.starts_with("/v1/agent/connect/") || promised.contains_key(path))
        .map(|(path, methods)| (path, (methods, waiting.contains(&path))))
        .collect();
    for (path, row) in &there {
        assert_eq!(promised.get(path), Some(row), "{path}: methods, and whether it can wait");
    }
    assert_eq!(promised.len(), there.len(), "more is promised than is there");
}

/// The pages of facts, and how many facts of each section there are on each; `W` counts weaknesses.
const FACTS: [(&str, &[(&str, usize)]); 4] = [
    (
        "facts.md",
        &[
            ("1.", 10),
            ("2.", 7),
            ("3.", 10),
            ("4.", 7),
            ("5.", 10),
            ("6.", 6),
            ("7.", 6),
            ("8.", 8),
            ("9.", 7),
            ("10.", 6),
            ("11.", 4),
            ("12.", 16),
            ("W", 52),
        ],
    ),
    ("facts-configuration.md", &[("", 26)]),
    (
        "facts-connect.md",
        &[("1.", 7), ("2.", 15), ("3.", 15), ("4.", 8), ("5.", 9), ("6.", 12), ("7.", 9), ("8.", 7), ("12.", 6)],
    ),
    (
        "facts-http.md",
        &[
            ("1.", 16),
            ("2.", 3),
            ("3.", 13),
            ("4.", 7),
            ("5.", 5),
            ("6.", 6),
            ("7.", 9),
            ("8.", 7),
            ("9.", 5),
            ("10.", 4),
        ],
    ),
];

#[test]
fn every_fact_is_on_its_page_with_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages: Vec<String> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("facts") && name.ends_with(".md"))
        .collect();
    pages.sort_unstable_by_key(|name| name.trim_end_matches(".md").to_owned());
    assert_eq!(pages, FACTS.map(|(name, _)| name), "each page of facts is one that is looked at");
    for (name, sections) in FACTS {
        let page = fs::read_to_string(root.join("docs").join(name)).unwrap();
        let rows = rows_of(&page, "| fact |");
        let wanted: Vec<String> = sections
            .iter()
            .flat_map(|(section, count)| (1..=*count).map(move |number| format!("{section}{number}")))
            .collect();
        let there: Vec<&str> = rows.iter().map(|cells| cells[0]).collect();
        assert_eq!(there, wanted, "{name}: each fact has one row, in order");
        each_row_is_shown(&root, &format!("docs/{name}"), &rows);
    }
}

#[test]
fn every_key_of_the_original_with_an_effect_is_on_its_page_with_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| fs::read_to_string(root.join("docs").join(name)).unwrap();
    let (reference, page) = (read("configuration.md"), read("facts-configuration.md"));
    // Of the keys about proxies' processes only these are the original's.
    let inherited = ["exec_mode", "daemon_command", "script_command", "config"];
    let is_own = |key: &str| match key.strip_prefix("connect.proxy_defaults.") {
        Some(leaf) => !inherited.contains(&leaf),
        None => key.starts_with("store.") || matches!(key, "connect.same_node" | "connect.proxy.allowed_users"),
    };
    let keys = rows_of(&reference, "| Key |");
    let with_effect =
        keys.iter().filter(|cells| ["honoured", "deprecated"].iter().any(|effect| cells[4].starts_with(effect)));
    let wanted: Vec<&str> = with_effect.map(|cells| cells[0].trim_matches('`')).filter(|key| !is_own(key)).collect();
    let rows = rows_of(&page, "| key |");
    let there: Vec<&str> = rows.iter().map(|cells| cells[0].trim_matches('`')).collect();
    assert!(wanted.len() > 100, "the table was found: {}", wanted.len());
    assert_eq!(there, wanted, "each key has one row, in the order of the reference");
    each_row_is_shown(&root, "docs/facts-configuration.md", &rows);
}

#[test]
fn every_row_of_what_happens_to_traffic_is_shown_by_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/supervisor.md")).unwrap();
    let rows = rows_of(&page, "| What happens |");
    assert!(rows.len() > 30, "the table was found: {}", rows.len());
    let mut events: Vec<&str> = rows.iter().map(|cells| cells[0]).collect();
    events.sort_unstable();
    events.dedup();
    assert_eq!(events.len(), rows.len(), "each event has one row");
    each_row_is_shown(&root, "docs/supervisor.md", &rows);
}

/// The cells of each row of the table that begins with this head.
fn rows_of<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let table = page.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
    table.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Each row names tests in its last cell, and all of them are there.
fn each_row_is_shown(root: &Path, page: &str, rows: &[Vec<&str>]) {
    let mut sources = Vec::new();
    sources_below(&root.join("crates"), &mut sources);
    for cells in rows {
        let (row, tests) = (cells[0], cells[cells.len() - 1]);
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{page}: {row:?} names no test");
        for name in names {
            let found = match (name.strip_prefix("golden/"), name.split_once("::")) {
                (Some(scenario), _) => {
                    root.join(format!("crates/lictor/tests/golden/corpus/{scenario}.json")).is_file()
                }
                (None, Some((module, test))) => sources.iter().any(|(path, text)| {
                    let of_module = path.file_stem().is_some_and(|stem| stem == module)
                        || path.parent().and_then(Path::file_name).is_some_and(|folder| folder == module);
                    of_module && is_a_test(text, test)
                }),
                (None, None) => false,
            };
            assert!(found, "{page}: {row:?} names {name}, which is not there");
        }
    }
}

/// Whether a source has a test of this name. A file of tests without the usual harness has them in `main`, which calls
/// those that it consists of and says so.
fn is_a_test(text: &str, name: &str) -> bool {
    let mut marked = false;
    let called =
        name == "main" || (text.contains(&format!("test {name} ... ok")) && text.contains(&format!("{name}();")));
    let without_harness = called && !text.contains("#[test]");
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("#[") {
            marked |= line.contains("test]") || line.contains("test(");
        } else if line.contains(&format!("fn {name}(")) {
            return marked || without_harness;
        } else if !line.starts_with("//") {
            marked = false;
        }
    }
    false
}

fn sources_below(folder: &Path, found: &mut Vec<(std::path::PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The value of a line such as `AccessorID:   x`.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[test]
fn tokens_and_policies_are_made_shown_changed_and_deleted() {
    let house = House::start_dev(
        LICTOR,
        json!({"node_name": "n1", "acl": {"enabled": true, "default_policy": "deny", "down_policy": "extend-cache"}}),
    );
    let bootstrap = run(&house, &["acl", "bootstrap"]);
    assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
    let management = "00000000-0000-0000-0000-000000000001";
    assert!(bootstrap.out.ends_with(&format!("Policies:\n   {management} - global-management\n")), "{}", bootstrap.out);
    let secret = value(&bootstrap.out, "SecretID:").to_owned();
    let again = run(&house, &["acl", "bootstrap"]);
    assert!(
        again.code == Some(1) && again.err.starts_with("Failed ACL bootstrapping: Unexpected response code: 403 ("),
        "{}",
        again.err
    );
    let denied = run(&house, &["acl", "token", "list"]);
    assert!(
        denied.code == Some(1)
            && denied.err.starts_with("Failed to retrieve the token list: Unexpected response code: 403 ("),
        "{}",
        denied.err
    );
    let acl = |words: &[&str]| ended(of(&house, &[&["acl"], words].concat()).env("CONSUL_HTTP_TOKEN", &secret));

    let rules = house.folder().join("rules.hcl");
    fs::write(&rules, "key \"a\" { policy = \"write\" }").unwrap();
    let from_file = format!("-rules=@{}", rules.display());
    let made = acl(&["policy", "create", "-name=p3", "-description=dd", &from_file]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let policy = value(&made.out, "ID:").to_owned();
    assert_eq!(
        made.out,
        format!(
            "ID:           {policy}\nName:         p3\nDescription:  dd\nDatacenters:  \nRules:\nkey \"a\" {{ policy = \"write\" }}\n"
        )
    );
    acl(&["policy", "read", "-name=p3"]).said(&made.out);
    acl(&["policy", "read", "-id", &policy[..13]]).said(&made.out);
    let listed = acl(&["policy", "list"]).out;
    assert!(
        listed.contains(&format!("p3:\n   ID:           {policy}\n   Description:  dd\n   Datacenters:  \n")),
        "{listed}"
    );
    acl(&["policy", "create"]).refused(1, "Missing require '-name' flag\n");

    acl(&["token", "create"])
        .refused(1, "Cannot create a token without specifying -policy-name or -policy-id at least once\n");
    let made = acl(&["token", "create", "-description=dd", "-policy-name=p3"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let (accessor, own) = (value(&made.out, "AccessorID:").to_owned(), value(&made.out, "SecretID:").to_owned());
    let time = value(&made.out, "Create Time:").to_owned();
    assert_eq!(
        made.out,
        format!(
            "AccessorID:   {accessor}\nSecretID:     {own}\nDescription:  dd\nLocal:        false\nCreate Time:  \
             {time}\nPolicies:\n   {policy} - p3\n"
        )
    );
    assert!(time.ends_with(" +0000 UTC"), "{time}");
    acl(&["token", "read", "-id", &accessor[..13]]).said(&made.out);
    ended(of(&house, &["acl", "token", "read", "-self"]).env("CONSUL_HTTP_TOKEN", &own)).said(&made.out);
    assert!(!acl(&["token", "list"]).out.contains("SecretID"));
    assert_eq!(acl(&["token", "read", "-format=json", "-id", &accessor]).json()["SecretID"], own.as_str());
    let wrong = run(&house, &["kv", "put", "-token", "geheim", "a", "x"]);
    assert!(
        wrong.code == Some(1) && wrong.err.contains("403 (ACL not found)") && !wrong.err.contains("geheim"),
        "{}",
        wrong.err
    );
    run(&house, &["kv", "put", "-token", &own, "a", "x"]).said("Success! Data written to: a\n");
    // A file holds it: by option or variable, before the variable with a token, behind the option with one.
    let (holds, empty) = (house.folder().join("own.token"), house.folder().join("empty.token"));
    fs::write(&holds, format!("{own}\n")).unwrap();
    fs::write(&empty, "\n").unwrap();
    let by_file = |file: &std::path::Path, more: &[&str]| {
        let words = [&["kv", "put"], more, &["a", "x"]].concat();
        ended(of(&house, &words).env("CONSUL_HTTP_TOKEN_FILE", file).env("CONSUL_HTTP_TOKEN", "geheim"))
    };
    by_file(&holds, &[]).said("Success! Data written to: a\n");
    let path = holds.display().to_string();
    by_file(&empty, &["-token-file", &path]).said("Success! Data written to: a\n");
    assert!(by_file(&holds, &["-token", "geheim"]).err.contains("403"));
    let refused = by_file(&empty, &[]);
    assert!(refused.code == Some(1) && refused.err.contains("empty.token is empty (-token-file,"), "{}", refused.err);
    let refused = by_file(&house.folder().join("none"), &[]);
    assert!(
        refused.code == Some(1) && refused.err.contains("none (-token-file, CONSUL_HTTP_TOKEN_FILE): No such"),
        "{}",
        refused.err
    );

    let clone = acl(&["token", "clone", "-id", &accessor, "-description=twin"]).out;
    assert!(clone.starts_with("Token cloned successfully.\nAccessorID:   ") && clone.contains(&policy), "{clone}");
    let updated = acl(&[
        "token",
        "update",
        "-id",
        &accessor,
        "-description=new",
        "-merge-policies",
        "-policy-name=global-management",
    ])
    .out;
    assert!(
        updated.starts_with("Token updated successfully.\n")
            && updated.contains(management)
            && updated.contains(&policy),
        "{updated}"
    );
    let updated = acl(&["policy", "update", "-name=p3", "-description=changed"]).out;
    assert!(updated.contains("Description:  changed\n") && updated.contains("key \"a\""), "{updated}");

    acl(&["token", "delete", "-id", &accessor]).said(&format!("Token {accessor:?} deleted successfully\n"));
    acl(&["policy", "delete", "-name=p3"]).said(&format!("Policy {policy:?} deleted successfully\n"));
    acl(&["set-agent-token", "default", &secret]).said("ACL token \"default\" set successfully\n");
    acl(&["set-agent-token", "bogus", "x"]).refused(1, "Unknown token type\n");
    fed(&house, &["acl", "set-agent-token", "-token", &secret, "agent", "-"], format!("{secret}\n").as_bytes())
        .said("ACL token \"agent\" set successfully\n");
    let translated = acl(&["translate-rules", "key \"\" { policy = \"read\" }"]);
    assert!(translated.out.contains("key_prefix \"\""), "{}{}", translated.out, translated.err);
}

#[test]
fn events_are_fired_and_watched() {
    let house = agent();
    let seen = house.folder().join("seen");
    let read = || fs::read_to_string(&seen).unwrap_or_default();
    let script = format!("cat >>{}", seen.display());
    let mut watch = Running::start(&house, &["watch", "-type=event", "-name=deploy", &script], Stdio::null());
    until("the watch is there", || read() == "[]\n");
    let fired = run(&house, &["event", "-name=deploy", "payload"]);
    assert_eq!(fired.code, Some(0), "{}", fired.err);
    let id = fired.out.trim_end().strip_prefix("Event ID: ").unwrap().to_owned();
    until("the watch has seen it", || read().contains(&id));
    assert!(read().contains("\"Payload\":\"cGF5bG9hZA==\""), "{}", read());
    watch.signal(Signal::TERM);
    assert_eq!(watch.code(), Some(0));
    run(&house, &["event"]).refused(1, "Event name must be provided\n");
    run(&house, &["event", "-name=x", "-tag=a"]).refused(1, "Cannot provide tag filter without service filter.\n");
}

#[test]
fn a_snapshot_is_saved_inspected_and_restored() {
    use std::os::unix::fs::PermissionsExt;
    let house = agent();
    run(&house, &["kv", "put", "a", "old"]).said("Success! Data written to: a\n");
    let file = house.folder().join("state.snap");
    let name = file.to_str().unwrap();
    let saved = run(&house, &["snapshot", "save", name]);
    assert_eq!(saved.code, Some(0), "{}", saved.err);
    let index = saved.out.strip_prefix("Saved and verified snapshot to index ").unwrap().trim_end().to_owned();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let inspected = alone(&["snapshot", "inspect", name]).out;
    assert!(
        inspected.starts_with("ID           ") && inspected.contains(&format!("\nIndex        {index}\n")),
        "{inspected}"
    );
    assert_eq!(alone(&["snapshot", "inspect", "-format=json", name]).json()["Index"].to_string(), index);
    run(&house, &["kv", "put", "a", "new"]).said("Success! Data written to: a\n");
    run(&house, &["snapshot", "restore", name]).said("Restored snapshot\n");
    run(&house, &["kv", "get", "a"]).said("old\n");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&file, &bytes).unwrap();
    let damaged = run(&house, &["snapshot", "restore", name]);
    assert_eq!(damaged.code, Some(1));
    assert!(damaged.err.starts_with("Error verifying snapshot: "), "{}", damaged.err);
    let nowhere = run(&house, &["snapshot", "save", "-http-addr=127.0.0.1:1", "other.snap"]);
    assert!(nowhere.code == Some(1) && !house.folder().join("other.snap").exists(), "{}", nowhere.err);
}

#[test]
fn the_cluster_is_shown_to_its_operator() {
    let house = agent();
    let peers = run(&house, &["operator", "raft", "list-peers"]).out;
    assert!(
        peers.starts_with("Node  ID ") && peers.contains("\nn1    ") && peers.contains("  leader  true   3"),
        "{peers}"
    );
    let config = "CleanupDeadServers = true\nLastContactThreshold = 200ms\nMaxTrailingLogs = 250\nServerStabilizationTime = \
                  10s\nRedundancyZoneTag = \"\"\nDisableUpgradeMigration = false\nUpgradeMigrationTag = \"\"\n";
    run(&house, &["operator", "autopilot", "get-config"]).said(config);
    run(&house, &["operator", "autopilot", "set-config", "-cleanup-dead-servers=false", "-last-contact-threshold=1s"])
        .said("Configuration updated!\n");
    let changed = config.replace("= true", "= false").replace("200ms", "1s");
    run(&house, &["operator", "autopilot", "get-config"]).said(&changed);
    run(&house, &["operator", "raft", "remove-peer"])
        .refused(1, "Error removing peer: an address or id is required for the peer to remove\n");
    let unknown = run(&house, &["operator", "raft", "remove-peer", "-id=a"]);
    assert_eq!(unknown.code, Some(1));
    let list = run(&house, &["keyring", "-list"]);
    assert!(list.code == Some(1) && list.err.starts_with("error: Unexpected response code: 500 ("), "{}", list.err);
}

#[test]
fn the_way_to_a_node_is_estimated() {
    let house = agent();
    let coordinate = |node: &str, x: f64| {
        json!({"Node": node, "Segment": "", "Coord": {"Vec": [x, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0,
            "Height": 0.00001}})
    };
    house.put("/v1/catalog/register", json!({"Node": "far", "Address": "10.0.0.7"}));
    house.put("/v1/coordinate/update", coordinate("far", 0.003));
    house.put("/v1/coordinate/update", coordinate("n1", 0.0));
    until("both coordinates are there", || {
        house.get("/v1/coordinate/nodes").json().as_array().is_some_and(|all| all.len() == 2)
    });
    run(&house, &["rtt", "far"]).said("Estimated far <-> n1 rtt: 3.020 ms (using LAN coordinates)\n");
    run(&house, &["rtt", "n1", "n1"]).said("Estimated n1 <-> n1 rtt: 0.020 ms (using LAN coordinates)\n");
    run(&house, &["rtt", "nope"]).refused(1, "Could not find a coordinate for node \"nope\"\n");
    run(&house, &["rtt"]).refused(1, "One or two node names must be specified\n");
}
