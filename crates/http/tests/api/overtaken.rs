//! Changes that come while the agent is in the middle of another one: none is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lictor_agent::Error;
use lictor_agent::cluster::{Author, Cluster, Soon, Standing};
use lictor_agent::config::Reloadable;
use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::intention::Decision;
use lictor_model::node::Node;
use lictor_model::service::{Definition, Service};
use lictor_state::writer::{Registration, Removal};
use lictor_state::{Reader, Writer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::house::{House, PATIENCE, Wishes};

/// What a test does at the moments that matter.
struct Between {
    standing: Standing,
    /// A registration of the service `slow` says that it has come, and waits until it may go on.
    slow: Arc<(Semaphore, Semaphore)>,
    /// A removal of the check `c` likewise.
    slow_removal: Arc<(Semaphore, Semaphore)>,
    /// Done whenever somebody begins to read.
    at_read: AtRead,
}

type AtRead = Arc<dyn Fn() + Send + Sync>;

fn gate() -> Arc<(Semaphore, Semaphore)> {
    Arc::new((Semaphore::new(0), Semaphore::new(0)))
}

impl Cluster for Between {
    fn caller(&self, secret: &str) -> Result<Caller, Error> {
        self.standing.caller(secret)
    }

    fn acls_enabled(&self) -> bool {
        self.standing.acls_enabled()
    }

    fn reader(&self, caller: &Caller) -> Reader {
        (self.at_read)();
        self.standing.reader(caller)
    }

    fn register<'a>(&'a self, author: &'a Author, registration: Registration) -> Soon<'a, ()> {
        let is_slow = registration.service.as_ref().is_some_and(|service| service.name.as_str() == "slow");
        Box::pin(async move {
            if is_slow {
                self.slow.0.add_permits(1);
                self.slow.1.acquire().await.unwrap().forget();
            }
            self.standing.register(author, registration).await
        })
    }

    fn deregister<'a>(&'a self, author: &'a Author, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        let is_slow = removal == Removal::Check("c".into());
        Box::pin(async move {
            if is_slow {
                self.slow_removal.0.add_permits(1);
                self.slow_removal.1.acquire().await.unwrap().forget();
            }
            self.standing.deregister(author, node, removal).await
        })
    }

    fn decide<'a>(
        &'a self,
        asking: &'a Caller,
        secret: &'a str,
        source: (&'a str, &'a str),
        target: &'a str,
    ) -> Soon<'a, Decision> {
        self.standing.decide(asking, secret, source, target)
    }
}

async fn house(slow: &Arc<(Semaphore, Semaphore)>, slow_removal: &Arc<(Semaphore, Semaphore)>) -> House {
    let (slow, slow_removal) = (Arc::clone(slow), Arc::clone(slow_removal));
    let between = move |standing, _| -> Arc<dyn Cluster> {
        Arc::new(Between { standing, slow, slow_removal, at_read: Arc::new(|| {}) })
    };
    House::with(Wishes { between: Some(Box::new(between)), ..Wishes::default() }).await
}

impl House {
    /// Ids and states of the node's checks in the catalog.
    async fn checks(&self, node: &str) -> Vec<(String, String)> {
        let found = self.get(&format!("/v1/health/node/{node}")).await.json();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(|check| (text(&check["CheckID"]), text(&check["Status"]))).collect()
    }

