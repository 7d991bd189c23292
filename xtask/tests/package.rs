//! The Debian package in a root of its own: installed, started, upgraded under traffic, removed.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod traffic;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lictor_testkit::program::find;
use lictor_testkit::{eventually, http, ports, until};
use serde_json::json;
use traffic::{echo, exchange};

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// A root of its own, with everything that was started from it; both are gone when dropped.
struct Root {
    folder: tempfile::TempDir,
    agent: Option<Child>,
}

impl Root {
    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join("root").join(inside)
    }

    fn dpkg(&self, words: &[&str]) -> String {
        let output = Command::new("dpkg")
            .arg(format!("--root={}", self.folder.path().join("root").display()))
            // There is no shell in that root: scripts run here and are told where the root is.
            .args(["--force-script-chrootless", "--force-depends", "--force-confold"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "dpkg {words:?}: {text}");
        text
    }

    /// What the unit says, with its paths in this root.
    fn start(&mut self, http: u16) {
        let unit = fs::read_to_string(self.path("usr/lib/systemd/system/lictor.service")).unwrap();
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let mut words = line.split(' ').map(|word| match word.strip_prefix('/') {
            Some(inside) => self.path(inside).display().to_string(),
            None => word.to_owned(),
        });
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("agent.log")).unwrap();
        let program = words.next().unwrap();
        let child = Command::new(program)
            .args(words)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        until("the agent answers", || {
            let answer = http::request(http, "GET", "/v1/status/leader", &[], b"", Duration::from_secs(5));
            answer.is_ok_and(|answer| answer.status == 200 && answer.text().len() > 2)
        });
    }

    /// As `systemctl stop` does with `KillMode=process`.
    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        Command::new("kill").args(["-TERM", &agent.id().to_string()]).status().unwrap();
        eventually("the agent ends", || agent.try_wait().unwrap());
    }

    /// Processes that run a binary of this root, replaced ones included.
    fn processes(&self) -> Vec<u32> {
        let binary = self.path("usr/bin/lictor").canonicalize().unwrap_or_else(|_| self.path("usr/bin/lictor"));
        let runs = |entry: &fs::DirEntry| {
            fs::read_link(entry.path().join("exe"))
                .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") == binary.to_string_lossy())
        };
        let all = fs::read_dir("/proc").unwrap().flatten().filter(runs);
        let own = self.agent.as_ref().map(Child::id);
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| Some(*pid) != own).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

fn build(binary: &Path, out: &Path, version: &str) -> PathBuf {
    let status = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["deb", "-uncompressed", "-version", version, "-binary"])
        .arg(binary)
        .arg("-out")
        .arg(out)
        .status()
        .unwrap();
    assert!(status.success());
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(version);
    fs::read_dir(out).unwrap().flatten().find(name).unwrap().path()
}

#[test]
fn a_package_is_installed_started_upgraded_and_removed_without_touching_traffic() {
    if find("dpkg").is_none() || find("dpkg-deb").is_none() {
        return;
    }
    let user = Command::new("id").arg("-u").output().unwrap().stdout;
    if user.trim_ascii() != b"0" {
        return skipped("installing a package needs root");
    }
    // Beside this test: target/debug/deps/package-….
    let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("lictor");
    if !binary.is_file() {
        return skipped("there is no built binary; cargo build -p lictor makes one");
    }
    let mut root = Root { folder: tempfile::tempdir().unwrap(), agent: None };
    // dpkg wants to find its tables.
    for folder in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(root.path(folder)).unwrap();
    }
    fs::write(root.path("var/lib/dpkg/status"), "").unwrap();
    let out = root.folder.path().to_owned();
    let (first, second) = (build(&binary, &out, "1.0.0"), build(&binary, &out, "1.0.1"));

    root.dpkg(&["-i", first.to_str().unwrap()]);
    let mode = |path: &str| fs::metadata(root.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("usr/bin/lictor"), mode("etc/lictor/agent.hcl")), (0o755, 0o640));
    // What an administrator does next.
    let (block, entry, app) = (ports::block(6), ports::one(), echo());
    let edited = fs::read_to_string(root.path("etc/lictor/agent.hcl")).unwrap() + "\n# edited here\n";
    fs::write(root.path("etc/lictor/agent.hcl"), &edited).unwrap();
    let services = json!({
        "node_name": "node1", "bind_addr": "127.0.0.1",
        "ports": {"http": block, "dns": block + 1, "server": block + 2, "serf_lan": -1, "serf_wan": -1, "grpc": -1,
            "proxy_min_port": block + 3, "proxy_max_port": block + 5},
        "connect": {"proxy": {"allow_managed_root": true}},
        "services": [
            {"name": "db", "port": app, "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "upstreams": [{"destination_name": "db", "local_bind_port": entry}]}}},
        ],
    });
    fs::write(root.path("etc/lictor/services.json"), services.to_string()).unwrap();
    root.start(block);
    let mut open = eventually("bytes come through both proxies", || {
        let mut connection = TcpStream::connect(("127.0.0.1", entry)).ok()?;
        exchange(&mut connection, Duration::from_secs(10)).ok().map(|()| connection)
    });
    let proxies = root.processes();
    assert_eq!(proxies.len(), 2);

    root.dpkg(&["-i", second.to_str().unwrap()]);
    assert_eq!(root.processes(), proxies, "the upgrade touched a proxy");
    assert_eq!(fs::read_to_string(root.path("etc/lictor/agent.hcl")).unwrap(), edited, "configuration was overwritten");
    exchange(&mut open, Duration::from_secs(10)).unwrap();
    root.stop();
    root.start(block);
    exchange(&mut open, Duration::from_secs(10)).unwrap();
    let now = root.processes();
    assert!(proxies.iter().all(|pid| now.contains(pid)), "the new agent did not adopt {proxies:?}: {now:?}");

    root.stop();
    assert_eq!(root.processes(), proxies, "the end of the agent touched a proxy");
    root.dpkg(&["-r", "lictor"]);
    until("the proxies are gone", || root.processes().is_empty());
    assert!(!root.path("usr/bin/lictor").exists() && root.path("etc/lictor/agent.hcl").exists());
    assert!(root.path("var/lib/lictor").exists(), "removing keeps the state");
    let enabled = root.path("etc/systemd/system/multi-user.target.wants/lictor.service");
    fs::create_dir_all(enabled.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/usr/lib/systemd/system/lictor.service", &enabled).unwrap();
    root.dpkg(&["-P", "lictor"]);
    assert!(fs::symlink_metadata(&enabled).is_err(), "a purged unit is not enabled");
    assert!(!root.path("var/lib/lictor").exists() && !root.path("etc/lictor/agent.hcl").exists());
}
