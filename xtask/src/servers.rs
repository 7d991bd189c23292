//! What the tests need from the system: real servers and clients, installed where that is possible.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program that tests and benches use, and the Debian packages it comes in.
const PROGRAMS: [(&str, &str); 21] = [
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx libnginx-mod-stream"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("dig", "dnsutils"),
    ("kdig", "knot-dnsutils"),
    ("haproxy", "haproxy"),
    ("prometheus", "prometheus"),
    ("victoria-metrics", "victoria-metrics"),
    ("python3", "python3"),
    ("faketime", "faketime"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("initdb", "postgresql"),
    ("patroni", "patroni python3-consul"),
    ("stunnel4", "stunnel4"),
    ("valgrind", "valgrind"),
];

/// Installs what is missing if this user may, and gives the names of what is still missing.
pub(crate) fn ensure() -> Vec<String> {
    let wanted = missing();
    if wanted.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = wanted.iter().map(|(program, _)| *program).collect();
    crate::say(&format!("xtask: missing for tests: {}", names.join(" ")));
    let packages: Vec<&str> = wanted.iter().flat_map(|(_, packages)| packages.split(' ')).collect();
    if !install(&packages) {
        crate::say("xtask: they cannot be installed here (apt-get as root is needed); tests that use them are skipped");
    }
    missing().iter().map(|(program, package)| format!("{program} (package {package})")).collect()
}

fn missing() -> Vec<(&'static str, &'static str)> {
    PROGRAMS.iter().filter(|(program, _)| !is_there(program)).copied().collect()
}

fn is_there(program: &str) -> bool {
    // Servers live in sbin, which is not in everybody's PATH.
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(postgresql())
        .any(|folder| folder.join(program).is_file())
}

/// Where Debian keeps the programs of PostgreSQL's server: a folder for each version.
fn postgresql() -> impl Iterator<Item = PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin"))
}

fn install(packages: &[&str]) -> bool {
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The servers are for tests: none of them shall be started as a service.
            .env("RUNLEVEL", "1")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&["update", "-qq"]) && apt(&arguments)
}
