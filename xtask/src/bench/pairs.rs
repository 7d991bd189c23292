//! Pairs of proxies: application ← proxy ← mutual TLS ← proxy ← client, all on loopback. Ours, and those of others at
//! their best settings: TLS 1.3 with AES-128-GCM and ECDSA P-256 at both ends, both certificates checked, as many
//! workers as there are cores.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lictor_testkit::house::proxies_of;
use lictor_testkit::ports;
use rustix::process::Signal;
use serde_json::json;

use super::process::{self, Process, eventually};

const SUITE: &str = "TLS_AES_128_GCM_SHA256";
const SERVER_NAME: &str = "db.mesh.test";
/// How long a question of a probe waits: one that came too early must not hide a pair that works.
const PROBE_LIMIT: Duration = Duration::from_millis(30);

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Two managed proxies of one agent, as configured by default.
    Lictor,
    /// The same, with a whole handshake for each connection.
    LictorWhole,
    /// The same, on the path without TLS.
    LictorDirect,
    Nginx,
    Haproxy,
    Stunnel,
    Envoy,
}

impl Kind {
    pub(super) const ALL: [Kind; 7] =
        [Kind::Lictor, Kind::LictorWhole, Kind::LictorDirect, Kind::Nginx, Kind::Haproxy, Kind::Stunnel, Kind::Envoy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Lictor => "lictor",
            Kind::LictorWhole => "lictor, reuse off",
            Kind::LictorDirect => "lictor, direct",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Stunnel => "stunnel",
            Kind::Envoy => "envoy",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Kind::Lictor | Kind::LictorWhole | Kind::LictorDirect)
    }

    /// The program of a peer, if it is there.
    pub(super) fn program(self) -> Option<PathBuf> {
        let name = if self == Kind::Stunnel { "stunnel4" } else { self.name() };
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
        folders.map(|folder| folder.join(name)).find(|path| path.is_file())
    }
}

/// What all pairs share.
pub(super) struct Ground {
    pub(super) folder: PathBuf,
    pub(super) lictor: PathBuf,
    pub(super) load: PathBuf,
    /// Where the application listens.
    pub(super) application: u16,
    _application: Process,
}

impl Ground {
    pub(super) fn prepare(folder: &Path, lictor: &Path, load: &Path) -> Result<Ground> {
        write_certificates(folder)?;
        let application = ports::one();
        let log = folder.join("application.log");
        let process = Process::start(&log, load, &["serve", &application.to_string()])?;
        eventually("the application listens", || Ok(TcpStream::connect(("127.0.0.1", application)).ok()))?;
        let folder = folder.to_owned();
        Ok(Ground { folder, lictor: lictor.to_owned(), load: load.to_owned(), application, _application: process })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// A pair that serves.
pub(super) struct Pair {
    pub(super) kind: Kind,
    /// Where clients connect.
    pub(super) entry: u16,
    /// Seconds from the start of its processes to the first byte back.
    pub(super) start: f64,
    processes: Vec<Process>,
    /// The agent's API, where there is one.
    agent: Option<u16>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.processes.clear();
        if let Some(port) = self.agent {
            process::end_proxies(port);
        }
    }
}

impl Pair {
    pub(super) fn start(ground: &Ground, kind: Kind) -> Result<Pair> {
        let started = Instant::now();
        let mut pair = launch(ground, kind).with_context(|| format!("cannot start {}", kind.name()))?;
        pair.await_answer(pair.entry)?;
        pair.start = started.elapsed().as_secs_f64();
        if kind == Kind::LictorDirect {
            pair.await_direct()?;
        }
        Ok(pair)
    }

    /// Waits until a question is answered through the whole chain.
    fn await_answer(&mut self, entry: u16) -> Result<()> {
        let name = self.kind.name();
        eventually(&format!("{name} carries a question"), || {
            self.processes.iter_mut().try_for_each(|process| process.check(name))?;
            Ok(probe(entry).ok())
        })
    }

