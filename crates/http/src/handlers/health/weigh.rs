//! A workload whose instructions can be counted (docs/performance.md): the answer to a question for healthy instances.

use lictor_api::json::{self, Layout};
use lictor_model::health::Check;
use lictor_model::meta::Meta;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_state::reader::{NodeRow, ServiceRow};

use super::*;

/// Only what happens in here is counted.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

/// An instance with what is usual: tags, metadata, a check of its node and one of its own.
fn instance(number: u64) -> Instance {
    let (created, modified) = (Revision(10 + number), Revision(1000 + number));
    let name = format!("node-{number}");
    let meta = |key: &str| Some(Meta::from([(key.to_owned(), format!("value of {key}"))]));
    let node = Node {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        name: name.as_str().into(),
        address: format!("10.1.{}.{}", number / 250, number % 250),
        tagged_addresses: Some([("lan".to_owned(), "10.1.0.1".to_owned())].into()),
        meta: meta("rack"),
    };
    let service = Service {
        id: format!("web-{number}").as_str().into(),
        name: "web".into(),
        tags: Some(vec!["v1".to_owned(), "primary & <main>".to_owned()]),
        port: 8080,
        meta: meta("version"),
        ..Service::default()
    };
    let check = |id: &str, of: Option<&Service>| {
        let check = Check {
            node: name.as_str().into(),
            id: id.into(),
            name: "HTTP API on port 8080".to_owned(),
            status: Status::Passing,
            output: "HTTP GET http://127.0.0.1:8080/health: 200 OK Output: \"fine\"\n".to_owned(),
            service_id: of.map(|service| service.id.clone()).unwrap_or_default(),
            service_name: of.map(|service| service.name.clone()).unwrap_or_default(),
            ..Check::default()
        };
        Arc::new(CheckRow { check, created, modified })
    };
    let checks = vec![check("serfHealth", None), check("service:web", Some(&service))];
    Instance {
        node: Arc::new(NodeRow { node, created, modified }),
        service: Arc::new(ServiceRow { service, created, modified }),
        checks,
    }
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_a_health_answer_of_fifty_instances() {
    let instances: Vec<Instance> = (0..50).map(instance).collect();
    let text = measured(|| {
        let entries: Vec<_> = instances.iter().map(|instance| entry("dc1", instance)).collect();
        json::to_vec(&entries, Layout::Compact).unwrap()
    });
    let begins = b"\"Service\":{\"ID\"";
    assert_eq!(text.windows(begins.len()).filter(|window| window == begins).count(), 50);
}
