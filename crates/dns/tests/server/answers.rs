//! Record for record: what each kind of name gives.

use std::collections::BTreeMap;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::RecordType::{A, AAAA, ANY, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use lictor_dns::Soa;
use lictor_model::health::Status;
use lictor_model::service::{Service, Weights};

use crate::world::{World, config, proxy_for, question_with_edns, service};

#[tokio::test]
async fn a_service_is_its_healthy_instances() {
    let world = World::new().await;
    let tagged = |name: &str| Some(vec![name.to_owned()]);
    let main = Service { tags: tagged("main"), ..service("db", 5001) };
    world.instance("n1", "10.0.0.1", main, Status::Passing).await;
    world.instance("n2", "10.0.0.2", service("db", 5002), Status::Critical).await;
    let v1 = Service { tags: tagged("V1.2"), ..service("db", 5003) };
    world.instance("n3", "10.0.0.3", v1, Status::Warning).await;

    let both = ["db.service.consul. 0 A 10.0.0.1", "db.service.consul. 0 A 10.0.0.3"];
    assert_eq!(world.ask("db.service.consul.", A).await.answers(), both);
    assert_eq!(world.ask("db.service.consul.", ANY).await.answers(), both);
    assert_eq!(world.ask("db.service.dc1.consul.", A).await.answers().len(), 2);
    let answer = world.ask("db.service.consul.", SRV).await;
    assert_eq!(
        answer.answers(),
        [
            "db.service.consul. 0 SRV 1 1 5001 n1.node.dc1.consul.",
            "db.service.consul. 0 SRV 1 1 5003 n3.node.dc1.consul.",
        ]
    );
    assert_eq!(answer.additionals(), ["n1.node.dc1.consul. 0 A 10.0.0.1", "n3.node.dc1.consul. 0 A 10.0.0.3"]);
    assert!(answer.0.metadata.authoritative && !answer.0.metadata.recursion_available);

    assert_eq!(world.ask("main.db.service.consul.", A).await.answers().len(), 1);
    assert_eq!(world.ask("v1.2.db.service.consul.", A).await.answers().len(), 1);
    assert_eq!(world.ask("_db._tcp.service.consul.", SRV).await.answers().len(), 2);
    assert_eq!(world.ask("_db._tcp.consul.", SRV).await.answers().len(), 2);
    assert_eq!(world.ask("_db._main.service.consul.", A).await.answers().len(), 1);
    world.ask("_db._udp.service.consul.", SRV).await.assert_no_such_name();
    world.ask("nosuch.db.service.consul.", A).await.assert_no_such_name();
    world.ask("none.service.consul.", SRV).await.assert_no_such_name();
    world.ask("db.service.consul.", AAAA).await.assert_empty();
    world.ask("db.service.consul.", MX).await.assert_empty();
    assert_eq!(world.ask("db.service.dc9.consul.", SRV).await.code(), ResponseCode::ServFail);
    assert!(world.ask("db.service.dc9.consul.", SRV).await.0.metadata.authoritative);
    world.stop().await;
}

#[tokio::test]
async fn the_spelling_of_the_question_comes_back() {
    let world = World::new().await;
    world.instance("n1", "10.0.0.1", service("WebApp", 80), Status::Passing).await;
    let answer = world.ask("webApp.SERVICE.consul.", A).await;
    assert_eq!(answer.answers(), ["webApp.SERVICE.consul. 0 A 10.0.0.1"]);
    world.stop().await;
}

#[tokio::test]
async fn a_sick_service_is_no_service() {
    let world = World::with(config(|config| config.only_passing = true)).await;
    world.instance("n1", "10.0.0.1", service("db", 1), Status::Critical).await;
    world.ask("db.service.consul.", A).await.assert_no_such_name();
    world.instance("n2", "10.0.0.2", service("db", 2), Status::Warning).await;
    world.ask("db.service.consul.", A).await.assert_no_such_name();
    world.instance("n3", "10.0.0.3", service("db", 3), Status::Passing).await;
    assert_eq!(world.ask("db.service.consul.", A).await.answers(), ["db.service.consul. 0 A 10.0.0.3"]);
    world.stop().await;
}

#[tokio::test]
async fn connect_names_lead_to_proxies_and_native_instances() {
    let world = World::new().await;
    world.instance("n1", "10.0.0.1", service("db", 5001), Status::Passing).await;
    world.ask("db.connect.consul.", A).await.assert_no_such_name();
    let proxy = Service { address: "10.0.0.77".into(), ..proxy_for("db", 9000) };
    world.instance("n1", "10.0.0.1", proxy, Status::Passing).await;
    assert_eq!(
        world.ask("foo.bar.db.connect.consul.", A).await.answers(),
        ["foo.bar.db.connect.consul. 0 A 10.0.0.77"]
    );
    for name in ["DB.Connect.consul.", "db-proxy.service.consul."] {
        let answer = world.ask(name, SRV).await;
        assert_eq!(answer.answers(), [format!("{name} 0 SRV 1 1 9000 0a00004d.addr.dc1.consul.")]);
        assert_eq!(answer.additionals(), ["0a00004d.addr.dc1.consul. 0 A 10.0.0.77"]);
    }
    world.instance("n2", "10.0.0.2", Service { native: true, ..service("nat", 7) }, Status::Passing).await;
    assert_eq!(
        world.ask("nat.connect.consul.", SRV).await.answers(),
        ["nat.connect.consul. 0 SRV 1 1 7 n2.node.dc1.consul."]
    );
    world.ask("none.connect.consul.", A).await.assert_no_such_name();
    assert_eq!(world.ask("db.connect.dc2.consul.", A).await.code(), ResponseCode::ServFail);
    world.stop().await;
}

#[tokio::test]
async fn weights_follow_health() {
    let world = World::new().await;
    let weighted = |port| Service { weights: Weights { passing: 10, warning: 3 }, ..service("db", port) };
    world.instance("n1", "10.0.0.1", weighted(1), Status::Passing).await;
    world.instance("n2", "10.0.0.2", weighted(2), Status::Warning).await;
    assert_eq!(
        world.ask("db.service.consul.", SRV).await.answers(),
        ["db.service.consul. 0 SRV 1 10 1 n1.node.dc1.consul.", "db.service.consul. 0 SRV 1 3 2 n2.node.dc1.consul.",]
    );
    world.stop().await;
}

#[tokio::test]
async fn an_ipv6_address_is_an_aaaa_record_and_spelled_in_targets() {
    let world = World::new().await;
    let six = Service { address: "2001:db8::6".into(), ..service("six", 80) };
    world.instance("n1", "10.0.0.1", six, Status::Passing).await;
    world.ask("six.service.consul.", A).await.assert_empty();
    assert_eq!(world.ask("six.service.consul.", AAAA).await.answers(), ["six.service.consul. 0 AAAA 2001:db8::6"]);
    let target = "20010db8000000000000000000000006.addr.dc1.consul.";
    let answer = world.ask("six.service.consul.", SRV).await;
    assert_eq!(answer.answers(), [format!("six.service.consul. 0 SRV 1 1 80 {target}")]);
    assert_eq!(answer.additionals(), [format!("{target} 0 AAAA 2001:db8::6")]);
    assert_eq!(world.ask(target, AAAA).await.answers(), [format!("{target} 0 AAAA 2001:db8::6")]);
    world.stop().await;
}

#[tokio::test]
async fn spelled_addresses_answer_the_matching_type_only() {
    let world = World::with(config(|config| config.node_ttl = Duration::from_secs(30))).await;
    let name = "0a010203.addr.dc1.consul.";
    assert_eq!(world.ask(name, A).await.answers(), [format!("{name} 30 A 10.1.2.3")]);
    assert_eq!(world.ask(name, ANY).await.answers(), [format!("{name} 30 A 10.1.2.3")]);
    world.ask(name, AAAA).await.assert_empty();
    world.ask("0a0102.addr.consul.", A).await.assert_empty();
    world.ask("zzzzzzzz.addr.consul.", A).await.assert_no_such_name();
    world.stop().await;
}

#[tokio::test]
async fn one_address_is_given_once_and_one_location_once() {
    let world = World::new().await;
    world.instance("n1", "10.0.0.1", service("db", 1), Status::Passing).await;
    world.instance("n1", "10.0.0.1", service("db", 2), Status::Passing).await;
    let twin = Service { id: "db-twin".into(), ..service("db", 2) };
    world.instance("n1", "10.0.0.1", twin, Status::Passing).await;
    assert_eq!(world.ask("db.service.consul.", A).await.answers().len(), 1);
    let answer = world.ask("db.service.consul.", SRV).await;
    assert_eq!((answer.answers().len(), answer.additionals().len()), (2, 1));
    world.stop().await;
}

#[tokio::test]
async fn the_order_changes_from_question_to_question() {
    let world = World::new().await;
    world.databases(6).await;
    let mut firsts = std::collections::HashSet::new();
    for _ in 0..200 {
        firsts.insert(world.ask("db.service.consul.", A).await.0.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 6);
    world.stop().await;
}

#[tokio::test]
async fn nodes_have_addresses_and_metadata() {
    let world = World::new().await;
    world.node("ext1", "10.1.2.3", &[("zone", "a"), ("rfc1035-x", "y")]).await;
    let name = "ext1.node.consul.";
    let (address, texts) =
        (format!("{name} 0 A 10.1.2.3"), [format!("{name} 0 TXT y"), format!("{name} 0 TXT zone=a")]);
    let answer = world.ask(name, A).await;
    assert_eq!((answer.answers(), answer.additionals()), (vec![address.clone()], texts.to_vec()));
    assert_eq!(world.ask(name, TXT).await.answers(), texts);
    let answer = world.ask(name, ANY).await;
    assert_eq!(answer.answers(), [&[address], &texts[..]].concat());
    assert!(answer.additionals().is_empty());
    let answer = world.ask(name, AAAA).await;
    answer.assert_empty();
    assert_eq!(answer.additionals(), texts);
    world.ask(name, SRV).await.assert_empty();
    world.ask("none.node.consul.", A).await.assert_no_such_name();
    assert_eq!(world.ask("ext1.node.dc9.consul.", A).await.code(), ResponseCode::ServFail);
    world.stop().await;
}

#[tokio::test]
async fn dns_knows_nodes_by_name_only() {
    let world = World::new().await;
    world.node("a.b", "10.0.0.9", &[]).await;
    assert_eq!(world.ask("A.b.node.consul.", A).await.answers(), ["A.b.node.consul. 0 A 10.0.0.9"]);
    world.ask("b.node.consul.", A).await.assert_no_such_name();
    world.stop().await;
}

#[tokio::test]
async fn metadata_beside_answers_can_be_left_out() {
    let world = World::new().await;
    world.instance("n1", "10.0.0.1", service("db", 1), Status::Passing).await;
    world.node("n1", "10.0.0.1", &[("k", "v")]).await;
    let srv = world.ask("db.service.consul.", SRV).await;
    assert_eq!(srv.additionals(), ["n1.node.dc1.consul. 0 A 10.0.0.1", "n1.node.dc1.consul. 0 TXT k=v"]);
    assert_eq!(world.ask("db.service.consul.", A).await.additionals(), ["db.service.consul. 0 TXT k=v"]);
    assert_eq!(world.ask("db.service.consul.", TXT).await.answers(), ["db.service.consul. 0 TXT k=v"]);
    let changed = config(|config| config.enable_additional_node_meta_txt = false);
    world.reload.replace(lictor_dns::Settings::new(changed).unwrap());
    let srv = world.ask("db.service.consul.", SRV).await;
    assert_eq!(srv.additionals(), ["n1.node.dc1.consul. 0 A 10.0.0.1"]);
    assert_eq!(world.ask("n1.node.consul.", TXT).await.answers(), ["n1.node.consul. 0 TXT k=v"]);
    world.stop().await;
}

#[tokio::test]
async fn times_to_live_are_as_configured() {
    let of = |key: &str, secs| (key.to_owned(), Duration::from_secs(secs));
    let world = World::with(config(|config| {
        config.node_ttl = Duration::from_secs(30);
        config.service_ttl = BTreeMap::from([of("*", 5), of("db", 7), of("db*", 9)]);
        config.soa = Soa { refresh: 1, retry: 2, expire: 3, min_ttl: 60 };
    }))
    .await;
    for (at, name) in ["db", "dbx", "zz", "consul"].into_iter().enumerate() {
        world.instance(&format!("n{at}"), &format!("10.0.0.{at}"), service(name, 1), Status::Passing).await;
    }
    for (name, ttl) in [("db", 7), ("dbx", 9), ("zz", 5)] {
        let answer = world.ask(&format!("{name}.service.consul."), SRV).await;
        assert_eq!((answer.0.answers[0].ttl, answer.0.additionals[0].ttl), (ttl, ttl), "{name}");
    }
    assert_eq!(world.ask("n0.node.consul.", A).await.0.answers[0].ttl, 30);
    assert_eq!(world.ask("consul.", NS).await.0.answers[0].ttl, 30);
    let soa = world.ask("consul.", SOA).await;
    assert_eq!(soa.0.answers[0].ttl, 60);
    assert!(soa.answers()[0].ends_with(" 1 2 3 60"), "{soa:?}");
    assert_eq!(world.ask("none.service.consul.", A).await.0.authorities[0].ttl, 60);
    world.stop().await;
}

#[tokio::test]
async fn the_zone_names_its_servers() {
    let world = World::new().await;
    world.ask("consul.", NS).await.assert_empty();
    for at in 1..=5 {
        world.instance(&format!("s{at}"), &format!("10.0.0.{at}"), service("consul", 8300), Status::Passing).await;
    }
    world.instance("bad_name", "10.0.0.9", service("consul", 8300), Status::Passing).await;
    for (name, kind) in [("consul.", NS), ("none.service.consul.", NS)] {
        let answer = world.ask(name, kind).await;
        assert_eq!((answer.answers().len(), answer.additionals().len()), (3, 3));
        assert!(answer.answers().iter().all(|line| line.starts_with("consul. 0 NS s")), "{answer:?}");
    }
    let answer = world.ask("s1.node.consul.", SOA).await;
    assert!(answer.answers()[0].starts_with("consul. 0 SOA ns.consul. hostmaster.consul. "), "{answer:?}");
    assert_eq!((answer.authorities().len(), answer.additionals().len()), (3, 3));
    world.stop().await;
}

#[tokio::test]
async fn names_that_mean_nothing_do_not_exist() {
    let world = World::new().await;
    for name in ["consul.", "nosuch.consul.", "a.b.nosuch.consul.", "service.consul.", "node.consul.", "query.consul."]
    {
        world.ask(name, A).await.assert_no_such_name();
    }
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(world.ask_tcp("consul.", kind).await.code(), ResponseCode::NotImp);
    }
    world.stop().await;
}

#[tokio::test]
async fn addresses_have_names() {
    let world = World::new().await;
    world.node("ext1", "10.1.2.3", &[]).await;
    world.node("six", "2001:db8::6", &[]).await;
    let own = Service { address: "10.9.9.9".into(), ..service("web", 80) };
    world.instance("ext1", "10.1.2.3", own, Status::Passing).await;
    for kind in [PTR, ANY, A] {
        let answer = world.ask("3.2.1.10.in-addr.arpa.", kind).await;
        assert_eq!(answer.answers(), ["3.2.1.10.in-addr.arpa. 0 PTR ext1.node.dc1.consul."]);
        assert!(answer.0.metadata.authoritative);
    }
    let six = format!("6.{}8.b.d.0.1.0.0.2.ip6.arpa.", "0.".repeat(23));
    assert_eq!(world.ask(&six, PTR).await.answers(), [format!("{six} 0 PTR six.node.dc1.consul.")]);
    let answer = world.ask("9.9.9.10.in-addr.arpa.", PTR).await;
    assert_eq!(answer.answers(), ["9.9.9.10.in-addr.arpa. 0 PTR web.service.consul."]);
    assert_eq!(world.ask("3.2.1.10.in-addr.arpa.", SOA).await.authorities().len(), 1);
    let public = world.ask("9.9.9.9.in-addr.arpa.", PTR).await.0.metadata;
    assert_eq!(public.response_code, ResponseCode::ServFail);
    assert!(public.recursion_available && !public.authoritative);
    assert_eq!(world.ask("1.1.168.192.in-addr.arpa.", PTR).await.code(), ResponseCode::NXDomain);
    world.stop().await;
}

#[tokio::test]
async fn prepared_queries_bring_their_own_ttl_and_scope() {
    let world = World::new().await;
    world.ask("q.query.consul.", A).await.assert_no_such_name();
    world.databases(1).await;
    assert_eq!(world.ask("Q.query.dc1.consul.", A).await.answers(), ["Q.query.dc1.consul. 11 A 10.0.0.1"]);
    assert_eq!(world.query_source(), Some([127, 0, 0, 1].into()));
    let srv = world.ask("q.query.consul.", SRV).await;
    assert_eq!(srv.answers(), ["q.query.consul. 11 SRV 1 1 5001 n1.node.dc1.consul."]);
    assert_eq!(srv.additionals(), ["n1.node.dc1.consul. 11 A 10.0.0.1"]);
    world.ask("none.query.consul.", A).await.assert_no_such_name();
    assert_eq!(world.ask("broken.query.consul.", A).await.code(), ResponseCode::ServFail);
    for (name, scope) in [("q.query.consul.", 24), ("none.query.consul.", 0), ("db.service.consul.", 0)] {
        let mut question = question_with_edns(name, A, 4096);
        let option = EdnsOption::Subnet(ClientSubnet::new([198, 51, 100, 0].into(), 24, 0));
        question.edns.as_mut().unwrap().options_mut().insert(option);
        let answer = world.ask_message(&question).await;
        let echoed = EdnsOption::Subnet(ClientSubnet::new([198, 51, 100, 0].into(), 24, scope));
        assert_eq!(answer.0.edns.unwrap().options().options[0].1, echoed, "{name}");
    }
    assert_eq!(world.query_source(), Some([198, 51, 100, 0].into()));
    world.stop().await;
}

#[tokio::test]
async fn host_names_are_aliases_and_followed_inside_the_zone() {
    let world = World::new().await;
    let at = |name: &str, address: &str| Service { address: address.into(), ..service(name, 80) };
    world.instance("n1", "10.0.0.1", at("web", "db.service.consul"), Status::Passing).await;
    world.instance("n2", "10.0.0.2", service("db", 5432), Status::Passing).await;
    let answer = world.ask("web.service.consul.", A).await;
    let expected = ["web.service.consul. 0 CNAME db.service.consul.", "db.service.consul. 0 A 10.0.0.2"];
    let in_order: Vec<String> =
        answer.0.answers.iter().map(|r| format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data)).collect();
    assert_eq!(in_order, expected);
    let answer = world.ask("web.service.consul.", SRV).await;
    assert_eq!(answer.answers(), ["web.service.consul. 0 SRV 1 1 80 n1.node.dc1.consul."]);
    assert_eq!(
        answer.additionals(),
        ["db.service.consul. 0 A 10.0.0.2", "n1.node.dc1.consul. 0 CNAME db.service.consul.",]
    );
    // Outside the zone and without recursors the alias stands alone; with an address beside it, it is left out.
    world.instance("n3", "10.0.0.3", at("ext", "www.example.com"), Status::Passing).await;
    assert_eq!(world.ask("ext.service.consul.", A).await.answers(), ["ext.service.consul. 0 CNAME www.example.com."]);
    world.instance("n4", "10.0.0.4", service("ext", 81), Status::Passing).await;
    assert_eq!(world.ask("ext.service.consul.", A).await.answers(), ["ext.service.consul. 0 A 10.0.0.4"]);
    world.stop().await;
}

