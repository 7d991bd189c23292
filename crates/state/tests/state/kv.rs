//! The key-value store: conditions, locks, lists and their indexes.

use std::time::Duration;

use bytes::Bytes;
use lictor_model::acl::{Access, Caller, Resource, Rules};
use lictor_model::intention::Action;
use lictor_model::revision::Revision;
use lictor_state::reader::KvRow;
use lictor_state::session::{Behavior, Session};
use lictor_state::writer::Put;
use lictor_state::{Error, Topic};

use crate::house::{House, SOON, only, refusal, uuid};

impl House {
    pub(crate) async fn put(&self, key: &str, value: &str, how: Put) -> bool {
        self.writer.put_key(key, Bytes::copy_from_slice(value.as_bytes()), 0, how).await.unwrap()
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        assert!(self.put(key, value, Put::Set).await);
    }

    pub(crate) fn get(&self, key: &str) -> Option<KvRow> {
        self.reader().kv(key).unwrap().value.map(|row| KvRow::clone(&row))
    }

    fn list_index(&self, prefix: &str) -> Revision {
        self.reader().kv_below(prefix).index
    }

    /// A session of node `n1` without checks and without delay.
    pub(crate) async fn session(&self, n: u32) -> Session {
        let node = self.reader().node("n1").value;
        if node.is_none() {
            self.register(only("n1")).await;
        }
        let session = Session { id: uuid(n), node: "n1".into(), ..Session::default() };
        self.writer.create_session(session.clone(), Duration::from_secs(10)).await.unwrap();
        session
    }
}

#[tokio::test]
async fn a_value_is_kept_with_its_flags_and_revisions() {
    let house = House::new().await;
    house.writer.put_key("a/ü\0b", Bytes::from_static(b"\xff\n"), u64::MAX, Put::Set).await.unwrap();
    let first = house.get("a/ü\0b").unwrap();
    assert_eq!((&first.value[..], first.flags, first.lock_index), (&b"\xff\n"[..], u64::MAX, 0));
    assert_eq!(first.created, first.modified);
    house.set("a/ü\0b", "").await;
    let second = house.get("a/ü\0b").unwrap();
    assert_eq!((second.flags, second.created), (0, first.created));
    assert!(second.modified > first.modified);
    house.set("a/ü\0b", "").await;
    assert!(house.get("a/ü\0b").unwrap().modified > second.modified, "each write counts, also of the same");
    assert_eq!(house.get("A/ü\0b"), None, "keys have case");
}

#[tokio::test]
async fn check_and_set_compares_the_revision() {
    let house = House::new().await;
    assert!(!house.put("a", "0", Put::Cas(Revision(7))).await);
    assert!(house.put("a", "1", Put::Cas(Revision::ZERO)).await);
    assert!(!house.put("a", "2", Put::Cas(Revision::ZERO)).await);
    let seen = house.get("a").unwrap().modified;
    assert!(house.put("a", "3", Put::Cas(seen)).await);
    assert!(!house.put("a", "4", Put::Cas(seen)).await);
    assert_eq!(house.get("a").unwrap().value, "3");
    let delete = async |only_at: u64| house.writer.delete_key("a", Some(Revision(only_at))).await.unwrap();
    assert!(!delete(0).await && !delete(seen.0).await);
    assert!(delete(house.get("a").unwrap().modified.0).await);
    assert!(delete(9).await, "what is not there counts as deleted");
}

