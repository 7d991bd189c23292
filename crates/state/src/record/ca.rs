//! The CA's configuration and its roots on disk.

use lictor_model::Opaque;
use lictor_model::revision::Revision;
use lictor_model::root::Root;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::reader::CaConfig;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CaConfigRecord {
    provider: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Opaque>,
    cluster_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl CaConfigRecord {
    pub(crate) fn new(provider: &str, config: Option<&Opaque>, cluster_id: &str, created: Created) -> CaConfigRecord {
        CaConfigRecord {
            provider: provider.to_owned(),
            config: config.cloned(),
            cluster_id: cluster_id.to_owned(),
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> CaConfig {
        let CaConfigRecord { provider, config, cluster_id, created } = self;
        CaConfig { provider, config, cluster_id, created: created.or(modified), modified }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RootRecord {
    id: String,
    name: String,
    serial_number: u64,
    signing_key_id: String,
    external_trust_domain: String,
    not_before: i64,
    not_after: i64,
    cert_pem: String,
    #[serde(default, skip_serializing_if = "is_default")]
    intermediates_pem: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    active: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_out_at: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl RootRecord {
    pub(crate) fn new(root: &Root, created: Created) -> RootRecord {
        let Root {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            cert_pem,
            intermediates_pem,
            active,
            rotated_out_at,
            created: _,
            modified: _,
        } = root.clone();
        RootRecord {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            cert_pem,
            intermediates_pem,
            active,
            rotated_out_at,
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Root {
        let RootRecord {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            cert_pem,
            intermediates_pem,
            active,
            rotated_out_at,
            created,
        } = self;
        Root {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            cert_pem,
            intermediates_pem,
            active,
            rotated_out_at,
            created: created.or(modified),
            modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let root = Root {
            id: "aa:bb".into(),
            name: "Consul CA Root Cert".into(),
            serial_number: u64::MAX,
            signing_key_id: "cc".into(),
            external_trust_domain: "11".into(),
            not_before: 1,
            not_after: 2,
            cert_pem: "pem\n".into(),
            intermediates_pem: vec!["x\n".into()],
            active: true,
            rotated_out_at: Some(4),
            created: Revision(3),
            modified: Revision(9),
        };
        let bytes = serde_json::to_vec(&RootRecord::new(&root, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<RootRecord>(&bytes).unwrap().into_row(Revision(9)), root);
        let config: Opaque = serde_json::from_str(r#"{"LeafCertTTL":"72h"}"#).unwrap();
        let record = CaConfigRecord::new("consul", Some(&config), "11", Created::NOW);
        let bytes = serde_json::to_vec(&record).unwrap();
        let row = serde_json::from_slice::<CaConfigRecord>(&bytes).unwrap().into_row(Revision(2));
        assert_eq!(row.config, Some(config));
        assert_eq!((row.created, row.modified), (Revision(2), Revision(2)));
    }
}