#[tokio::test]
async fn aliases_in_circles_end() {
    let world = World::new().await;
    let at = |name: &str, address: &str| Service { address: address.into(), ..service(name, 80) };
    world.instance("n1", "10.0.0.1", at("me", "me.service.consul."), Status::Passing).await;
    assert_eq!(world.ask("me.service.consul.", A).await.answers(), ["me.service.consul. 0 A 10.0.0.1"]);
    world.instance("n2", "10.0.0.2", at("a", "b.service.consul"), Status::Passing).await;
    world.instance("n3", "10.0.0.3", at("b", "a.service.consul"), Status::Passing).await;
    let aliases = world.ask("a.service.consul.", A).await.answers();
    assert!(!aliases.is_empty() && aliases.len() <= 4, "{aliases:?}");
    world.stop().await;
}

#[tokio::test]
async fn an_alias_adds_five_records_at_most_without_edns() {
    let world = World::with(config(|config| config.udp_answer_limit = 8)).await;
    world.databases(9).await;
    let web = Service { address: "db.service.consul".into(), ..service("web", 80) };
    world.instance("w", "10.0.1.1", web, Status::Passing).await;
    assert_eq!(world.ask("web.service.consul.", A).await.answers().len(), 6);
    let answer = world.ask_message(&question_with_edns("web.service.consul.", A, 4096)).await;
    assert_eq!(answer.answers().len(), 10);
    world.stop().await;
}