    /// Proxies get to know each other with their first connections; from then on they are handed over.
    fn await_direct(&self) -> Result<()> {
        let port = self.agent.context("no agent")?;
        let counted = || -> Option<u64> {
            let path = "/v1/agent/connect/process/db-proxy";
            let answer = lictor_testkit::http::request(port, "GET", path, &[], b"", Duration::from_secs(5)).ok()?;
            let process: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
            process["Report"]["DirectConnections"].as_u64()
        };
        let before = counted().unwrap_or_default();
        eventually("connections go without TLS", || {
            // One that comes in the middle of the change may fail.
            let _ = probe(self.entry);
            Ok(counted().filter(|count| *count > before))
        })?;
        Ok(())
    }

    /// The processes that carry bytes. An agent does not.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        match self.agent {
            Some(port) => proxies_of(port).into_iter().map(|(_, pid)| pid).collect(),
            None => process::with_descendants(self.processes.iter().map(Process::pid)),
        }
    }

    /// The processes that carry bytes and those behind them.
    pub(super) fn all_pids(&self) -> BTreeSet<u32> {
        let mut all = process::with_descendants(self.processes.iter().map(Process::pid));
        all.extend(self.pids());
        all
    }

    /// Seconds from the start of one more proxy beside a running agent to the first byte through it; of pairs without an
    /// agent, those of the pair.
    pub(super) fn start_of_one(&mut self, ground: &Ground) -> Result<f64> {
        let Some(agent) = self.agent else { return Ok(self.start) };
        let (entry, address) = (ports::one(), format!("127.0.0.1:{agent}"));
        let upstream = format!("db:{entry}");
        let words = ["connect", "proxy", "-http-addr", &address, "-service", "web", "-upstream", &upstream];
        let started = Instant::now();
        let one = Process::start(&ground.folder.join("one.log"), &ground.lictor, &words)?;
        self.processes.push(one);
        self.await_answer(entry)?;
        let took = started.elapsed().as_secs_f64();
        self.processes.pop();
        Ok(took)
    }
}

/// One question through a chain.
fn probe(entry: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", entry))?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(&[b'q'; 100])?;
    stream.read_exact(&mut [0; 250])?;
    Ok(())
}

fn launch(ground: &Ground, kind: Kind) -> Result<Pair> {
    let folder = ground.folder.join(kind.name().replace(", ", "-").replace(' ', "-"));
    fs::create_dir_all(&folder)?;
    let (entry, hop) = (ports::one(), ports::one());
    let log = folder.join("log");
    if kind.is_ours() {
        return launch_agent(ground, kind, entry, hop, &folder);
    }
    let program = kind.program().with_context(|| format!("{} is not installed", kind.name()))?;
    let mut processes = Vec::new();
    // The far end first: what it is asked for is the plain text, what asks it is TLS.
    for (end, listen, target) in [(End::Server, hop, ground.application), (End::Client, entry, hop)] {
        let file = folder.join(format!("{}.conf", end.name()));
        let path = file.display().to_string();
        let (text, arguments): (String, Vec<&str>) = match kind {
            Kind::Nginx => (nginx(ground, end, listen, target, &folder), vec!["-c", &path]),
            Kind::Haproxy => (haproxy(ground, end, listen, target), vec!["-db", "-f", &path]),
            Kind::Stunnel => (stunnel(ground, end, listen, target), vec![&path]),
            _ => (
                envoy(ground, end, listen, target),
                vec!["-c", &path, "--concurrency", "2", "--disable-hot-restart", "-l", "error"],
            ),
        };
        // Envoy tells the format of its configuration by the name of the file.
        let file = if kind == Kind::Envoy { folder.join(format!("{}.json", end.name())) } else { file };
        let path_of_json = file.display().to_string();
        let arguments: Vec<&str> =
            arguments.into_iter().map(|word| if word == path { path_of_json.as_str() } else { word }).collect();
        fs::write(&file, text)?;
        processes.push(Process::start(&log, &program, &arguments)?);
    }
    Ok(Pair { kind, entry, start: 0.0, processes, agent: None })
}

