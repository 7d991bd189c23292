//! The main path on real services: two lines of configuration, and mutual TLS between applications.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{LICTOR, connect, echo, echo_once, exchange, is_cut, mesh, serve, two_services, wait_path};
use lictor_testkit::program::find;
use lictor_testkit::wait::within;
use lictor_testkit::{House, Program, eventually, ports, until};
use serde_json::json;

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn redis_is_reached_through_two_proxies() {
    let (Some(server), Some(cli), Some(benchmark)) = (find("redis-server"), find("redis-cli"), find("redis-benchmark"))
    else {
        return;
    };
    let port = ports::one();
    let mut redis = Command::new(server);
    redis.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
    let _redis = Program::start(&mut redis);
    let entry = ports::one();
    let house = House::start_dev(
        LICTOR,
        json!({"services": [
            {"name": "redis", "port": port, "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "upstreams": [{"destination_name": "redis", "local_bind_port": entry}]}}},
        ]}),
    );
    house.wait_healthy("redis");
    let redis_cli = |words: &[&str]| output(Command::new(&cli).args(["-p", &entry.to_string()]).args(words));
    until("redis answers", || redis_cli(&["PING"]).trim() == "PONG");
    assert_eq!(redis_cli(&["SET", "k", "v"]).trim(), "OK");
    assert_eq!(redis_cli(&["GET", "k"]).trim(), "v");
    let report = output(Command::new(benchmark).args([
        "-p",
        &entry.to_string(),
        "-n",
        "20000",
        "-c",
        "50",
        "-q",
        "-t",
        "set,get",
    ]));
    assert!(report.contains("SET:") && report.contains("GET:") && !report.contains("rror"), "{report}");
}

#[test]
fn a_big_file_arrives_from_nginx_as_it_was_sent() {
    let (Some(nginx), Some(curl)) = (find("nginx"), find("curl")) else { return };
    let port = ports::one();
    let (config, entry) = two_services(port);
    let house = House::build(LICTOR, config);
    let root = house.folder().join("nginx");
    fs::create_dir(&root).unwrap();
    // 1 GiB of a pattern with a long period: a lost, doubled or swapped piece changes the digest.
    let mut file = std::io::BufWriter::new(fs::File::create(root.join("big.bin")).unwrap());
    let mut state: u64 = 1;
    let mut block = vec![0_u8; 1 << 20];
    for _ in 0..1024 {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.flush().unwrap();
    let conf = root.join("nginx.conf");
    let here = root.display();
    fs::write(
        &conf,
        format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\n\
             events {{}}\nhttp {{ access_log off; sendfile on; client_body_temp_path {here}/t1; proxy_temp_path {here}/t2;\n\
             fastcgi_temp_path {here}/t3; uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;\n\
             server {{ listen 127.0.0.1:{port}; root {here}; }} }}\n"
        ),
    )
    .unwrap();
    let _nginx = Program::start(Command::new(nginx).arg("-e").arg(root.join("error.log")).arg("-c").arg(&conf));
    let mut house = house;
    house.start_agent();
    house.wait_ready();
    house.wait_healthy("db");
    let url = format!("http://127.0.0.1:{entry}/big.bin");
    until("nginx answers", || output(Command::new(&curl).args(["-s", "-I", &url])).contains("200 OK"));
    let digest = |command: &str| {
        output(Command::new("sh").arg("-c").arg(format!("{command} | sha256sum"))).split(' ').next().unwrap().to_owned()
    };
    let sent = digest(&format!("cat {here}/big.bin"));
    let got = digest(&format!("{} -s {url}", curl.display()));
    assert_eq!(got, sent);
}

#[test]
fn a_client_that_ends_its_side_still_gets_the_whole_answer() {
    // The application answers only when its client has said everything, as `nc -N` and old protocols do.
    let app = serve("127.0.0.1:0", |mut connection| {
        let mut request = Vec::new();
        if connection.read_to_end(&mut request).is_ok() {
            let _ = connection.write_all(&vec![b'x'; 100_000]);
            let _ = connection.write_all(&request);
        }
    });
    let (config, entry) = two_services(app.port());
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    let answer = eventually("an answer", || {
        let mut connection = connect(entry).ok()?;
        connection.write_all(b"the request").ok()?;
        connection.shutdown(Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert_eq!(answer.len(), 100_000 + b"the request".len());
    assert!(answer.ends_with(b"the request"));
}

#[test]
fn a_slow_reader_gets_everything_and_costs_no_memory() {
    const TOTAL: usize = 64 << 20;
    let app = serve("127.0.0.1:0", |mut connection| {
        let chunk = vec![7_u8; 1 << 16];
        let mut byte = [0];
        // Two kinds of clients: the probe of this test sends a byte first.
        if connection.read_exact(&mut byte).is_ok() {
            for _ in 0..TOTAL / chunk.len() {
                if connection.write_all(&chunk).is_err() {
                    return;
                }
            }
        }
    });
    let (config, entry) = two_services(app.port());
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    let mut connection = eventually("a connection", || {
        let mut connection = connect(entry).ok()?;
        connection.write_all(b"g").ok()?;
        let mut first = [0];
        connection.read_exact(&mut first).ok()?;
        Some(connection)
    });
    // Everything that is not read waits in socket buffers, not in the proxies.
    thread::sleep(Duration::from_millis(500));
    for (id, pid) in house.proxies() {
        let held = held_kb(pid);
        assert!(held < 8 * 1024, "{id} holds {held} kB while its client does not read");
    }
    let mut rest = Vec::new();
    connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    connection.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() + 1, TOTAL);
}

/// What a process holds in memory of its own. The pages of its program are shared, and of an unoptimised one many.
fn held_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn proxies_without_work_do_not_wake_up() {
    // Sessions that wait for their next connection are looked after for half a minute; a health check, a reminder or an
    // answer of the agent may fall into one time of five seconds or the other.
    const WINDOW: Duration = Duration::from_secs(5);
    let (house, entry) = mesh(echo().port());
    exchange(&mut connect(entry).unwrap()).unwrap();
    for (id, pid) in house.proxies() {
        within(Duration::from_secs(120), &format!("{id} is at rest"), || {
            let before = wakings(pid);
            thread::sleep(WINDOW);
            (wakings(pid) - before <= 5).then_some(())
        });
    }
    exchange(&mut connect(entry).unwrap()).unwrap();
}

#[test]
fn proxies_without_their_agent_look_for_it_now_and_then_and_go_on() {
    // An agent that is away for so long is not being restarted.
    const ALERT: Duration = Duration::from_secs(16);
    // Longer than until the next reminder, which nobody hears. Watches and sessions wake a proxy a few times, too.
    const WINDOW: Duration = Duration::from_secs(12);
    let (mut house, entry) = mesh(echo().port());
    let proxies = house.proxies();
    house.kill_agent();
    thread::sleep(ALERT);
    let before: Vec<u64> = proxies.iter().map(|(_, pid)| wakings(*pid)).collect();
    thread::sleep(WINDOW);
    for ((id, pid), before) in proxies.iter().zip(before) {
        let woke = wakings(*pid) - before;
        assert!(woke < 8 * WINDOW.as_secs(), "{id} woke {woke} times in {WINDOW:?}");
    }
    exchange(&mut connect(entry).unwrap()).unwrap();
    house.start_agent();
    house.wait_healthy("db");
    exchange(&mut connect(entry).unwrap()).unwrap();
    assert_eq!(house.proxies(), proxies, "an agent that comes back finds them");
}

/// How often the threads of a process have gone to sleep.
fn wakings(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    threads.filter_map(|thread| of_thread(fs::read_to_string(thread.ok()?.path().join("status")).ok()?)).sum()
}

#[test]
fn many_connections_at_once_are_all_served() {
    // The application has a thread for each connection and accepts slowly on a busy machine: its queue fills up, and the
    // kernel tries again to get into it after a second, which is the limit unless another one is given.
    let (mut config, entry) = two_services(echo().port());
    config["services"][0]["connect"]["proxy"]["config"] = json!({"local_connect_timeout_ms": 20_000});
    let house = House::start(LICTOR, config);
    wait_path(&house, entry);
    let mut open: Vec<TcpStream> = (0..500).map(|_| connect(entry).unwrap()).collect();
    for connection in &mut open {
        exchange(connection).unwrap();
    }
    for connection in open.iter_mut().rev() {
        exchange(connection).unwrap();
    }
}

#[test]
fn services_on_ipv6_are_reached() {
    let app = serve("[::1]:0", |mut connection| {
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = connection.read(&mut buffer) {
            let _ = connection.write_all(&buffer[..read]);
        }
    });
    let entry = ports::one();
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "db", "port": app.port(), "connect": {"proxy": {"config": {
                "bind_address": "::1", "local_service_address": format!("[::1]:{}", app.port())}}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {"upstreams": [
                {"destination_name": "db", "local_bind_address": "::1", "local_bind_port": entry}]}}},
        ]}),
    );
    house.wait_healthy("db");
    until("bytes come back over IPv6", || {
        TcpStream::connect(("::1", entry)).is_ok_and(|mut connection| {
            let _ = connection.set_read_timeout(Some(Duration::from_secs(5)));
            exchange(&mut connection).is_ok()
        })
    });
}

