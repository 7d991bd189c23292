//! Peers of other makes: what they are told and shown, and what of theirs is accepted.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lictor_task::Scope;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::fake::{Agent, Echo, Files, LIMIT, Pair, Running, db_entry, eventually, has_openssl, instance};
use crate::forge::{Authority, Issued, TRUST_DOMAIN, uri};
use crate::{mirrored, s_client};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// An application that ends its connection behind one byte, so that openssl ends too.
async fn short() -> Echo {
    Echo::serving("127.0.0.1:0", |mut stream| async move {
        if let Ok(byte) = stream.read_u8().await {
            let _ = stream.write_all(&[byte, b'!']).await;
        }
    })
    .await
}

/// How openssl is told of a certificate, its key, what is behind it, and the root.
fn credentials(files: &Files) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let mut flags = vec![("-CAfile", "root.pem"), ("-cert", "leaf.pem"), ("-key", "key.pem")];
    let all = std::fs::read_to_string(files.path("leaf.pem")).unwrap();
    // It takes no more than the first of a file.
    if let Some(second) = all.match_indices(BEGIN).nth(1) {
        std::fs::write(files.path("behind.pem"), &all[second.0..]).unwrap();
        flags.push(("-cert_chain", "behind.pem"));
    }
    flags.into_iter().flat_map(|(flag, file)| [flag.to_owned(), files.path(file)]).collect()
}

/// What `openssl s_client` says with a certificate.
async fn shows(public: SocketAddr, files: &Files, more: &[&str]) -> String {
    let mut arguments = credentials(files);
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    s_client(public, &arguments).await
}

/// `openssl s_server` with a certificate, which answers each line with the line turned round.
struct Server(Child, SocketAddr);