fn launch_agent(ground: &Ground, kind: Kind, entry: u16, hop: u16, folder: &Path) -> Result<Pair> {
    let first = ports::block(12);
    let reuse = if kind == Kind::LictorWhole { "none" } else { "connections" };
    let same_node = if kind == Kind::LictorDirect { "direct" } else { "mtls" };
    let config = json!({
        "bind_addr": "127.0.0.1", "node_name": "bench", "log_level": "ERR",
        "ports": {"http": first, "dns": -1, "server": first + 1, "serf_lan": -1, "serf_wan": -1, "grpc": -1,
            "proxy_min_port": first + 2, "proxy_max_port": first + 6,
            "sidecar_min_port": first + 7, "sidecar_max_port": first + 11},
        "connect": {"enabled": true, "same_node": same_node, "proxy": {"allow_managed_root": true}},
        "services": [
            {"name": "db", "port": ground.application,
             "connect": {"proxy": {"config": {"bind_port": hop, "reuse": reuse}}}},
            {"name": "web", "port": 1,
             "connect": {"proxy": {"config": {"reuse": reuse},
                                   "upstreams": [{"destination_name": "db", "local_bind_port": entry}]}}},
        ],
    });
    let file = folder.join("agent.json");
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    let words = ["agent", "-dev", "-config-file", &file.display().to_string()];
    // An interrupt is how a person ends an agent: it ends its proxies, too.
    let agent = Process::start(&folder.join("log"), &ground.lictor, &words)?.ended_by(Signal::INT);
    Ok(Pair { kind, entry, start: 0.0, processes: vec![agent], agent: Some(first) })
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Server,
    Client,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Server => "server",
            End::Client => "client",
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn nginx(ground: &Ground, end: End, listen: u16, target: u16, folder: &Path) -> String {
    let (cert, key, ca) = (
        ground.file(&format!("{}.crt", end.name())),
        ground.file(&format!("{}.key", end.name())),
        ground.file("ca.crt"),
    );
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.exists() { format!("load_module {};", module.display()) } else { String::new() };
    let (flag, tls) = match end {
        End::Server => (
            " ssl",
            format!(
                "ssl_certificate {cert};\n    ssl_certificate_key {key};\n    ssl_client_certificate {ca};\n    \
                 ssl_verify_client on;\n    ssl_protocols TLSv1.3;\n    ssl_conf_command Ciphersuites {SUITE};"
            ),
        ),
        End::Client => (
            "",
            format!(
                "proxy_ssl on;\n    proxy_ssl_certificate {cert};\n    proxy_ssl_certificate_key {key};\n    \
                 proxy_ssl_trusted_certificate {ca};\n    proxy_ssl_verify on;\n    proxy_ssl_name {SERVER_NAME};\n    \
                 proxy_ssl_server_name on;\n    proxy_ssl_protocols TLSv1.3;\n    \
                 proxy_ssl_conf_command Ciphersuites {SUITE};"
            ),
        ),
    };
    let (name, folder, cores) = (end.name(), folder.display(), cores());
    // As root it would give its workers to a user who cannot read the certificates.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{load}\n{user}\nworker_processes {cores};\ndaemon off;\npid {folder}/{name}.pid;\n\
         error_log {folder}/{name}.log error;\nworker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\n\
         stream {{\n  tcp_nodelay on;\n  proxy_buffer_size 64k;\n  proxy_timeout 1h;\n  server {{\n    \
         listen 127.0.0.1:{listen}{flag} backlog=4096;\n    proxy_pass 127.0.0.1:{target};\n    {tls}\n  }}\n}}\n"
    )
}

fn haproxy(ground: &Ground, end: End, listen: u16, target: u16) -> String {
    let (pem, ca) = (ground.file(&format!("{}.pem", end.name())), ground.file("ca.crt"));
    let tls = format!("ssl crt {pem} ca-file {ca} verify required ssl-min-ver TLSv1.3 ciphersuites {SUITE}");
    let (bind, server) = match end {
        End::Server => (tls, String::new()),
        // It resumes TLS sessions to servers by itself.
        End::Client => (String::new(), format!("{tls} sni str({SERVER_NAME}) verifyhost {SERVER_NAME}")),
    };
    let cores = cores();
    format!(
        "global\n  maxconn 8000\n  nbthread {cores}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\nlisten chain\n  bind 127.0.0.1:{listen} backlog 4096 {bind}\n  \
         server next 127.0.0.1:{target} {server}\n"
    )
}