#[test]
fn a_deny_refuses_new_connections_and_cuts_open_ones() {
    let (house, entry) = mesh(echo().port());
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    let begin = Instant::now();
    let id = house.intend("web", "db", "deny");
    until("a new connection is refused", || echo_once(entry).is_err());
    let refused = begin.elapsed();
    assert!(is_cut(&mut open, Duration::from_secs(1)), "the open connection goes on");
    // The promise is 100 ms on a quiet machine; a machine that runs many tests gets some slack.
    assert!(refused < Duration::from_secs(2), "refused only after {refused:?}");
    assert_eq!(house.request("DELETE", &format!("/v1/connect/intentions/{id}"), b"").status, 200);
    until("connections are allowed again", || echo_once(entry).is_ok());
}

#[test]
fn the_public_port_speaks_to_nobody_without_a_certificate() {
    let Some(openssl) = find("openssl") else { return };
    let (house, entry) = mesh(echo().port());
    let public = house.get("/v1/agent/services").json()["db-proxy"]["Port"].as_u64().unwrap();
    let leaf = |service: &str| house.get(&format!("/v1/agent/connect/ca/leaf/{service}")).json();
    let folder = house.folder();
    let roots = house.get("/v1/agent/connect/ca/roots").json();
    fs::write(folder.join("roots.pem"), roots["Roots"][0]["RootCert"].as_str().unwrap()).unwrap();
    let own = leaf("api");
    fs::write(folder.join("leaf.pem"), own["CertPEM"].as_str().unwrap()).unwrap();
    fs::write(folder.join("leaf.key"), own["PrivateKeyPEM"].as_str().unwrap()).unwrap();
    let talk = |version: &str, with_leaf: bool| {
        let mut command = Command::new("sh");
        let certificate = if with_leaf { "-cert leaf.pem -key leaf.key" } else { "" };
        command.current_dir(folder).arg("-c").arg(format!(
            "(echo hello; sleep 1) | timeout 10 {} s_client -connect 127.0.0.1:{public} {version} {certificate} \
             -CAfile roots.pem -verify_return_error -quiet 2>&1",
            openssl.display()
        ));
        output(&mut command)
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let with = talk(version, true);
        assert!(with.contains("hello"), "{version}: {with}");
        let without = talk(version, false);
        assert!(!without.contains("hello"), "{version}: {without}");
        assert!(without.contains("alert") && without.contains("42"), "{version}: {without}");
    }
    assert!(!talk("-tls1_1", true).contains("hello"));
    house.intend("api", "db", "deny");
    until("a denied certificate is refused in the handshake", || {
        let denied = talk("-tls1_2", true);
        !denied.contains("hello") && denied.contains("42")
    });
    echo_once(entry).unwrap();
}

