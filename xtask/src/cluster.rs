//! Three members of etcd and three servers on this machine, to try a cluster: until interrupted, or for as long as a
//! command takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The first port of each kind; server N has its HTTP API at 18500 + 10·N.
const ETCD: u16 = 12_379;
const SERVERS: u16 = 18_500;
const MEMBERS: u16 = 3;

/// What was started; ended when dropped.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        // Servers before etcd: in the reverse of the start.
        for child in self.0.iter_mut().rev() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the cluster below `target/cluster` and waits.
pub(crate) fn run() -> Result<()> {
    crate::steps::build()?;
    let folder = PathBuf::from("target/cluster");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove the cluster of last time")?;
    }
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let mut processes = Processes(Vec::new());
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let peers: Vec<String> = (0..MEMBERS).map(|number| format!("m{number}={}", url(ETCD + 10 * number + 1))).collect();
    let clients: Vec<String> = (0..MEMBERS).map(|number| url(ETCD + 10 * number)).collect();
    for number in 0..MEMBERS {
        let (client, peer) = (url(ETCD + 10 * number), url(ETCD + 10 * number + 1));
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", &format!("m{number}"), "--data-dir"])
            .arg(folder.join(format!("etcd{number}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--auto-compaction-retention", "1h"]);
        processes.0.push(start(&mut etcd, &folder, &format!("etcd{number}"))?);
    }
    let seal_key = folder.join("seal.key");
    write_seal_key(&seal_key)?;
    for number in 0..MEMBERS {
        let home = folder.join(format!("server{number}"));
        fs::create_dir_all(&home)?;
        let port = SERVERS + 10 * number;
        let config = serde_json::json!({
            "server": true, "node_name": format!("server{number}"), "data_dir": home.join("data"),
            "bind_addr": "127.0.0.1",
            "ports": {"http": port, "dns": port + 1, "server": port + 2, "serf_lan": -1, "serf_wan": -1, "grpc": -1,
                "proxy_min_port": 20_000 + 300 * number, "proxy_max_port": 20_255 + 300 * number,
                "sidecar_min_port": 21_000 + 300 * number, "sidecar_max_port": 21_255 + 300 * number},
            "connect": {"enabled": true},
            "store": {"backend": "etcd", "endpoints": &clients, "seal_key_file": &seal_key},
        });
        let file = home.join("agent.json");
        fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
        let mut server = Command::new("target/debug/lictor");
        server.arg("agent").arg("-config-file").arg(&file);
        processes.0.push(start(&mut server, &folder, &format!("server{number}"))?);
    }
    crate::say(&format!("xtask: etcd at {}, logs in {}", clients.join(" "), folder.display()));
    for number in 0..MEMBERS {
        let port = SERVERS + 10 * number;
        crate::say(&format!("xtask: server{number}: HTTP http://127.0.0.1:{port}, DNS 127.0.0.1:{}", port + 1));
    }
    crate::say("xtask: Ctrl-C ends them all");
    loop {
        thread::sleep(Duration::from_millis(500));
        for (number, child) in processes.0.iter_mut().enumerate() {
            if let Some(status) = child.try_wait()? {
                bail!("process {number} of the cluster ended: {status}; see its log in {}", folder.display());
            }
        }
    }
}

fn start(command: &mut Command, folder: &Path, name: &str) -> Result<Child> {
    let log = fs::File::create(folder.join(format!("{name}.log")))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}: {command:?}"))
}

/// A sealing key for trying things out.
fn write_seal_key(path: &Path) -> Result<()> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(&key)?)
}