fn stunnel(ground: &Ground, end: End, listen: u16, target: u16) -> String {
    let (cert, key, ca) = (
        ground.file(&format!("{}.crt", end.name())),
        ground.file(&format!("{}.key", end.name())),
        ground.file("ca.crt"),
    );
    let side = match end {
        End::Server => "client = no\nrequireCert = yes".to_owned(),
        End::Client => format!("client = yes\nsni = {SERVER_NAME}\ncheckHost = {SERVER_NAME}"),
    };
    format!(
        "foreground = yes\npid =\nsyslog = no\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n[chain]\n\
         accept = 127.0.0.1:{listen}\nconnect = 127.0.0.1:{target}\ncert = {cert}\nkey = {key}\nCAfile = {ca}\n\
         verifyChain = yes\nsslVersionMin = TLSv1.3\nciphersuites = {SUITE}\n{side}\n"
    )
}

fn envoy(ground: &Ground, end: End, listen: u16, target: u16) -> String {
    let file = |name: &str| json!({"filename": ground.file(name)});
    let common = |name: &str| {
        json!({
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": file(&format!("{name}.crt")),
                                  "private_key": file(&format!("{name}.key"))}],
            "validation_context": {"trusted_ca": file("ca.crt")},
        })
    };
    let extension = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let mut chain = json!({"filters": [{"name": "tcp", "typed_config": {
        "@type": extension("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "chain", "cluster": "next",
        "idle_timeout": "3600s"}}]});
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 20_000, "max_pending_requests": 20_000}]},
        "load_assignment": {"cluster_name": "next", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(target)}}]}]},
    });
    match end {
        End::Server => {
            chain["transport_socket"] = json!({"name": "tls", "typed_config": {
                "@type": extension("transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": common("server"), "require_client_certificate": true}});
        }
        End::Client => {
            let mut tls = common("client");
            tls["validation_context"]["match_typed_subject_alt_names"] =
                json!([{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]);
            cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
                "@type": extension("transport_sockets.tls.v3.UpstreamTlsContext"), "sni": SERVER_NAME,
                "common_tls_context": tls}});
        }
    }
    json!({"static_resources": {
        "listeners": [{"name": "chain", "address": address(listen), "filter_chains": [chain]}],
        "clusters": [cluster]}})
    .to_string()
}

/// A CA on P-256 and a certificate for each end, as a mesh has them.
fn write_certificates(folder: &Path) -> Result<()> {
    let openssl = |words: &[&str]| -> Result<()> {
        let output = Command::new("openssl").current_dir(folder).args(words).output().context("cannot run openssl")?;
        if !output.status.success() {
            bail!("openssl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["req", "-x509", "-days", "30", "-subj", "/CN=bench CA", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&ca[..], &key, &["-addext", "keyUsage=critical,keyCertSign,cRLSign"]].concat())?;
    for (name, host, usage) in [("server", SERVER_NAME, "serverAuth"), ("client", "web.mesh.test", "clientAuth")] {
        let extensions = format!(
            "subjectAltName=DNS:{host},URI:spiffe://mesh.test/ns/default/dc/dc1/svc/{name}\nextendedKeyUsage={usage}\n\
             keyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n"
        );
        fs::write(folder.join("extensions"), extensions)?;
        let (key_file, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={host}");
        let asks = ["req", "-subj", &subject, "-keyout", &key_file, "-out", &request];
        openssl(&[&asks[..], &key].concat())?;
        let signs = ["x509", "-req", "-days", "30", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key"];
        openssl(&[&signs[..], &["-CAcreateserial", "-extfile", "extensions", "-out", &cert]].concat())?;
        // One file for those who want both in one.
        let pem = [fs::read(folder.join(&cert))?, fs::read(folder.join(&key_file))?].concat();
        fs::write(folder.join(format!("{name}.pem")), pem)?;
    }
    Ok(())
}
