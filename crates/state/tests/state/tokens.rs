//! Tokens and policies: who gets which rights, what is refused, and that nothing stale is answered.

use lictor_model::acl::{Access, Caller, Enforcement, Realm, Resource};
use lictor_model::intention::Action;
use lictor_model::query::{Query, Question};
use lictor_model::token::{ANONYMOUS_SECRET, ANONYMOUS_TOKEN, MANAGEMENT_POLICY, Policy, PolicyLink, Token, TokenKind};
use lictor_state::reader::Execution;
use lictor_state::tokens::Acl;
use lictor_state::{Config, Error, State};
use lictor_store::Store;
use lictor_task::Scope;

use crate::house::{House, SOON, With, only, refusal, service, uuid};

fn config(default_policy: Action) -> Config {
    let acl = Acl { default_policy, enforcement: Enforcement::Full };
    Config { datacenter: "dc1".into(), acl: Some(acl) }
}

async fn house() -> House {
    let house = House::configured(Store::memory(), config(Action::Deny)).await;
    house.writer.supply_acl(master("root"), 1).await.unwrap();
    house
}

fn master(secret: &str) -> Token {
    Token {
        accessor: uuid(900),
        secret: secret.into(),
        description: "Master Token".into(),
        policies: Some(vec![link(MANAGEMENT_POLICY)]),
        kind: TokenKind::Management,
        ..Token::default()
    }
}

fn link(id: &str) -> PolicyLink {
    PolicyLink { id: id.into(), name: String::new() }
}

fn named(name: &str) -> PolicyLink {
    PolicyLink { id: String::new(), name: name.into() }
}

fn policy(n: u32, name: &str, rules: &str) -> Policy {
    Policy { id: uuid(n), name: name.into(), rules: rules.into(), ..Policy::default() }
}

fn token(n: u32, secret: &str, policies: &[PolicyLink]) -> Token {
    Token {
        accessor: uuid(n),
        secret: secret.into(),
        policies: Some(policies.to_vec()),
        created_at: 5,
        ..Token::default()
    }
}

fn may_write(house: &House, secret: &str, service: &str) -> bool {
    house.state.caller(secret).unwrap().writes_service(service)
}

