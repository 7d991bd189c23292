//! The CA's configuration and its roots in memory. Signing keys are not: whoever signs reads them from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use lictor_model::identity::TrustDomain;
use lictor_model::revision::Revision;
use lictor_model::root::{Root, Roots};

use super::Touched;
use crate::answer::Topic;
use crate::reader::CaConfig;
use crate::schema::Key;

#[derive(Debug, Default)]
pub(crate) struct Ca {
    config: Option<Arc<CaConfig>>,
    config_index: Revision,
    roots: BTreeMap<Arc<str>, Root>,
    roots_index: Revision,
    /// What readers get, made anew with each change.
    published: Arc<Roots>,
}

impl Ca {
    pub(crate) fn put_config(&mut self, config: CaConfig, at: Revision, touched: &mut Touched) {
        self.config = Some(Arc::new(config));
        self.touch_config(at, touched);
    }

    pub(crate) fn remove_config(&mut self, at: Revision, touched: &mut Touched) {
        if self.config.take().is_some() {
            self.touch_config(at, touched);
        }
    }

    fn touch_config(&mut self, at: Revision, touched: &mut Touched) {
        self.config_index = at;
        touched.add(Topic::CaConfig);
        let before = self.published.trust_domain.clone();
        self.publish();
        // Once the CA exists its trust domain stays, so this is its birth (or its end).
        if self.published.trust_domain != before {
            self.roots_index = at;
            touched.add(Topic::Roots);
        }
    }

    pub(crate) fn put_root(&mut self, root: Root, at: Revision, touched: &mut Touched) {
        self.roots.insert(root.id.as_str().into(), root);
        self.touch_roots(at, touched);
    }

    pub(crate) fn remove_root(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if self.roots.remove(id).is_some() {
            self.touch_roots(at, touched);
        }
    }

    fn touch_roots(&mut self, at: Revision, touched: &mut Touched) {
        self.roots_index = at;
        touched.add(Topic::Roots);
        self.publish();
    }

    fn publish(&mut self) {
        self.published = Arc::new(Roots {
            trust_domain: self.config.as_ref().map(|config| TrustDomain::of_cluster(&config.cluster_id)),
            roots: self.roots.values().cloned().collect(),
        });
    }

    pub(crate) fn config(&self) -> Option<&Arc<CaConfig>> {
        self.config.as_ref()
    }

    pub(crate) fn roots(&self) -> &Arc<Roots> {
        &self.published
    }

    pub(crate) fn index(&self, topic: &Topic) -> Option<Revision> {
        match topic {
            Topic::CaConfig => Some(self.config_index),
            Topic::Roots => Some(self.roots_index),
            _ => None,
        }
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.config_index = floor;
        self.roots_index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        let config = self.config.iter().map(|config| (Key::CaConfig, config.modified));
        config.chain(self.roots.iter().map(|(id, root)| (Key::Root(Arc::clone(id)), root.modified)))
    }
}