#[tokio::test]
async fn of_many_who_check_and_set_at_once_one_wins() {
    let house = House::new().await;
    let two = House::over(house.store.clone()).await;
    let tries: Vec<_> = (0..40)
        .map(|n| {
            let writer = if n % 2 == 0 { house.writer.clone() } else { two.writer.clone() };
            tokio::spawn(async move { writer.put_key("a", Bytes::new(), n, Put::Cas(Revision::ZERO)).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for attempt in tries {
        winners += usize::from(attempt.await.unwrap());
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_counter_kept_by_check_and_set_loses_nothing() {
    let house = House::new().await;
    let two = House::over(house.store.clone()).await;
    house.set("n", "0").await;
    let count = async |house: &House| {
        let mut done = 0;
        while done < 25 {
            let row = house.get("n").unwrap();
            let next = String::from_utf8_lossy(&row.value).parse::<u32>().unwrap() + 1;
            done += u32::from(house.put("n", &next.to_string(), Put::Cas(row.modified)).await);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(count(&house), count(&two));
    assert_eq!(house.get("n").unwrap().value, "50");
}

#[tokio::test]
async fn a_lock_has_one_holder_at_a_time() {
    let house = House::new().await;
    let (a, b) = (house.session(1).await.id, house.session(2).await.id);
    let acquire = |id: &str| Put::Acquire(id.to_owned());
    let release = |id: &str| Put::Release(id.to_owned());
    assert!(house.put("l", "me", acquire(&a)).await);
    let row = house.get("l").unwrap();
    assert_eq!((row.lock_index, row.session.as_deref()), (1, Some(&*a)));
    assert!(!house.put("l", "you", acquire(&b)).await && !house.put("l", "you", release(&b)).await);
    assert!(house.put("l", "again", acquire(&a)).await);
    assert_eq!(house.get("l").unwrap().lock_index, 1, "whoever holds it does not lock it anew");
    house.set("l", "plain").await;
    let row = house.get("l").unwrap();
    assert_eq!((row.lock_index, row.session.as_deref()), (0, Some(&*a)));
    assert!(house.put("l", "free", release(&a)).await);
    let row = house.get("l").unwrap();
    assert_eq!((row.session, row.value), (None, Bytes::from("free")));
    assert!(house.put("l", "you", acquire(&b)).await);
    assert_eq!(house.get("l").unwrap().lock_index, 1);
}

#[tokio::test]
async fn a_lock_needs_a_session_that_exists() {
    let house = House::new().await;
    let lock = async |session: &str| {
        refusal(house.writer.put_key("l", Bytes::new(), 0, Put::Acquire(session.to_owned())).await)
    };
    assert_eq!(lock("zz").await, "failed session lookup: index error: UUID must be 36 characters");
    assert_eq!(lock(&uuid(9)).await, format!("invalid session \"{}\"", uuid(9)));
    assert_eq!(house.get("l"), None);
}

#[tokio::test]
async fn many_processes_never_hold_one_lock_together() {
    let one = House::new().await;
    let two = House::over(one.store.clone()).await;
    let (a, b) = (one.session(1).await.id, one.session(2).await.id);
    two.reader().catch_up().await.unwrap();
    for round in 0..30 {
        let key = format!("l{round}");
        let (first, second) =
            tokio::join!(one.put(&key, "", Put::Acquire(a.clone())), two.put(&key, "", Put::Acquire(b.clone())));
        assert!(first != second, "round {round}: {first} {second}");
    }
}

#[tokio::test]
async fn keys_are_listed_in_order_and_cut_at_the_separator() {
    let house = House::new().await;
    for key in ["web/a", "web/b/d", "web/b/c", "other", "web"] {
        house.set(key, key).await;
    }
    let reader = house.reader();
    let keys = |prefix, separator| reader.keys(prefix, separator).value;
    assert_eq!(keys("", ""), ["other", "web", "web/a", "web/b/c", "web/b/d"]);
    assert_eq!(keys("web/", "/"), ["web/a", "web/b/"]);
    assert_eq!(keys("", "/"), ["other", "web", "web/"]);
    assert_eq!(keys("none", "/"), Vec::<String>::new());
    let values: Vec<_> = reader.kv_below("web/b").value.iter().map(|row| row.value.clone()).collect();
    assert_eq!(values, ["web/b/c", "web/b/d"]);
    house.writer.delete_keys_below("web/").await.unwrap();
    assert_eq!(keys("", ""), ["other", "web"]);
    house.writer.delete_keys_below("").await.unwrap();
    assert_eq!(house.store.scan(b"state/kv/").await.unwrap().entries.len(), 0);
}

#[tokio::test]
async fn a_tree_of_any_size_is_deleted_at_one_revision() {
    let house = House::new().await;
    for n in 0..300 {
        house.set(&format!("tree/{n}"), "").await;
    }
    house.set("trees", "").await;
    let before = house.reader().current();
    house.writer.delete_keys_below("tree/").await.unwrap();
    assert_eq!(house.reader().current().0, before.0 + 1);
    assert_eq!(house.reader().keys("", "").value, ["trees"]);
}

#[tokio::test]
async fn the_index_of_a_list_moves_with_what_it_holds_and_with_what_vanished_from_it() {
    let house = House::new().await;
    house.set("a/1", "").await;
    house.set("a/2", "").await;
    let before = house.list_index("a/");
    assert_eq!(before, house.get("a/2").unwrap().modified);
    house.set("b", "").await;
    assert_eq!(house.list_index("a/"), before, "not below it");
    house.writer.delete_key("a/1", None).await.unwrap();
    let deleted = house.reader().current();
    house.set("b", "").await;
    assert_eq!(house.list_index("a/"), deleted);
    assert_eq!(house.reader().kv("a/1").unwrap().index, deleted);
    assert_eq!(house.list_index(""), house.reader().current());
    let again = House::over(house.store.clone()).await;
    assert!(again.list_index("a/") >= deleted, "who slept through the delete learns of it");
}

#[tokio::test]
async fn a_watcher_of_a_key_or_a_prefix_wakes_on_it_alone() {
    let house = House::new().await;
    house.set("a/1", "").await;
    let watch = |topic: Topic| {
        let reader = house.reader();
        let seen = match &topic {
            Topic::Key(key) => reader.kv(key).unwrap().index,
            Topic::KeyPrefix(prefix) => reader.kv_below(prefix).index,
            _ => unreachable!(),
        };
        tokio::spawn(async move { reader.changed(&[topic], seen).await })
    };
    let key = watch(Topic::Key("a/1".into()));
    let prefix = watch(Topic::KeyPrefix("a/".into()));
    let missing = watch(Topic::Key("none".into()));
    tokio::task::yield_now().await;
    for other in ["a", "b/1", "a0", "a/10"] {
        if other == "a/10" {
            assert!(!prefix.is_finished());
        }
        house.set(other, "").await;
    }
    tokio::time::timeout(SOON, prefix).await.expect("asleep").unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!key.is_finished() && !missing.is_finished());
    house.writer.delete_keys_below("a/").await.unwrap();
    tokio::time::timeout(SOON, key).await.expect("asleep").unwrap();
    house.set("none", "").await;
    tokio::time::timeout(SOON, missing).await.expect("asleep").unwrap();
}

#[tokio::test]
async fn a_caller_sees_the_keys_it_may_read() {
    let house = House::new().await;
    for key in ["pub/a", "pub/secret/b", "other"] {
        house.set(key, key).await;
    }
    let mut rules = Rules::default();
    rules.add_prefix(Resource::Key, "pub/", Access::Write);
    rules.add_prefix(Resource::Key, "pub/secret/", Access::Deny);
    let reader = house.state.reader(&Caller::with_rules("a", rules, Action::Deny));
    assert_eq!(reader.keys("", "").value, ["pub/a"]);
    assert_eq!(reader.kv_below("").value.len(), 1);
    assert!(matches!(reader.kv("pub/secret/b"), Err(Error::Denied)));
    assert!(matches!(reader.kv("nothing"), Err(Error::Denied)));
    assert!(reader.may_list_keys("pub/") && !reader.may_list_keys(""));
}

#[tokio::test]
async fn a_key_let_go_by_the_end_of_its_session_cannot_be_locked_at_once() {
    let house = House::new().await;
    let holder = Session { id: uuid(1), node: "n1".into(), lock_delay: Duration::from_secs(100), ..Session::default() };
    house.register(only("n1")).await;
    house.writer.create_session(holder.clone(), Duration::from_secs(10)).await.unwrap();
    let other = house.session(2).await.id;
    house.put("l", "", Put::Acquire(holder.id.clone())).await;
    house.put("kept", "", Put::Acquire(other.clone())).await;
    house.writer.destroy_session(&holder.id).await.unwrap();
    assert_eq!(house.get("l").unwrap().session, None);
    assert!(!house.put("l", "", Put::Acquire(other.clone())).await, "there is a delay");
    let delays = house.store.scan(b"state/lock-delay/").await.unwrap().entries;
    assert_eq!(delays.len(), 1);
    let until = serde_json::from_slice::<serde_json::Value>(&delays[0].value).unwrap()["until"].as_i64().unwrap();
    let left = until - lictor_task::clock::unix_nanos();
    assert!((55_000_000_000..=60_000_000_000).contains(&left), "at most a minute: {left}");
    // When it is over the record is forgotten and the key is free.
    let over = lictor_store::Txn::new().put(delays[0].key.clone(), &br#"{"until":1}"#[..]);
    house.store.commit(over).await.unwrap();
    house.reader().catch_up().await.unwrap();
    assert!(house.put("l", "", Put::Acquire(other)).await);
    assert!(house.store.scan(b"state/lock-delay/").await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn keys_of_a_session_that_deletes_are_deleted_with_it() {
    let house = House::new().await;
    let holder = Session { behavior: Behavior::Delete, ..house.session(1).await };
    house.writer.destroy_session(&holder.id).await.unwrap();
    house.writer.create_session(holder.clone(), Duration::from_secs(10)).await.unwrap();
    // More than one transaction can take.
    for n in 0..200 {
        house.put(&format!("l/{n}"), "", Put::Acquire(holder.id.clone())).await;
    }
    house.set("l/other", "").await;
    house.writer.destroy_session(&holder.id).await.unwrap();
    assert_eq!(house.reader().keys("l/", "").value, ["l/other"]);
    assert!(house.reader().session(&holder.id).value.is_none());
}
