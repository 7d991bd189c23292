//! Intentions: order, uniqueness, matching.

use lictor_model::intention::{Intention, Party};
use lictor_model::meta::Meta;
use lictor_model::revision::Revision;
use lictor_state::Topic;
use lictor_state::reader::MatchSide;

use crate::house::{House, SOON, everyone, refusal, uuid};

pub(crate) fn intention(n: u32, source: &str, destination: &str, action: &str) -> Intention {
    Intention {
        id: uuid(n),
        description: String::new(),
        source: Party::service(source),
        destination: Party::service(destination),
        source_type: "consul".into(),
        action: action.into(),
        default_addr: String::new(),
        default_port: 0,
        meta: Meta::new(),
        created_at: 1,
        updated_at: 1,
        created: Revision::ZERO,
        modified: Revision::ZERO,
    }
}

#[tokio::test]
async fn intentions_come_in_the_order_in_which_they_decide() {
    let house = House::new().await;
    for (n, source, destination) in [(1, "*", "*"), (2, "zz", "q"), (3, "*", "q"), (4, "aa", "q2"), (5, "mm", "*")] {
        house.writer.create_intention(intention(n, source, destination, "allow")).await.unwrap();
    }
    let reader = house.reader();
    let order = |list: Vec<std::sync::Arc<Intention>>| -> Vec<String> {
        list.iter().map(|row| format!("{}->{}", row.source.name, row.destination.name)).collect()
    };
    assert_eq!(order(reader.intentions().value), ["aa->q2", "zz->q", "*->q", "mm->*", "*->*"]);
    let matching = |side, name| order(reader.intentions_matching(side, "default", name).value);
    assert_eq!(matching(MatchSide::Destination, "Q"), ["zz->q", "*->q", "mm->*", "*->*"]);
    assert_eq!(matching(MatchSide::Source, "mm"), ["*->q", "mm->*", "*->*"]);
    assert_eq!(matching(MatchSide::Destination, "*"), ["mm->*", "*->*"]);
    assert!(reader.decide("default", "any", "default", "q").is_allowed());
}

#[tokio::test]
async fn one_pair_has_one_intention_whatever_its_spelling() {
    let house = House::new().await;
    house.writer.create_intention(intention(1, "web", "db", "allow")).await.unwrap();
    let why = refusal(house.writer.create_intention(intention(2, "WEB", "Db", "deny")).await);
    let first = format!("ALLOW default/web => default/db (ID: {}, Precedence: 9)", uuid(1));
    assert_eq!(why, format!("duplicate intention found: {first}"));
    house.writer.create_intention(intention(2, "api", "db", "deny")).await.unwrap();
    let why = refusal(house.writer.update_intention(&everyone(), intention(2, "web", "DB", "deny")).await);
    assert_eq!(why, format!("duplicate intention found: {first}"));
    // The same pair in another spelling, and then another pair, after which the first is free.
    house.writer.update_intention(&everyone(), intention(1, "Web", "db", "allow")).await.unwrap();
    house.writer.update_intention(&everyone(), intention(1, "cache", "db", "allow")).await.unwrap();
    house.writer.create_intention(intention(3, "web", "db", "deny")).await.unwrap();
    house.writer.delete_intention(&everyone(), &uuid(3)).await.unwrap();
    house.writer.create_intention(intention(4, "web", "db", "deny")).await.unwrap();
    assert!(!house.reader().decide("default", "web", "default", "db").is_allowed());
}

#[tokio::test]
async fn two_processes_cannot_create_the_same_pair() {
    let one = House::new().await;
    let two = House::over(one.store.clone()).await;
    let (first, second) = tokio::join!(
        one.writer.create_intention(intention(1, "web", "db", "allow")),
        two.writer.create_intention(intention(2, "web", "db", "deny"))
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test]
async fn an_updated_intention_keeps_when_it_was_created() {
    let house = House::new().await;
    house.writer.create_intention(intention(1, "web", "db", "allow")).await.unwrap();
    let reader = house.reader();
    let first = reader.intention(&uuid(1)).unwrap().value.unwrap();
    let update = Intention { created_at: 77, updated_at: 2, ..intention(1, "web", "db", "deny") };
    house.writer.update_intention(&everyone(), update).await.unwrap();
    let second = reader.intention(&uuid(1)).unwrap().value.unwrap();
    assert_eq!((second.created, second.created_at, second.updated_at), (first.created, 1, 2));
    assert!(second.modified > first.modified);
}

#[tokio::test]
async fn unknown_intentions_are_refused_by_name() {
    let house = House::new().await;
    let unknown = format!("Cannot modify non-existent intention: '{}'", uuid(9));
    assert_eq!(refusal(house.writer.delete_intention(&everyone(), &uuid(9)).await), unknown);
    assert_eq!(refusal(house.writer.update_intention(&everyone(), intention(9, "a", "b", "allow")).await), unknown);
    assert_eq!(
        refusal(house.writer.delete_intention(&everyone(), "x").await),
        "Intention lookup failed: failed intention lookup: index error: UUID must be 36 characters"
    );
    assert!(house.reader().intention(&uuid(9)).unwrap().value.is_none());
}

#[tokio::test]
async fn a_watcher_of_intentions_wakes_on_each_change() {
    let house = House::new().await;
    for step in 0..3 {
        let (reader, seen) = (house.reader(), house.reader().intentions().index);
        let blocked = tokio::spawn(async move { reader.changed(&[Topic::Intentions], seen).await });
        tokio::task::yield_now().await;
        match step {
            0 => house.writer.create_intention(intention(1, "a", "b", "allow")).await.unwrap(),
            1 => house.writer.update_intention(&everyone(), intention(1, "a", "b", "deny")).await.unwrap(),
            _ => house.writer.delete_intention(&everyone(), &uuid(1)).await.unwrap(),
        }
        tokio::time::timeout(SOON, blocked).await.expect("still asleep").unwrap();
    }
}
