//! The CA's configuration, roots and sealed keys.

use lictor_model::revision::Revision;
use lictor_model::root::Root;
use lictor_state::writer::CaChange;

use crate::house::{House, refusal};

fn root(id: &str, active: bool) -> Root {
    Root { id: id.into(), name: "Consul CA Root Cert".into(), active, ..Root::default() }
}

fn change(based_on: Revision, roots: Vec<Root>, keys: &[(&str, &[u8])]) -> CaChange {
    CaChange {
        provider: "consul".into(),
        config: None,
        cluster_id: "11111111-2222-3333-4444-555555555555".into(),
        roots,
        sealed_keys: keys.iter().map(|(id, key)| ((*id).to_owned(), key.to_vec())).collect(),
        based_on,
    }
}

#[tokio::test]
async fn a_rotation_changes_roots_and_keys_together() {
    let house = House::new().await;
    let reader = house.reader();
    assert!(reader.roots().value.trust_domain.is_none());
    house.writer.change_ca(change(Revision::ZERO, vec![root("b", true)], &[("b", b"one")])).await.unwrap();
    let first = reader.ca_config().value.unwrap();
    let roots = reader.roots();
    assert_eq!(roots.value.trust_domain.as_ref().unwrap().as_str(), "11111111-2222-3333-4444-555555555555.consul");
    assert_eq!(roots.value.active().unwrap().created, first.modified);

    let next = CaChange {
        cluster_id: "other".into(),
        ..change(first.modified, vec![root("a", true), root("b", false)], &[("a", b"two")])
    };
    house.writer.change_ca(next).await.unwrap();
    let roots = reader.roots();
    assert_eq!(roots.value.roots.iter().map(|root| root.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(roots.value.active().unwrap().id, "a");
    assert_eq!(roots.value.roots[1].created, first.modified);
    let second = reader.ca_config().value.unwrap();
    assert_eq!(second.cluster_id, first.cluster_id, "only the first change sets it");
    assert_eq!(house.writer.sealed_key("a").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(house.writer.sealed_key("b").await.unwrap(), None, "a root that no longer signs needs no key");
}

#[tokio::test]
async fn a_change_computed_from_an_old_state_is_refused() {
    let house = House::new().await;
    house.writer.change_ca(change(Revision::ZERO, vec![root("a", true)], &[("a", b"k")])).await.unwrap();
    let late = change(Revision::ZERO, vec![root("b", true)], &[]);
    assert_eq!(refusal(house.writer.change_ca(late).await), "could not atomically update roots and config");
}

#[tokio::test]
async fn a_change_of_the_configuration_alone_leaves_roots_and_the_active_key() {
    let house = House::new().await;
    house.writer.change_ca(change(Revision::ZERO, vec![root("a", true)], &[("a", b"k")])).await.unwrap();
    let reader = house.reader();
    let (before, based_on) = (reader.roots(), reader.ca_config().value.unwrap().modified);
    let config = serde_json::from_str(r#"{"LeafCertTTL":"1h"}"#).unwrap();
    let only = CaChange { config: Some(config), ..change(based_on, vec![root("a", true)], &[]) };
    house.writer.change_ca(only).await.unwrap();
    assert_eq!(reader.roots().index, before.index, "nobody who watches roots is woken");
    assert_eq!(house.writer.sealed_key("a").await.unwrap().as_deref(), Some(&b"k"[..]));
    assert!(reader.ca_config().value.unwrap().config.is_some());
}