impl Server {
    async fn start(files: &Files, more: &[&str], environment: &[(&str, &str)]) -> Server {
        // Somebody else may be given the port meanwhile, which ends this server at once.
        loop {
            let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let mut command = Command::new("openssl");
            command.args(["s_server", "-accept", &address.to_string(), "-rev", "-quiet", "-Verify", "1"]);
            command.args(credentials(files)).args(more).envs(environment.iter().copied());
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut server = Server(child, address);
            let listens = async {
                while TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(LIMIT, listens).await.unwrap();
            if server.0.try_wait().unwrap().is_none() {
                return server;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a line comes back turned round from behind the upstream.
async fn turns_round(pair: &Pair) -> bool {
    let exchange = async {
        let mut stream = pair.connect().await;
        stream.write_all(b"ab\n").await?;
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await.map(|_| answer)
    };
    matches!(tokio::time::timeout(LIMIT, exchange).await.unwrap(), Ok(answer) if &answer == b"ba\n")
}

/// Facts 3.2, 3.4 and 3.5 of the mesh.
#[tokio::test]
async fn old_versions_self_made_certificates_and_the_denied_hear_the_alert_of_the_original() {
    if !has_openssl() {
        return;
    }
    let pair = Pair::with(short().await, json!({}), json!({})).await;
    let public = pair.db.public().await;
    let good = Files::new("versions", &pair.authority, &pair.authority.leaf("web"));
    let old = shows(public, &good, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    assert!(old.contains("alert number 70"), "{old}");
    assert!(shows(public, &good, &["-tls1_2"]).await.contains("x!"));

    let own = Files::new("self-signed", &pair.authority, &pair.authority.self_signed("web"));
    let denied = Files::new("refused", &pair.authority, &pair.authority.leaf("mallory"));
    pair.db.agent.deny(Some("mallory"));
    let metrics = pair.db.proxy().metrics();
    eventually("the denial of mallory", async || {
        let before = metrics.denied.load(Ordering::Relaxed);
        shows(public, &denied, &[]).await;
        metrics.denied.load(Ordering::Relaxed) > before
    })
    .await;
    let before = pair.app.connections();
    for version in VERSIONS {
        for (what, files) in [("self-signed", &own), ("denied", &denied)] {
            let answer = shows(public, files, &[version]).await;
            assert!(answer.contains("alert number 42"), "{version} {what}: {answer}");
            // Whether the client has seen the server's part of the handshake to its end.
            let done = answer.contains("SSLv3/TLS read finished");
            assert_eq!(done, version == "-tls1_3", "{version} {what}: {answer}");
        }
    }
    assert_eq!(pair.app.connections(), before, "the application hears of none of them");
}

/// Makes a leaf of a service.
type Maker = Box<dyn Fn(&Authority, &str) -> Issued>;

/// A shape of a certificate, and whether it is accepted of a client and of a server.
struct Shape {
    what: &'static str,
    of_client: bool,
    of_server: bool,
    make: Maker,
}

fn shape(
    what: &'static str,
    (of_client, of_server): (bool, bool),
    change: impl Fn(&mut CertificateParams, &str) + 'static,
) -> Shape {
    let make = move |authority: &Authority, service: &str| authority.leaf_with(service, |leaf| change(leaf, service));
    Shape { what, of_client, of_server, make: Box::new(make) }
}

/// With another identity than that of the profile; `SVC` stands for the name.
fn named(what: &'static str, accepted: (bool, bool), names: &'static [&'static str]) -> Shape {
    shape(what, accepted, move |leaf, service| {
        let own = format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{service}");
        leaf.subject_alt_names =
            names.iter().map(|name| uri(&name.replace("OWN", &own).replace("SVC", service))).collect();
    })
}

/// All that the original was tried with. A port, a query and a fragment, which have no place in an identity and which it
/// overlooked in a client's, are refused here; a letter is the same however it is encoded, where it compared a server's text.
fn shapes() -> Vec<Shape> {
    let usages = |usages: &'static [ExtendedKeyUsagePurpose]| {
        move |leaf: &mut CertificateParams, _: &str| leaf.extended_key_usages = usages.to_vec()
    };
    let chain = |what, accepted: bool, make: fn(&Authority, &str) -> Issued| Shape {
        what,
        of_client: accepted,
        of_server: accepted,
        make: Box::new(make),
    };
    let (both, neither, client) = ((true, true), (false, false), (true, false));
    vec![
        shape("the usual one", both, |_, _| {}),
        shape("no subject and no usages", both, |leaf, _| {
            leaf.distinguished_name = DistinguishedName::new();
            leaf.key_usages.clear();
            leaf.extended_key_usages.clear();
        }),
        shape("of clients alone", client, usages(&[ExtendedKeyUsagePurpose::ClientAuth])),
        shape("of servers alone", (false, true), usages(&[ExtendedKeyUsagePurpose::ServerAuth])),
        shape("a name of DNS beside", both, |leaf, _| {
            leaf.subject_alt_names.insert(0, SanType::DnsName("db.example".try_into().unwrap()));
        }),
        shape("a name of DNS alone", neither, |leaf, _| {
            leaf.subject_alt_names = vec![SanType::DnsName("db.example".try_into().unwrap())];
        }),
        shape("no name", neither, |leaf, _| leaf.subject_alt_names.clear()),
        shape("expired", neither, |leaf, _| {
            leaf.not_before = date_time_ymd(2000, 1, 1);
            leaf.not_after = date_time_ymd(2001, 1, 1);
        }),
        shape("not valid yet", neither, |leaf, _| leaf.not_before = date_time_ymd(4000, 1, 1)),
        named("two identities, its own first", both, &["OWN", "spiffe://x.consul/ns/default/dc/dc1/svc/other"]),
        named("two identities, its own second", client, &["spiffe://x.consul/ns/default/dc/dc1/svc/other", "OWN"]),
        named("another trust domain", both, &["spiffe://other.consul/ns/default/dc/dc1/svc/SVC"]),
        named("a trust domain in capitals", both, &["spiffe://OTHER.CONSUL/ns/default/dc/dc1/svc/SVC"]),
        named("a trust domain with a port", neither, &["spiffe://other.consul:8300/ns/default/dc/dc1/svc/SVC"]),
        named("another datacenter", client, &["spiffe://x.consul/ns/default/dc/dc2/svc/SVC"]),
        named("another namespace", client, &["spiffe://x.consul/ns/other/dc/dc1/svc/SVC"]),
        shape("a name in capitals", both, |leaf, service| {
            let name = service.to_uppercase();
            leaf.subject_alt_names = vec![uri(&format!("spiffe://x.consul/ns/default/dc/dc1/svc/{name}"))];
        }),
        named("a scheme in capitals", both, &["SPIFFE://x.consul/ns/default/dc/dc1/svc/SVC"]),
        named("a query", neither, &["OWN?a=b"]),
        named("a fragment", neither, &["OWN#a"]),
        shape("an encoded letter", both, |leaf, service| {
            let (first, rest) = service.split_at(1);
            let name = format!("%{:02x}{rest}", first.as_bytes()[0]);
            leaf.subject_alt_names = vec![uri(&format!("spiffe://x.consul/ns/default/dc/dc1/svc/{name}"))];
        }),
        named("a slash at the end", neither, &["OWN/"]),
        named("the identity of a CA", neither, &["spiffe://x.consul"]),
        named("the identity of an agent", neither, &["spiffe://x.consul/agent/client/dc/dc1/id/SVC"]),
        named("another scheme", neither, &["https://x.consul/ns/default/dc/dc1/svc/SVC"]),
        chain("the root behind it, twice", true, |authority, service| {
            let leaf = authority.leaf(service);
            Issued { certificates: format!("{}{}{}", leaf.certificates, authority.pem, authority.pem), ..leaf }
        }),
        chain("a certificate of nobody behind it", true, |authority, service| {
            let (leaf, other) = (authority.leaf(service), Authority::of("y.consul", "other"));
            Issued { certificates: format!("{}{}", leaf.certificates, other.pem), ..leaf }
        }),
        chain("of an intermediate that is behind it", true, |authority, service| {
            authority.leaf_of_intermediate(service).0
        }),
        chain("of an intermediate that is missing", false, |authority, service| {
            authority.leaf_of_intermediate(service).1
        }),
        chain("of a root of the same name", false, |_, service| Authority::new("Consul CA 7").leaf(service)),
        chain("of another root", false, |_, service| Authority::new("another").leaf(service)),
    ]
}

/// Fact 3.13 of the mesh.
#[tokio::test]
async fn certificates_of_every_shape_are_judged_alike_on_both_sides_and_in_both_versions() {
    if !has_openssl() {
        return;
    }
    let pair = Pair::with(short().await, json!({}), json!({})).await;
    let public = pair.db.public().await;
    let mut wrong = Vec::new();
    for (number, shape) in shapes().iter().enumerate() {
        for version in VERSIONS {
            let files = Files::new("shape", &pair.authority, &(shape.make)(&pair.authority, "web"));
            let answer = shows(public, &files, &[version]).await;
            let outcome = (answer.contains("x!"), answer.contains("alert number 42"));
            if outcome != (shape.of_client, !shape.of_client) {
                wrong.push(format!("a client with {}, {version}: accepted and refused are {outcome:?}", shape.what));
            }
            let files = Files::new("shape", &pair.authority, &(shape.make)(&pair.authority, "db"));
            let server = Server::start(&files, &[version], &[]).await;
            let behind = server.1;
            let door = Echo::serving("127.0.0.1:0", move |mut near| async move {
                let mut far = TcpStream::connect(behind).await.unwrap();
                // Either may be reset by who refuses the other.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            })
            .await;
            pair.web.agent.set_instances(vec![instance(&format!("s{number}{version}"), door.address)]);
            // The instance before may be dialled once more before this one is known; nothing listens there any more.
            let judged = async {
                loop {
                    let accepted = turns_round(&pair).await;
                    if door.connections() > 0 {
                        break accepted;
                    }
                }
            };
            let accepted = tokio::time::timeout(LIMIT, judged).await.unwrap();
            if accepted != shape.of_server {
                wrong.push(format!("a server with {}, {version}: accepted is {accepted}", shape.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Fact 3.14 of the mesh.
#[tokio::test]
async fn a_peer_without_an_extended_master_secret_is_met_on_either_side() {
    if !has_openssl() {
        return;
    }
    let pair = Pair::with(short().await, json!({}), json!({})).await;
    let public = pair.db.public().await;
    let files = Files::new("without-ems", &pair.authority, &pair.authority.leaf("web"));
    let config = files.0.join("openssl.cnf");
    let lines = ["openssl_conf = all", "[all]", "ssl_conf = tls", "[tls]", "system_default = mine", "[mine]"];
    std::fs::write(&config, lines.join("\n") + "\nOptions = -ExtendedMasterSecret\n").unwrap();
    let config = config.display().to_string();
    // As `s_client` does it, with extensions shown and another configuration.
    let talk = async |environment: &[(&str, &str)]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &public.to_string(), "-tls1_2", "-tlsextdebug", "-no_ign_eof"]);
        command
            .args(credentials(&files))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"x\n").unwrap();
        let (done, finished) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output = tokio::time::timeout(LIMIT, finished).await.unwrap().unwrap().unwrap();
        drop(input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("x!"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.contains("extended master secret")
    };
    assert!(talk(&[]).await, "with a peer that has it, it is used");
    assert!(!talk(&[("OPENSSL_CONF", &config)]).await);

    let files = Files::new("server-without-ems", &pair.authority, &pair.authority.leaf("db"));
    let server = Server::start(&files, &["-tls1_2"], &[("OPENSSL_CONF", &config)]).await;
    pair.web.agent.set_instances(vec![instance("without", server.1)]);
    eventually("the server without it is used", async || turns_round(&pair).await).await;
}

/// Copies one direction of a connection and notes the longest record on it.
async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, longest: Arc<AtomicUsize>) -> std::io::Result<()> {
    loop {
        let mut head = [0; 5];
        from.read_exact(&mut head).await?;
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        longest.fetch_max(length, Ordering::Relaxed);
        let mut rest = vec![0; length];
        from.read_exact(&mut rest).await?;
        to.write_all(&head).await?;
        to.write_all(&rest).await?;
    }
}

/// Fact 3.15 of the mesh.
#[tokio::test]
async fn no_record_of_a_long_echo_is_longer_than_peers_must_accept() {
    // What TLS 1.3 adds to the bytes of a record: their kind and a tag.
    const ADDED: usize = 1 + 16;
    let pair = Pair::start().await;
    let (public, longest) = (pair.db.public().await, Arc::new(AtomicUsize::new(0)));
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.web.agent.set_instances(vec![instance("between", between.local_addr().unwrap())]);
    let scope = Scope::new("relay");
    let noted = Arc::clone(&longest);
    scope.spawn("relay", async move {
        loop {
            let (near, far) = (between.accept().await.unwrap().0, TcpStream::connect(public).await.unwrap());
            let ((near_from, near_to), (far_from, far_to)) = (near.into_split(), far.into_split());
            for (from, to) in [(near_from, far_to), (far_from, near_to)] {
                let longest = Arc::clone(&noted);
                tokio::spawn(async move {
                    // It ends with the connection, one way or another.
                    let _ = relay(from, to, longest).await;
                });
            }
        }
    });
    eventually("the way leads by the relay", async || {
        assert!(pair.works().await);
        longest.load(Ordering::Relaxed) > 0
    })
    .await;
    let sent: Vec<u8> = (0..400_000u32).map(|at| (at >> 3) as u8 ^ at as u8).collect();
    assert!(mirrored(&mut pair.connect().await, &sent).await == sent);
    let longest = longest.load(Ordering::Relaxed);
    assert!((4096..=16_384 + ADDED).contains(&longest), "{longest} bytes in a record");
}

/// Facts 12.1 and 12.3 of the mesh.
#[tokio::test]
async fn ten_thousand_connections_ask_the_agent_nothing_and_one_dead_instance_of_three_costs_none() {
    let pair = Arc::new(Pair::start().await);
    let agent = Agent::new(&pair.authority, &pair.authority.leaf("db"), db_entry(pair.app.address, json!({})));
    let second = Running::start(&agent);
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let connections = async |each: usize| {
        let scope = Scope::new("clients");
        let workers: Vec<_> = (0..20)
            .map(|_| {
                let pair = Arc::clone(&pair);
                scope.spawn("client", async move {
                    let mut failed = 0;
                    for _ in 0..each {
                        failed += usize::from(!pair.works().await);
                    }
                    failed
                })
            })
            .collect();
        let mut failed = 0;
        for worker in workers {
            failed += worker.await.unwrap().unwrap();
        }
        failed
    };
    assert_eq!(connections(500).await, 0);
    assert!(pair.app.connections() >= 10_000);
    assert_eq!(pair.db.agent.asked.load(Ordering::Relaxed), 0);

    let live = pair.db.public().await;
    pair.web.agent.set_instances(vec![
        instance("dead", dead),
        instance("live", live),
        instance("second", second.public().await),
    ]);
    eventually("all three are known", async || {
        assert!(pair.works().await);
        second.proxy().metrics().allowed.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(connections(50).await, 0);
    for agent in [&pair.db.agent, &agent] {
        assert_eq!(agent.asked.load(Ordering::Relaxed), 0);
    }
}