#[tokio::test]
async fn secrets_become_callers_with_the_rights_of_their_policies() {
    let house = house().await;
    house.writer.create_policy(policy(1, "web", r#"service "web" { policy = "write" }"#)).await.unwrap();
    house.writer.create_policy(policy(2, "far", r#"service "far" { policy = "write" }"#)).await.unwrap();
    let far =
        Policy { datacenters: Some(vec!["dc2".into()]), ..policy(2, "far", r#"service "far" { policy = "write" }"#) };
    house.writer.update_policy(far).await.unwrap();
    let written =
        house.writer.create_token(token(3, "s3", &[named("WEB"), link(&uuid(2)), link(&uuid(1))])).await.unwrap();
    let links: Vec<(String, String)> = written.policies.unwrap().into_iter().map(|link| (link.id, link.name)).collect();
    assert_eq!(links, [(uuid(1), "web".into()), (uuid(2), "far".into())]);
    assert!(may_write(&house, "s3", "web"));
    assert!(!may_write(&house, "s3", "far"), "that policy counts elsewhere");
    assert!(may_write(&house, "root", "anything"));
    assert!(house.state.caller("root").unwrap().may_in(Access::Write, Realm::Acl));
    assert!(!may_write(&house, "", "web") && !may_write(&house, ANONYMOUS_SECRET, "web"));
    assert!(matches!(house.state.caller("s4"), Err(Error::UnknownToken)));
    assert!(matches!(house.state.caller("web"), Err(Error::UnknownToken)));
    for root in ["allow", "deny", "manage"] {
        assert_eq!(refusal(house.state.caller(root)), "Cannot resolve root ACL");
    }
}

#[tokio::test]
async fn a_change_of_a_token_or_a_policy_counts_at_once() {
    let house = house().await;
    house.writer.create_policy(policy(1, "p", r#"service "web" { policy = "write" }"#)).await.unwrap();
    house.writer.create_token(token(3, "s3", &[named("p")])).await.unwrap();
    assert!(may_write(&house, "s3", "web"));
    house.writer.update_policy(policy(1, "p", r#"service "web" { policy = "read" }"#)).await.unwrap();
    assert!(!may_write(&house, "s3", "web"));
    house.writer.update_policy(policy(1, "p", r#"service "web" { policy = "write" }"#)).await.unwrap();
    assert!(may_write(&house, "s3", "web"));
    house.writer.delete_policy(&uuid(1)).await.unwrap();
    assert!(!may_write(&house, "s3", "web"));
    let gone = house.reader().token(&uuid(3)).unwrap().value.unwrap();
    assert_eq!(gone.policies, Some(vec![]), "it names what is gone no more");
    house.writer.delete_token(&uuid(3)).await.unwrap();
    assert!(matches!(house.state.caller("s3"), Err(Error::UnknownToken)));
    house.writer.delete_token(&uuid(3)).await.unwrap();
}

#[tokio::test]
async fn what_there_always_is_is_made_once() {
    let store = Store::memory();
    let first = House::configured(store.clone(), config(Action::Deny)).await;
    first.writer.supply_acl(master("root"), 1).await.unwrap();
    let index = first.reader().current();
    first.writer.supply_acl(Token { accessor: uuid(901), ..master("root") }, 2).await.unwrap();
    assert_eq!(first.reader().current(), index, "nothing was missing");
    first.writer.supply_acl(Token { accessor: uuid(902), ..master("other") }, 2).await.unwrap();
    let accessors: Vec<String> =
        first.reader().tokens(None).unwrap().value.into_iter().map(|token| token.accessor).collect();
    assert_eq!(accessors, [ANONYMOUS_TOKEN.to_owned(), uuid(900), uuid(902)]);
    let again = House::configured(store, config(Action::Deny)).await;
    assert!(may_write(&again, "root", "web") && may_write(&again, "other", "web"));
}

#[tokio::test]
async fn the_first_token_is_given_once_and_again_after_a_reset() {
    let house = house().await;
    let first = house.writer.bootstrap_acl(token(1, "b1", &[link(MANAGEMENT_POLICY)]), None).await.unwrap();
    assert_eq!(first.policies.unwrap()[0].name, "global-management");
    let index = match house.writer.bootstrap_acl(token(2, "b2", &[]), None).await {
        Err(Error::Bootstrapped(index)) => index,
        other => panic!("{other:?}"),
    };
    assert_eq!(index, first.modified);
    let wrong = house.writer.bootstrap_acl(token(2, "b2", &[]), Some(index.0 + 1)).await;
    assert_eq!(
        refusal(wrong),
        format!("Invalid bootstrap reset index (specified {}, reset index: {index})", index.0 + 1)
    );
    house.writer.bootstrap_acl(token(2, "b2", &[link(MANAGEMENT_POLICY)]), Some(index.0)).await.unwrap();
    assert!(may_write(&house, "b1", "web") && may_write(&house, "b2", "web"));
    let used = house.writer.bootstrap_acl(token(4, "b4", &[]), Some(index.0)).await;
    assert!(refusal(used).starts_with("Invalid bootstrap reset index"), "a number is good for one reset");
}

#[tokio::test]
async fn policies_are_refused_with_the_texts_clients_know() {
    let house = house().await;
    let create = |policy| house.writer.create_policy(policy);
    assert_eq!(refusal(create(policy(1, "", "")).await), "Invalid Policy: no Name is set");
    let name = "Invalid Policy: invalid Name. Only alphanumeric characters, '-' and '_' are allowed";
    for bad in ["a b", "ü", &"x".repeat(129)] {
        assert_eq!(refusal(create(policy(1, bad, "")).await), name);
    }
    assert!(refusal(create(policy(1, "a", "service \"a\" {}")).await).starts_with("Invalid service policy: "));
    assert!(refusal(create(policy(1, "a", "{{{")).await).starts_with("Failed to parse ACL rules: At 1:"));
    create(policy(1, "one", "")).await.unwrap();
    create(policy(2, "two", "")).await.unwrap();
    assert_eq!(
        refusal(create(policy(3, "ONE", "")).await),
        "Invalid Policy: A Policy with Name \"ONE\" already exists"
    );
    let update = |policy| house.writer.update_policy(policy);
    assert_eq!(
        refusal(update(policy(2, "one", "")).await),
        "Invalid Policy: A policy with name \"one\" already exists"
    );
    assert_eq!(refusal(update(policy(9, "x", "")).await), format!("cannot find policy {}", uuid(9)));
    let changed = Policy { id: MANAGEMENT_POLICY.into(), name: "global-management".into(), ..Policy::default() };
    assert_eq!(
        refusal(update(changed).await),
        "Changing the Rules for the builtin global-management policy is not permitted"
    );
    let built_in = house.reader().policy(MANAGEMENT_POLICY).unwrap().value.unwrap();
    let elsewhere = Policy { datacenters: Some(vec!["dc2".into()]), ..Policy::clone(&built_in) };
    assert_eq!(
        refusal(update(elsewhere).await),
        "Changing the Datacenters of the builtin global-management policy is not permitted"
    );
    update(Policy { name: "all".into(), ..Policy::clone(&built_in) }).await.unwrap();
    assert_eq!(
        refusal(house.writer.delete_policy(MANAGEMENT_POLICY).await),
        "Delete operation not permitted on the builtin global-management policy"
    );
    create(policy(4, "global-management", "")).await.unwrap();
}

#[tokio::test]
async fn tokens_are_refused_with_the_texts_clients_know() {
    let house = house().await;
    assert_eq!(
        refusal(house.writer.create_token(token(1, "s", &[named("nope")])).await),
        "No such ACL policy with name \"nope\""
    );
    let dropped = house.writer.create_token(token(1, "s", &[link(&uuid(77))])).await.unwrap();
    assert_eq!(dropped.policies, Some(vec![]), "an id that does not exist is left out");
    let none = house.writer.create_token(token(2, "s2", &[])).await.unwrap();
    assert_eq!(none.policies, None);
    let update = |token| house.writer.update_token(token);
    assert_eq!(refusal(update(token(9, "", &[])).await), format!("Cannot find token {:?}", uuid(9)));
    assert_eq!(refusal(update(token(1, "other", &[])).await), "Changing a tokens SecretID is not permitted");
    let local = Token { local: true, ..token(1, "s", &[]) };
    assert_eq!(refusal(update(local).await), format!("cannot toggle local mode of {}", uuid(1)));
    let kept = update(Token { description: "d".into(), created_at: 99, ..token(1, "", &[]) }).await.unwrap();
    assert_eq!((kept.secret.as_str(), kept.created_at, kept.description.as_str()), ("s", 5, "d"));
    assert_eq!(kept.created, dropped.created);
    assert!(kept.modified > dropped.modified && kept.hash != dropped.hash);
    assert_eq!(
        refusal(house.writer.delete_token(ANONYMOUS_TOKEN).await),
        "Delete operation not permitted on the anonymous token"
    );
}

#[tokio::test]
async fn secrets_are_shown_to_who_may_change_them() {
    let house = house().await;
    house.writer.create_policy(policy(1, "reader", r#"acl = "read""#)).await.unwrap();
    house.writer.create_token(token(2, "s2", &[named("reader")])).await.unwrap();
    let as_reader = house.state.reader(&house.state.caller("s2").unwrap());
    assert_eq!(as_reader.token(&uuid(900)).unwrap().value.unwrap().secret, "<hidden>");
    assert!(as_reader.tokens(None).unwrap().value.iter().all(|token| token.secret == "<hidden>"));
    assert!(matches!(as_reader.legacy_tokens(), Err(Error::Denied)));
    let as_root = house.state.reader(&house.state.caller("root").unwrap());
    assert_eq!(as_root.token(&uuid(900)).unwrap().value.unwrap().secret, "root");
    assert_eq!(as_root.tokens(Some(&uuid(1))).unwrap().value.len(), 1);
    let nobody = house.state.reader(&house.state.caller("").unwrap());
    assert!(matches!(nobody.tokens(None), Err(Error::Denied)));
    assert!(matches!(nobody.token(&uuid(2)), Err(Error::Denied)));
    assert!(matches!(nobody.policies(), Err(Error::Denied)));
    assert!(matches!(nobody.policy(&uuid(1)), Err(Error::Denied)));
    assert!(refusal(as_root.token("short")).ends_with("index error: UUID must be 36 characters"));
}

#[tokio::test]
async fn tokens_of_the_older_form_have_rules_of_their_own() {
    let house = house().await;
    let old = |secret: &str, rules: &str, kind| Token {
        accessor: uuid(50),
        secret: secret.into(),
        rules: rules.into(),
        kind,
        ..Token::default()
    };
    house.writer.put_legacy_token(old("mine", r#"service "" { policy = "write" }"#, TokenKind::Client)).await.unwrap();
    assert!(may_write(&house, "mine", "web") && !house.state.caller("mine").unwrap().writes_node("n1"));
    house.writer.put_legacy_token(old("mine", "", TokenKind::Client)).await.unwrap();
    assert!(!may_write(&house, "mine", "web"));
    house.writer.put_legacy_token(old("mine", "", TokenKind::Management)).await.unwrap();
    assert!(house.state.caller("mine").unwrap().may_in(Access::Write, Realm::Acl));
    let shown = house.reader().token(&uuid(50)).unwrap().value.unwrap();
    assert_eq!(shown.policies.unwrap()[0].name, "global-management");
    let bad = house.writer.put_legacy_token(old("x", "key \"\" { policy = \"fly\" }", TokenKind::Client)).await;
    assert!(refusal(bad).starts_with("ACL rule compilation failed: Invalid key policy: "));
    let newer = house.writer.put_legacy_token(old("root", "", TokenKind::Client)).await;
    assert_eq!(refusal(newer), "Cannot use legacy endpoint to modify a non-legacy token");
    let rules = r#"node "" { policy = "read" }"#;
    house.writer.put_legacy_token(old(ANONYMOUS_SECRET, rules, TokenKind::Client)).await.unwrap();
    assert!(house.state.caller("").unwrap().reads_node("n1"));
    assert_eq!(house.reader().legacy_tokens().unwrap().value.len(), 3);
}

#[tokio::test]
async fn two_tokens_never_get_the_same_chosen_secret() {
    let store = Store::memory();
    let one = House::configured(store.clone(), config(Action::Deny)).await;
    let other = House::configured(store, config(Action::Deny)).await;
    one.writer.supply_acl(Token::default(), 1).await.unwrap();
    let old = |n| Token { accessor: uuid(n), secret: "same".into(), kind: TokenKind::Client, ..Token::default() };
    let (first, second) = tokio::join!(one.writer.put_legacy_token(old(1)), other.writer.put_legacy_token(old(2)));
    first.unwrap();
    second.unwrap();
    let same = one.reader().legacy_tokens().unwrap().value.into_iter().filter(|token| token.secret == "same").count();
    assert_eq!(same, 1);
}

#[tokio::test]
async fn a_list_of_tokens_wakes_when_a_token_or_the_name_of_a_policy_changes() {
    let house = house().await;
    house.writer.create_policy(policy(1, "p", "")).await.unwrap();
    for change in 0..3 {
        let before = house.reader().tokens(None).unwrap();
        let reader = house.reader();
        let woken = reader.changed(&before.topics, before.index);
        let act = async {
            match change {
                0 => drop(house.writer.create_token(token(2, "s2", &[named("p")])).await.unwrap()),
                1 => drop(house.writer.update_policy(policy(1, "q", "")).await.unwrap()),
                _ => house.writer.delete_token(&uuid(2)).await.unwrap(),
            }
        };
        let both = async { tokio::join!(woken, act) };
        tokio::time::timeout(SOON, both).await.unwrap();
        assert!(house.reader().tokens(None).unwrap().index > before.index);
    }
    assert_eq!(house.reader().policies().unwrap().value[1].name, "q");
}

#[tokio::test]
async fn with_a_default_of_allow_only_denials_and_management_are_closed() {
    let house = House::configured(Store::memory(), config(Action::Allow)).await;
    house.writer.supply_acl(Token::default(), 1).await.unwrap();
    let nobody = house.state.caller("").unwrap();
    assert!(nobody.writes_service("web") && nobody.may_in(Access::Write, Realm::Operator));
    assert!(!nobody.may_in(Access::Read, Realm::Acl));
    house.writer.create_policy(policy(1, "p", r#"service "web" { policy = "deny" }"#)).await.unwrap();
    house.writer.create_token(token(2, "s2", &[named("p")])).await.unwrap();
    assert!(!may_write(&house, "s2", "web") && may_write(&house, "s2", "db"));
}

#[tokio::test]
async fn without_access_control_everyone_may_do_everything() {
    let house = House::new().await;
    assert!(house.state.caller("anything").unwrap().is_unrestricted());
    assert!(!house.state.acls_enabled());
}

#[tokio::test]
async fn a_query_is_executed_with_its_own_token_when_it_has_one() {
    let house = house().await;
    house.register(only("n1").with(service("web", "web"))).await;
    house
        .writer
        .create_policy(policy(1, "p", r#"node_prefix "" { policy = "read" } service "web" { policy = "read" }"#))
        .await
        .unwrap();
    house.writer.create_token(token(2, "s2", &[named("p")])).await.unwrap();
    let query = |n: u32, name: &str, token: &str| Query {
        id: uuid(n),
        name: name.into(),
        token: token.into(),
        service: Question { service: "web".into(), ..Question::default() },
        ..Query::default()
    };
    house.writer.create_query(query(10, "own", "s2")).await.unwrap();
    house.writer.create_query(query(11, "bare", "")).await.unwrap();
    house.writer.create_query(query(12, "stale", "gone")).await.unwrap();
    let found = |caller: &Caller, name: &str| {
        let mut random = fastrand::Rng::with_seed(1);
        let executed = house.state.reader(caller).execute(name, &Execution::default(), &mut random);
        executed.map(|answer| answer.value.unwrap().instances.len())
    };
    let nobody = house.state.caller("").unwrap();
    assert_eq!(found(&nobody, "own").unwrap(), 1);
    assert_eq!(found(&nobody, "bare").unwrap(), 0);
    let root = house.state.caller("root").unwrap();
    assert_eq!(found(&root, "bare").unwrap(), 1);
    assert!(matches!(found(&root, "stale"), Err(Error::UnknownToken)));
}

#[tokio::test]
async fn rights_on_nodes_and_services_can_be_left_open_as_before_version_8() {
    let acl = Acl { default_policy: Action::Deny, enforcement: Enforcement::BeforeVersion8 };
    let scope = Scope::new("test");
    let config = Config { datacenter: "dc1".into(), acl: Some(acl) };
    let (state, _) = State::open(Store::memory(), config, &scope).await.unwrap();
    let nobody = state.caller("").unwrap();
    assert!(nobody.writes_service("web") && !nobody.may(Access::Read, Resource::Key, "k"));
    assert!(matches!(state.caller("unknown"), Err(Error::UnknownToken)));
}
