//! Prepared queries: what they find, in which order, and when they find something else.

use std::net::IpAddr;

use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_model::query::{Failover, Query, Question, Template};
use lictor_state::answer::Answer;
use lictor_state::coordinate::{Coordinate, NodeCoordinate};
use lictor_state::reader::{Executed, Execution, Ranking};
use lictor_state::writer::Registration;

use crate::house::{House, SOON, With, check, node, proxy, refusal, service, uuid};

fn asking(n: u32, name: &str, question: Question) -> Query {
    Query { id: uuid(n), name: name.into(), service: question, ..Query::default() }
}

fn for_db() -> Question {
    Question { service: "db".into(), ..Question::default() }
}

fn texts(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|text| (*text).to_owned()).collect())
}

impl House {
    fn execute(&self, name: &str, execution: &Execution<'_>) -> Answer<Option<Executed>> {
        self.reader().execute(name, execution, &mut fastrand::Rng::with_seed(7)).unwrap()
    }

    /// The nodes that a query finds, in order.
    fn found(&self, name: &str, execution: &Execution<'_>) -> Vec<String> {
        let executed = self.execute(name, execution).value.unwrap();
        executed.instances.iter().map(|instance| instance.node.node.name.to_string()).collect()
    }

    fn found_sorted(&self, name: &str) -> Vec<String> {
        let mut found = self.found(name, &Execution::default());
        found.sort_unstable();
        found
    }
}

/// `db` on so many nodes, `n1` at 10.0.0.1 and so on, each a millisecond further from `n1` than the one before.
async fn with_nodes(count: u8) -> House {
    let house = House::new().await;
    for number in 1..=count {
        let node = Node { address: format!("10.0.0.{number}"), ..node(&format!("n{number}")) };
        house.register(Registration { node, ..Registration::default() }.with(service("db", "db"))).await;
        let mut coordinate = Coordinate::default();
        coordinate.vec[0] = f64::from(number) / 1000.0;
        let place = NodeCoordinate { node: format!("n{number}").into(), coordinate, ..NodeCoordinate::default() };
        house.writer.update_coordinates(&[place]).await.unwrap();
    }
    house
}

#[tokio::test]
async fn instances_are_ordered_by_their_distance_from_where_the_query_says() {
    let house = with_nodes(4).await;
    house.writer.create_query(asking(1, "near", Question { near: "n1".into(), ..for_db() })).await.unwrap();
    let nearest_first = ["n1", "n2", "n3", "n4"];
    assert_eq!(house.found("near", &Execution::default()), nearest_first);
    let found = house.execute("near", &Execution::default()).value.unwrap();
    assert_eq!((found.order, found.datacenter.as_str()), (Ranking::Nearest, "dc1"));
    let from = |near| Execution { near: Some(near), ..Execution::default() };
    assert_eq!(house.found("near", &from("n4")), ["n4", "n3", "n2", "n1"]);
    assert_eq!(house.found("near", &Execution { limit: 2, ..from("N3") }).first().unwrap(), "n3");
    let agent = Execution { agent_node: Some("n4"), limit: 1, ..from("_agent") };
    assert_eq!(house.found("near", &agent), ["n4"]);
    let source: IpAddr = "::ffff:10.0.0.2".parse().unwrap();
    assert_eq!(house.found("near", &Execution { source: Some(source), ..from("_ip") }).first().unwrap(), "n2");
    let nowhere = Execution { source: Some("192.0.2.1".parse().unwrap()), ..from("_ip") };
    assert_eq!(house.execute("near", &nowhere).value.unwrap().order, Ranking::Random);
}

#[tokio::test]
async fn a_node_with_a_slow_line_is_still_nearest_to_itself() {
    let house = with_nodes(2).await;
    let coordinate = Coordinate { height: 0.05, ..Coordinate::default() };
    let slow = NodeCoordinate { node: "n2".into(), coordinate, ..NodeCoordinate::default() };
    house.writer.update_coordinates(&[slow]).await.unwrap();
    house.writer.create_query(asking(1, "near", Question { near: "n2".into(), ..for_db() })).await.unwrap();
    assert_eq!(house.found("near", &Execution::default()), ["n2", "n1"]);
}

#[tokio::test]
async fn the_node_that_is_asked_from_comes_first_even_without_coordinates() {
    let house = House::new().await;
    for number in 1..=5 {
        house
            .register(
                Registration { node: node(&format!("n{number}")), ..Registration::default() }.with(service("db", "db")),
            )
            .await;
    }
    house.writer.create_query(asking(1, "q", Question { near: "n5".into(), ..for_db() })).await.unwrap();
    assert_eq!(house.found("q", &Execution::default())[0], "n5");
    assert_eq!(house.execute("q", &Execution::default()).value.unwrap().order, Ranking::Nearest);
}

