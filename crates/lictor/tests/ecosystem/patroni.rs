//! Patroni keeps a PostgreSQL cluster of two alive with lictor holding the leader's lock.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lictor_testkit::house::{is_running, send};
use lictor_testkit::program::find;
use lictor_testkit::wait::within;
use lictor_testkit::{House, Program, ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::LICTOR;
use super::skipped;

/// The cluster: what Patroni calls its scope, and the service it registers.
const SCOPE: &str = "accounts";
/// What a change of leaders may take: the old lock has to expire, and newer versions of Patroni make a short one longer.
const CHANGE: Duration = Duration::from_secs(90);

/// Where the programs are, and who runs them.
struct Installation {
    patroni: PathBuf,
    /// The folder of PostgreSQL's own programs.
    programs: PathBuf,
    /// The user and the group that run PostgreSQL, which refuses root.
    user: Option<(u32, u32)>,
}

impl Installation {
    fn find() -> Option<Installation> {
        let patroni = find("patroni")?;
        let Some(programs) = server_programs() else {
            skipped("this test needs PostgreSQL's server, which is not installed");
            return None;
        };
        // The interpreter that Patroni's first line names, with a client of the API.
        let text = fs::read_to_string(&patroni).ok()?;
        let interpreter = text.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or("python3");
        let has_client = Command::new(interpreter).args(["-c", "import patroni, consul"]).output();
        if !has_client.is_ok_and(|output| output.status.success()) {
            skipped("this Patroni has no client of the API (package python3-consul)");
            return None;
        }
        let user = if rustix::process::geteuid().is_root() {
            let Some(ids) = ids_of("postgres") else {
                skipped("PostgreSQL refuses root, and there is no user postgres");
                return None;
            };
            Some(ids)
        } else {
            None
        };
        Some(Installation { patroni, programs, user })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Debian keeps a server's programs in a folder of its version, outside everybody's PATH.
fn server_programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    folders.sort();
    folders.pop()
}

fn ids_of(name: &str) -> Option<(u32, u32)> {
    let id = |what: &str| {
        let output = Command::new("id").args([what, name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((id("-u")?, id("-g")?))
}

/// One member of the cluster: a Patroni and its PostgreSQL.
struct Member<'a> {
    installation: &'a Installation,
    name: &'static str,
    folder: TempDir,
    port: u16,
    process: Option<Program>,
}

impl<'a> Member<'a> {
    fn new(installation: &'a Installation, name: &'static str, house: &House) -> Member<'a> {
        let folder = tempfile::Builder::new().prefix("lictor-patroni-").tempdir().unwrap();
        let (port, rest) = (ports::one(), ports::one());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = json!({
            "scope": SCOPE, "namespace": "/service/", "name": name,
            "restapi": {"listen": format!("127.0.0.1:{rest}"), "connect_address": format!("127.0.0.1:{rest}")},
            "consul": {"host": format!("127.0.0.1:{}", house.http_port), "register_service": true,
                "service_check_interval": "1s"},
            "log": {"dir": folder.path(), "level": "INFO"},
            "bootstrap": {
                "dcs": {"ttl": 6, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 1_048_576,
                    "postgresql": {"use_pg_rewind": true, "parameters": {"wal_log_hints": "on"}}},
                "initdb": [{"encoding": "UTF8"}, "data-checksums", {"auth": "trust"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": format!("127.0.0.1:{port}"), "connect_address": format!("127.0.0.1:{port}"),
                "bin_dir": installation.programs, "data_dir": path("data"), "pgpass": path("pgpass"),
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust"],
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "copier"},
                    "rewind": {"username": "postgres"}},
                // What a crash of the machine would lose is no concern of a test.
                "parameters": {"unix_socket_directories": folder.path(), "fsync": "off", "shared_buffers": "16MB",
                    "max_connections": 20},
            },
        });
        // Every JSON is YAML.
        fs::write(folder.path().join("patroni.yml"), config.to_string()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((user, group)) = installation.user {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let mut member = Member { installation, name, folder, port, process: None };
        member.start();
        member
    }

    fn start(&mut self) {
        let mut command = self.installation.command(&self.installation.patroni);
        command.arg(self.folder.path().join("patroni.yml"));
        command.current_dir(self.folder.path()).env("HOME", self.folder.path()).env("LC_ALL", "C");
        self.process = Some(Program::start(&mut command));
    }

    /// The process id of its PostgreSQL, which lives on when Patroni alone is killed.
    fn postmaster(&self) -> Option<u32> {
        let text = fs::read_to_string(self.folder.path().join("data/postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        is_running(pid).then_some(pid)
    }

    /// The answer to a query, or why there is none.
    fn ask(&self, query: &str) -> Result<String, String> {
        let output = self
            .installation
            .command(&self.installation.programs.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-d"])
            .args(["postgres", "-v", "ON_ERROR_STOP=1", "-c", query])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("patroni.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{}:\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// As when the power fails: Patroni and PostgreSQL end at once, neither says anything to anybody.
    fn kill(&mut self) {
        let postmaster = self.postmaster();
        self.process = None;
        if let Some(pid) = postmaster {
            send(pid, Signal::KILL);
            until("PostgreSQL is gone", || !is_running(pid));
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let postmaster = self.postmaster();
        self.process = None;
        if let Some(pid) = postmaster {
            // At once, but with its shared memory given back.
            send(pid, Signal::QUIT);
            until("PostgreSQL is gone", || !is_running(pid));
        }
    }
}

/// Who holds the lock by a session that lives.
fn leader(house: &House) -> Option<String> {
    let answer = house.try_request("GET", &format!("/v1/kv/service/{SCOPE}/leader"), b"").ok()?;
    let entry = (answer.status == 200).then(|| answer.json()[0].clone())?;
    entry["Session"].as_str()?;
    let raw = house.get(&format!("/v1/kv/service/{SCOPE}/leader?raw"));
    Some(raw.text())
}

/// The ports of the instances whose checks pass and that have a tag.
fn ports_of(house: &House, tag: &str) -> Vec<u64> {
    let found = house.get(&format!("/v1/health/service/{SCOPE}?passing&tag={tag}")).json();
    let ports = found.as_array().into_iter().flatten().filter_map(|instance| instance["Service"]["Port"].as_u64());
    ports.collect()
}

#[test]
fn patroni_survives_the_kill_of_its_leader_with_lictor_holding_its_lock() {
    let Some(installation) = Installation::find() else { return };
    let house = House::start(LICTOR, json!({"session_ttl_min": "1s"}));
    let mut first = Member::new(&installation, "first", &house);
    within(CHANGE, "the first member leads", || {
        let leads =
            leader(&house).as_deref() == Some("first") && first.ask("select pg_is_in_recovery()") == Ok("f".into());
        leads.then_some(())
    });
    let second = Member::new(&installation, "second", &house);
    first.ask("create table entries (number int)").unwrap();
    first.ask("insert into entries values (1)").unwrap();
    within(CHANGE, "the second member follows", || {
        (second.ask("select number from entries").as_deref() == Ok("1")).then_some(())
    });
    until("the catalog shows who leads and who follows", || {
        ports_of(&house, "primary") == [u64::from(first.port)]
            && ports_of(&house, "replica") == [u64::from(second.port)]
    });
    // A member that has seen the other's state knows that it may take over.
    let members = house.get(&format!("/v1/kv/service/{SCOPE}/members/?keys")).json();
    assert_eq!(members.as_array().map(Vec::len), Some(2), "{members}");

    first.kill();
    within(CHANGE, "the second member takes the lock and writes", || {
        let leads = leader(&house).as_deref() == Some("second");
        (leads && second.ask("insert into entries values (2)").is_ok()).then_some(())
    });
    until("the catalog shows the new leader", || ports_of(&house, "primary") == [u64::from(second.port)]);
    // Nothing that was confirmed is lost.
    assert_eq!(second.ask("select count(*) from entries where number = 1").as_deref(), Ok("1"), "{}", second.log());

    first.start();
    within(CHANGE, "the first member comes back and follows", || {
        let follows = first.ask("select pg_is_in_recovery()").as_deref() == Ok("t");
        (follows && first.ask("select count(*) from entries where number = 2").as_deref() == Ok("1")).then_some(())
    });
    assert_eq!(leader(&house).as_deref(), Some("second"), "{}\n{}", first.log(), second.log());
    let history: Value = house.get(&format!("/v1/kv/service/{SCOPE}/history?raw")).json();
    assert_eq!(history.as_array().map(Vec::len), Some(1), "one change of leaders: {history}");
}