    async fn until_checks(&self, what: &str, are: impl Fn(&[(String, String)]) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let checks = self.checks("n1").await;
            if are(&checks) {
                return;
            }
            assert!(Instant::now() < end, "never {what}: {checks:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn arrived(gate: &(Semaphore, Semaphore)) {
    tokio::time::timeout(PATIENCE, gate.0.acquire()).await.unwrap().unwrap().forget();
}

fn is_there(id: &str) -> impl Fn(&[(String, String)]) -> bool {
    move |checks| checks.iter().any(|(check, _)| check == id)
}

#[tokio::test]
async fn a_check_that_is_removed_while_its_service_is_written_does_not_come_back() {
    let (slow, removal) = (gate(), gate());
    removal.1.add_permits(100);
    let house = house(&slow, &removal).await;
    let service = json!({"Name": "slow", "Check": {"CheckID": "c", "TTL": "1h"}});
    let register = house.put("/v1/agent/service/register", service);
    let remove = async {
        arrived(&slow).await;
        house.put("/v1/agent/check/deregister/c", serde_json::Value::Null).await;
        slow.1.add_permits(100);
    };
    tokio::join!(register, remove);
    house.until_checks("without the check", |checks| !is_there("c")(checks)).await;
}

#[tokio::test]
async fn a_check_that_is_registered_again_while_it_is_removed_is_there_in_the_end() {
    let (slow, removal) = (gate(), gate());
    let house = house(&slow, &removal).await;
    slow.1.add_permits(100);
    let service = |port: u16| json!({"Name": "slow", "Port": port, "Check": {"CheckID": "c", "TTL": "1h"}});
    house.put("/v1/agent/service/register", service(1)).await;
    let remove = house.put("/v1/agent/check/deregister/c", serde_json::Value::Null);
    let register = async {
        arrived(&removal).await;
        house.put("/v1/agent/service/register", service(2)).await;
    };
    let go_on = async {
        // The check is written with its service, since that changes too, before the removal gets there.
        let end = Instant::now() + PATIENCE;
        while house.get("/v1/catalog/service/slow").await.json()[0]["ServicePort"] != 2 {
            assert!(Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        removal.1.add_permits(100);
    };
    tokio::join!(remove, register, go_on);
    house.until_checks("with the check", is_there("c")).await;
}

#[tokio::test]
async fn what_a_client_registered_reaches_the_catalog_although_the_client_has_left() {
    let slow = gate();
    let house = house(&slow, &gate()).await;
    let body = json!({"Name": "slow", "Port": 1, "Connect": {"SidecarService": {}}}).to_string();
    let mut client = house.connect().await;
    let head = format!("PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all((head + &body).as_bytes()).await.unwrap();
    arrived(&slow).await;
    drop(client);
    // By the time others were answered, it is known that nobody waits any more.
    for _ in 0..3 {
        assert_eq!(house.get("/v1/agent/services").await.status, 200);
    }
    slow.1.add_permits(100);
    let end = Instant::now() + PATIENCE / 2;
    for name in ["slow", "slow-sidecar-proxy"] {
        while house.get(&format!("/v1/catalog/service/{name}")).await.text() == "[]" {
            assert!(Instant::now() < end, "{name} is here and not in the catalog");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn while_the_catalog_takes_what_a_reload_changed_what_is_here_can_be_read() {
    let slow = gate();
    let house = house(&slow, &gate()).await;
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 1})).await;
    let before = house.get("/v1/agent/service/web").await;
    let hash = before.header("X-Consul-Contenthash").unwrap().to_owned();
    let definition = |name: &str, port| Definition {
        service: Service { name: name.into(), port, ..Service::default() },
        ..Definition::default()
    };
    let services = vec![definition("web", 2), definition("slow", 3)];
    let reload = house.agent.reload(Reloadable { services, ..Reloadable::default() });
    let read = async {
        // One who waits for the change, one who comes when it is here and the catalog does not have it yet.
        let target = format!("/v1/agent/service/web?hash={hash}");
        let waited = house.get(&target).await;
        arrived(&slow).await;
        let came = house.get("/v1/agent/service/slow").await;
        slow.1.add_permits(100);
        (waited.json()["Port"].clone(), came.json()["Port"].clone())
    };
    let (done, read) = tokio::join!(reload, read);
    done.unwrap();
    assert_eq!(read, (json!(2), json!(3)));
}

#[tokio::test]
async fn a_report_that_comes_as_its_time_is_over_is_not_undone_by_that() {
    const TTL: Duration = Duration::from_millis(500);
    let house = House::new().await;
    house.put("/v1/agent/check/register", json!({"Name": "ttl", "TTL": "500ms"})).await;
    let mut stream = house.connect().await;
    let pass = b"PUT /v1/agent/check/pass/ttl HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let begun = Instant::now();
    let mut judged = 0;
    while judged < 10 && begun.elapsed() < PATIENCE {
        stream.write_all(pass).await.unwrap();
        headers(&mut stream).await;
        // All sleep here, and then the report is there and the time is over: whatever is looked at first, the report counts.
        stream.write_all(pass).await.unwrap();
        std::thread::sleep(TTL + Duration::from_millis(50));
        let woken = Instant::now();
        headers(&mut stream).await;
        let checks = house.get("/v1/agent/checks").await.json();
        if woken.elapsed() < TTL {
            assert_eq!(checks["ttl"]["Status"], "passing", "{checks}");
            judged += 1;
        }
    }
    assert!(judged > 0, "too slow to say anything");
}

/// Reads an answer that has no body.
async fn headers(stream: &mut TcpStream) {
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\n") {
        all.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(all.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_follows_what_changes_while_it_is_worked_out() {
    let writer = Arc::new(Mutex::new(None::<Writer>));
    let reads = Arc::new(Mutex::new(None::<u32>));
    let changed = Arc::new(AtomicBool::new(false));
    let at_read: AtRead = {
        let (writer, reads, changed) = (Arc::clone(&writer), Arc::clone(&reads), Arc::clone(&changed));
        Arc::new(move || {
            let mut reads = reads.lock().unwrap();
            let Some(left) = reads.as_mut() else { return };
            *left -= 1;
            if *left > 0 {
                return;
            }
            *reads = None;
            let writer = writer.lock().unwrap().clone().unwrap();
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(writer.register(far(Status::Critical))).unwrap();
            });
            changed.store(true, Ordering::Release);
        })
    };
    let between = {
        let writer = Arc::clone(&writer);
        move |standing, state: Writer| -> Arc<dyn Cluster> {
            *writer.lock().unwrap() = Some(state);
            Arc::new(Between { standing, slow: gate(), slow_removal: gate(), at_read })
        }
    };
    let house = House::with(Wishes { between: Some(Box::new(between)), ..Wishes::default() }).await;
    let writer = writer.lock().unwrap().clone().unwrap();
    writer.register(far(Status::Passing)).await.unwrap();
    let alias = json!({"Name": "alias", "AliasNode": "far", "AliasService": "web"});
    house.put("/v1/agent/check/register", alias).await;
    house.put("/v1/agent/check/register", json!({"Name": "ttl", "TTL": "1h"})).await;
    let state = |id: &'static str, wanted: &'static str| {
        move |checks: &[(String, String)]| checks.iter().any(|(check, state)| check == id && state == wanted)
    };
    house.until_checks("passing", state("alias", "passing")).await;
    // Each number of reads until the change is a moment at which it may come.
    for round in 1..=4 {
        changed.store(false, Ordering::Release);
        *reads.lock().unwrap() = Some(round);
        let mut verb = ["pass", "warn"].into_iter().cycle();
        let end = Instant::now() + PATIENCE;
        while !changed.load(Ordering::Acquire) {
            assert!(Instant::now() < end);
            house.put(&format!("/v1/agent/check/{}/ttl", verb.next().unwrap()), serde_json::Value::Null).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        house.until_checks("critical", state("alias", "critical")).await;
        writer.register(far(Status::Passing)).await.unwrap();
        house.until_checks("passing again", state("alias", "passing")).await;
    }
}

fn far(status: Status) -> Registration {
    let node = Node { name: "far".into(), address: "10.0.0.9".into(), ..Node::default() };
    let service = Service { id: "web".into(), name: "web".into(), ..Default::default() };
    let check = Check { id: "c".into(), name: "c".into(), service_id: "web".into(), status, ..Check::default() };
    Registration { node, service: Some(service), checks: vec![check], ..Registration::default() }
}