#[tokio::test]
async fn without_a_place_to_be_near_to_the_order_is_another_each_time() {
    let house = with_nodes(6).await;
    house.writer.create_query(asking(1, "q", for_db())).await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let executed = house.reader().execute("q", &Execution::default(), &mut random).unwrap().value.unwrap();
        assert_eq!((executed.order, executed.instances.len()), (Ranking::Random, 6));
        orders.insert(executed.instances.iter().map(|one| one.node.node.name.to_string()).collect::<Vec<_>>());
    }
    assert!(orders.len() > 10, "{orders:?}");
}

#[tokio::test]
async fn health_counts_unless_the_check_is_ignored() {
    let house = House::new().await;
    let on = |number: u8, status| {
        Registration { node: node(&format!("n{number}")), ..Registration::default() }
            .with(service("db", "db"))
            .and(check("alive", "db", status))
    };
    for (number, status) in [(1, Status::Passing), (2, Status::Warning), (3, Status::Critical)] {
        house.register(on(number, status)).await;
    }
    let questions = [
        ("all", for_db(), &["n1", "n2"][..]),
        ("passing", Question { only_passing: true, ..for_db() }, &["n1"]),
        ("any", Question { ignore_check_ids: texts(&["alive"]), ..for_db() }, &["n1", "n2", "n3"]),
    ];
    for (number, (name, question, expected)) in (1..).zip(questions) {
        house.writer.create_query(asking(number, name, question)).await.unwrap();
        assert_eq!(house.found_sorted(name), expected, "{name}");
    }
}

#[tokio::test]
async fn the_mesh_side_is_found_when_the_query_or_who_executes_it_wants_it() {
    let house = House::new().await;
    let on = |name: &str| Registration { node: node(name), ..Registration::default() };
    house.register(on("n1").with(service("db", "db"))).await;
    house.register(on("n2").with(proxy("db-proxy", "db"))).await;
    house.writer.create_query(asking(1, "plain", for_db())).await.unwrap();
    house.writer.create_query(asking(2, "mesh", Question { connect: true, ..for_db() })).await.unwrap();
    assert_eq!(house.found_sorted("plain"), ["n1"]);
    assert_eq!(house.found_sorted("mesh"), ["n2"]);
    assert_eq!(house.found("plain", &Execution { connect: true, ..Execution::default() }), ["n2"]);
}

#[tokio::test]
async fn datacenters_that_nobody_knows_are_no_failover() {
    let house = House::new().await;
    let failover = Failover { nearest: 2, datacenters: texts(&["dc9", "dc1"]) };
    house.writer.create_query(asking(1, "q", Question { failover, ..for_db() })).await.unwrap();
    let found = house.execute("q", &Execution::default()).value.unwrap();
    assert!(found.instances.is_empty());
    assert_eq!((found.failovers, found.datacenter.as_str()), (0, "dc1"));
}

#[tokio::test]
async fn a_name_leads_to_the_longest_template_and_an_id_to_none() {
    let house = House::new().await;
    let template = |n, name: &str, service: &str| {
        let question = Question { service: service.into(), ..Question::default() };
        let template = Template { kind: Template::NAME_PREFIX.into(), ..Template::default() };
        Query { template, ..asking(n, name, question) }
    };
    let asked = |name: &str| house.execute(name, &Execution::default()).value.unwrap().service;
    for query in
        [template(1, "", "all-${name.full}"), template(2, "geo-", "${name.suffix}"), asking(3, "geo-x", for_db())]
    {
        house.writer.create_query(query).await.unwrap();
    }
    assert_eq!(asked("Other"), "all-Other");
    assert_eq!(asked("GEO-Web"), "Web");
    assert_eq!(asked("geo-X"), "db");
    assert_eq!(asked("geo-xy"), "xy", "a longer prefix that is no template is none");
    let by_id = house.reader().execute(&uuid(2), &Execution::default(), &mut fastrand::Rng::new());
    assert_eq!(refusal(by_id), "prepared query templates can only be resolved up by name, not by ID");
    let second = house.writer.create_query(template(4, "", "x")).await;
    assert_eq!(refusal(second), "a query template with an empty name already exists");
}

#[tokio::test]
async fn an_execution_is_told_of_each_change_of_its_result() {
    let house = with_nodes(1).await;
    let missing = house.execute("q", &Execution::default());
    assert!(missing.value.is_none());
    let reader = house.reader();
    let created = reader.changed(&missing.topics, missing.index);
    house.writer.create_query(asking(1, "q", for_db())).await.unwrap();
    tokio::time::timeout(SOON, created).await.unwrap();
    let before = house.execute("q", &Execution::default());
    assert!(before.index > missing.index);
    let changed = reader.changed(&before.topics, before.index);
    let sick = Registration { node: node("n1"), ..Registration::default() }.and(check("c", "db", Status::Critical));
    house.register(sick).await;
    tokio::time::timeout(SOON, changed).await.unwrap();
    let after = house.execute("q", &Execution::default());
    assert!(after.index > before.index && after.value.unwrap().instances.is_empty());
}
