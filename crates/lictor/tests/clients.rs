//! Client libraries of others, unmodified, each doing with the agent what programs do with it.
//!
//! `cargo xtask servers` installs them; a test whose library is not there says so and is skipped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use std::path::{Path, PathBuf};
use std::process::Command;

use lictor_testkit::House;
use lictor_testkit::program::{self, client as installed};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_lictor");

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn exercise(command: &mut Command) {
    let house = House::start(BINARY, json!({}));
    let port = house.http_port.to_string();
    // The port comes first: what the script needs besides it was added by the caller.
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut whole = Command::new(command.get_program());
    whole.arg(&arguments[0]).arg(port).args(&arguments[1..]);
    let output = whole.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}\n{}", house.log());
}

/// Every method of a library, against an agent without access control and one with it.
fn call_everything(library: &str, run: impl FnOnce(&Path) -> Command) {
    const ROOT: &str = "5e2c1c2f-4f0c-4d0c-9a51-6c7f1f0f9d11";
    let Some(place) = installed(library) else { return };
    let mut plain = House::start(BINARY, json!({}));
    let acl = House::start(
        BINARY,
        json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT, "agent": ROOT}}}),
    );
    let output = run(&place)
        .args([plain.http_port.to_string(), acl.http_port.to_string(), ROOT.to_owned()])
        // Where Python may write, and where node finds the library.
        .arg(if library == "npm-consul" { place.as_path() } else { plain.folder() })
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}\n{}\n{}", plain.log(), acl.log());
    assert!(said.contains(" methods called"), "{said}");
    if said.lines().any(|line| line == "left") {
        comes_back(&mut plain);
    }
}

/// An agent that was told to leave has ended well, and is whole when it is started again.
fn comes_back(house: &mut House) {
    let status = lictor_testkit::eventually("the agent ends", || house.ended());
    assert!(status.success(), "{status}\n{}", house.log());
    house.start_agent();
    house.wait_ready();
    assert_eq!(house.get("/v1/kv/kept?raw").text(), "x");
    assert_eq!(house.get("/v1/agent/services").json()["kept"]["Port"], 1);
    lictor_testkit::until("the catalog has it", || house.get("/v1/catalog/service/kept").json()[0]["Node"] == "node1");
}

fn python(place: &Path) -> Command {
    let mut python = Command::new(place.join("bin/python"));
    python.arg(script("whole.py"));
    python
}

#[test]
fn every_method_of_py_consul_is_answered() {
    call_everything("py-consul", python);
}

#[test]
fn every_method_of_python_consul2_is_answered() {
    call_everything("python-consul2", python);
}

#[test]
fn every_method_of_npms_consul_is_answered() {
    let Some(node) = program::find("node") else { return };
    call_everything("npm-consul", |_| {
        let mut node = Command::new(node);
        node.arg(script("whole.mjs"));
        node
    });
}

#[test]
fn py_consul_finds_its_consul() {
    let Some(place) = installed("py-consul") else { return };
    exercise(Command::new(place.join("bin/python")).arg(script("exercise.py")));
}

#[test]
fn python_consul2_finds_its_consul() {
    let Some(place) = installed("python-consul2") else { return };
    exercise(Command::new(place.join("bin/python")).arg(script("exercise.py")));
}

#[test]
fn consul_of_npm_finds_its_consul() {
    let (Some(place), Some(node)) = (installed("npm-consul"), program::find("node")) else { return };
    exercise(Command::new(node).arg(script("exercise.mjs")).arg(place));
}
