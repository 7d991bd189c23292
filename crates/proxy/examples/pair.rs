//! Two proxies in one process, for measuring the data path with tools from outside: `pair APP_PORT UPSTREAM_PORT`.
//!
//! Clients of `127.0.0.1:UPSTREAM_PORT` reach the application at `127.0.0.1:APP_PORT` through both proxies. Runs until
//! its input ends, then prints the processor seconds that it used.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for people at a terminal")]

#[path = "../../tls/tests/forge/mod.rs"]
mod forge;

use std::future::pending;
use std::io::Read;
use std::sync::Arc;

use lictor_api::agent::Service;
use lictor_model::identity::TrustDomain;
use lictor_model::intention::Action;
use lictor_model::revision::Revision;
use lictor_model::root::{IssuedLeaf, Root, Roots};
use lictor_proxy::control::{Authorized, Candidate, ControlError, ControlPlane, Fresh, Matched, Ranked, Ranking, Seen};
use lictor_proxy::{Config, Mode, Proxy};
use serde_json::{Value, json};

/// Says everything once.
struct Fixed {
    entry: Value,
    roots: Roots,
    leaf: IssuedLeaf,
    instances: Vec<Candidate>,
}

async fn once<T>(seen: &Seen, value: T) -> Result<Fresh<T>, ControlError> {
    match seen {
        Seen::Nothing => Ok(Fresh { value, seen: Seen::Index(1) }),
        _ => pending().await,
    }
}

impl ControlPlane for Fixed {
    async fn service(&self, _: &str, seen: &Seen) -> Result<Fresh<Service<'static>>, ControlError> {
        once(seen, serde_json::from_value(self.entry.clone()).unwrap()).await
    }

    async fn roots(&self, seen: &Seen) -> Result<Fresh<Roots>, ControlError> {
        once(seen, self.roots.clone()).await
    }

    async fn leaf(&self, _: &str, seen: &Seen) -> Result<Fresh<IssuedLeaf>, ControlError> {
        once(seen, self.leaf.clone()).await
    }

    async fn intentions(&self, _: &str, seen: &Seen) -> Result<Fresh<Matched>, ControlError> {
        once(seen, Matched { intentions: vec![], otherwise: Some(Action::Allow) }).await
    }

    async fn instances(&self, _: &str, _: &str, seen: &Seen) -> Result<Fresh<Vec<Candidate>>, ControlError> {
        once(seen, self.instances.clone()).await
    }

    async fn query(&self, _: &str, _: &str, seen: &Seen) -> Result<Fresh<Option<Ranked>>, ControlError> {
        once(seen, Some(Ranked { candidates: self.instances.clone(), ranking: Ranking::Alike })).await
    }

    async fn authorize(&self, _: &str, _: &str, _: &str) -> Result<Authorized, ControlError> {
        Ok(Authorized { allowed: true, reason: String::new() })
    }
}

fn fixed(authority: &forge::Authority, service: &str, entry: Value, instances: Vec<Candidate>) -> Arc<Fixed> {
    let issued = authority.leaf(service);
    let root = Root { cert_pem: authority.pem.clone(), active: true, ..Root::default() };
    Arc::new(Fixed {
        entry,
        roots: Roots { trust_domain: Some(TrustDomain::new(&authority.trust_domain)), roots: vec![root] },
        leaf: IssuedLeaf {
            serial_number: String::new(),
            cert_pem: issued.certificates,
            key_pem: issued.key,
            service: service.to_owned(),
            uri: issued.uri,
            valid_after: 0,
            valid_before: 0,
            revision: Revision(1),
        },
        instances,
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|port| port.parse::<u16>().unwrap());
    let (app, upstream) = (arguments.next().unwrap(), arguments.next().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let authority = forge::Authority::new("root");
        let public = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let db = fixed(
            &authority,
            "db",
            json!({"Kind": "connect-proxy", "Address": "127.0.0.1", "Port": public.port(),
                   "Proxy": {"DestinationServiceName": "db", "LocalServicePort": app}}),
            vec![],
        );
        let instance = Candidate {
            id: "db".into(),
            host: "127.0.0.1".into(),
            port: public.port(),
            datacenter: "dc1".into(),
            destination: Some("db".into()),
            weight: 1,
        };
        let web = fixed(
            &authority,
            "web",
            json!({"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web",
                   "Upstreams": [{"DestinationName": "db", "LocalBindPort": upstream}]}}),
            vec![instance],
        );
        let config = || Config::new(Mode::Agent { proxy_id: "p".into() });
        let proxies = [Proxy::start(config(), db).unwrap(), Proxy::start(config(), web).unwrap()];
        for proxy in &proxies {
            proxy.status().wait_for(lictor_proxy::Status::is_ready).await.unwrap();
        }
        println!("ready");
        // The input is read on a thread of its own, because it blocks.
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(ended);
        });
        let _ = end.await;
        for proxy in &proxies {
            let metrics = proxy.metrics();
            println!("{metrics:?}");
        }
    });
}