#[test]
fn a_certificate_of_another_cluster_or_service_is_worth_nothing() {
    let Some(openssl) = find("openssl") else { return };
    let (house, _) = mesh(echo().port());
    let stranger = House::start(LICTOR, json!({}));
    let foreign = stranger.get("/v1/agent/connect/ca/leaf/web").json();
    let public = house.get("/v1/agent/services").json()["db-proxy"]["Port"].as_u64().unwrap();
    let folder = house.folder();
    let write = |name: &str, leaf: &serde_json::Value| {
        fs::write(folder.join(format!("{name}.pem")), leaf["CertPEM"].as_str().unwrap()).unwrap();
        fs::write(folder.join(format!("{name}.key")), leaf["PrivateKeyPEM"].as_str().unwrap()).unwrap();
    };
    write("foreign", &foreign);
    let answer = output(Command::new("sh").current_dir(folder).arg("-c").arg(format!(
        "(echo hello; sleep 1) | timeout 10 {} s_client -connect 127.0.0.1:{public} -cert foreign.pem -key foreign.key \
         -quiet 2>&1",
        openssl.display()
    )));
    assert!(!answer.contains("hello") && answer.contains("42"), "{answer}");

    // A server that stands where `cache` is registered, with the certificate of another service of the same mesh.
    write("stolen", &house.get("/v1/agent/connect/ca/leaf/other").json());
    let (thief, entry) = (ports::one(), ports::one());
    let mut server = Command::new(openssl);
    server.current_dir(folder).args(["s_server", "-accept", &thief.to_string(), "-cert", "stolen.pem"]);
    server.args(["-key", "stolen.key", "-rev", "-quiet"]);
    let _server = Program::start(&mut server);
    house.put(
        "/v1/agent/service/register",
        json!({"Name": "cache-proxy", "Kind": "connect-proxy", "Port": thief,
            "Proxy": {"DestinationServiceName": "cache"}}),
    );
    house.reconfigure(|config| {
        config["services"][1]["connect"]["proxy"]["upstreams"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination_name": "cache", "local_bind_port": entry}));
    });
    house.put("/v1/agent/reload", serde_json::Value::Null);
    house.wait_healthy("cache");
    let mut connection = eventually("the new upstream listens", || connect(entry).ok());
    let _ = connection.write_all(b"secret\n");
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert!(answer.is_empty(), "a thief answered: {:?}", String::from_utf8_lossy(&answer));
}

#[test]
fn dns_names_the_proxies_of_a_service() {
    let Some(dig) = find("dig") else { return };
    let (house, _) = mesh(echo().port());
    let port = house.get("/v1/agent/services").json()["db-proxy"]["Port"].as_u64().unwrap();
    let ask = |kind: &str| {
        output(Command::new(&dig).args([
            "@127.0.0.1",
            "-p",
            &house.dns_port.to_string(),
            "db.connect.consul",
            kind,
            "+short",
        ]))
    };
    until("SRV and A are answered", || {
        ask("SRV").contains(&format!("1 1 {port} node1.node.dc1.consul.")) && ask("A").trim() == "127.0.0.1"
    });
}

#[test]
fn another_instance_is_tried_when_one_does_not_answer() {
    let (house, entry) = mesh(echo().port());
    // An instance without any check counts as healthy; nobody listens there.
    house.put(
        "/v1/agent/service/register",
        json!({"ID": "dead", "Name": "db-dead", "Kind": "connect-proxy", "Port": ports::one(),
            "Proxy": {"DestinationServiceName": "db"}}),
    );
    until("the dead instance is in the mesh", || {
        house.get("/v1/health/connect/db?passing").json().as_array().unwrap().len() == 2
    });
    for _ in 0..100 {
        echo_once(entry).unwrap();
    }
}

#[test]
fn a_proxy_of_plain_flags_joins_the_same_mesh() {
    let (house, _) = mesh(echo().port());
    let entry = ports::one();
    let mut command = Command::new(LICTOR);
    command
        .args(["connect", "proxy", "-service", "cli", "-upstream", &format!("db:{entry}")])
        .args(["-http-addr", &format!("127.0.0.1:{}", house.http_port)]);
    let _proxy = Program::start(&mut command);
    until("bytes come back", || echo_once(entry).is_ok());
    house.intend("cli", "db", "deny");
    until("its identity is what intentions see", || echo_once(entry).is_err());
    wait_path(&house, {
        let services = house.get("/v1/agent/services").json();
        u16::try_from(services["web"]["Connect"]["Proxy"]["Upstreams"][0]["LocalBindPort"].as_u64().unwrap()).unwrap()
    });
}

#[test]
fn a_sidecar_registration_is_served_by_the_sidecar_command() {
    let app = echo();
    let (house, _) = mesh(app.port());
    let entry = ports::one();
    house.put(
        "/v1/agent/service/register",
        json!({"Name": "api", "Port": 9090, "Connect": {"SidecarService": {"Proxy": {"Upstreams": [
            {"DestinationName": "db", "LocalBindPort": entry}]}}}}),
    );
    let mut command = Command::new(LICTOR);
    command
        .args(["connect", "proxy", "-sidecar-for", "api"])
        .args(["-http-addr", &format!("127.0.0.1:{}", house.http_port)]);
    let _proxy = Program::start(&mut command);
    until("bytes come back", || echo_once(entry).is_ok());
    // It is `api`, and neither `api-sidecar-proxy` nor whoever started it.
    house.intend("api-sidecar-proxy", "db", "deny");
    let id = house.intend("api", "db", "deny");
    until("its identity is the destination's name", || echo_once(entry).is_err());
    assert_eq!(house.request("DELETE", &format!("/v1/connect/intentions/{id}"), b"").status, 200);
    until("it is nobody else", || echo_once(entry).is_ok());
}

/// The application sees only that its connection is closed; the log of its own proxy says why, and not once for each try.
#[test]
fn who_is_denied_is_told_once_by_the_proxy_that_dialled() {
    for same_node in ["mtls", "direct"] {
        let (mut config, entry) = two_services(echo().port());
        config["connect"] = json!({"enabled": true, "same_node": same_node});
        let house = House::start(LICTOR, config);
        wait_path(&house, entry);
        let log = house.data_dir().join("proxy/logs/web-proxy-stdout.log");
        let lines = || {
            let text = fs::read_to_string(&log).unwrap();
            text.lines()
                .filter(|line| line.contains("upstream service:default/db: refused"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(), Vec::<String>::new());
        house.intend("web", "db", "deny");
        until("a new connection is refused", || echo_once(entry).is_err());
        for _ in 0..20 {
            assert!(echo_once(entry).is_err());
        }
        until("it is said", || !lines().is_empty());
        let lines = lines();
        // With `direct` the peer may say it in two ways: before and after the proxies have met.
        assert!(lines.len() <= if same_node == "mtls" { 1 } else { 2 }, "{lines:?}");
        for line in &lines {
            assert!(line.contains("[INFO]") && line.contains("its intentions deny this service"), "{line}");
        }
    }
}
