//! Names and ids, each its own type so that two of them cannot be swapped.
//!
//! The original accepts almost any text as a name and compares names without regard to (ASCII) case when it looks
//! something up. So every type here keeps the text as given and offers [`folded`](ServiceName::folded) as the key to
//! compare by.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Lower-cases ASCII letters: the key under which names are looked up.
pub fn fold(name: &str) -> Arc<str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether nothing was given.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// The key this name is looked up by: lower case (ASCII).
            pub fn folded(&self) -> Self {
                if self.0.bytes().any(|b| b.is_ascii_uppercase()) {
                    Self(self.0.to_ascii_lowercase().into())
                } else {
                    self.clone()
                }
            }

            /// The text of that key, to keep. It is the text of this name, not a copy, where that is folded already.
            pub fn key(&self) -> Arc<str> {
                self.folded().0
            }

            /// Whether both are the same name (ASCII case does not count).
            pub fn same(&self, other: &str) -> bool {
                self.0.eq_ignore_ascii_case(other)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// What a service is called; many instances share it.
    ServiceName
}
name_type! {
    /// Which instance of a service on its node; unique per agent.
    ServiceId
}
name_type! {
    /// What a node is called; unique in the datacenter.
    NodeName
}
name_type! {
    /// Which health check on its node.
    CheckId
}

impl ServiceId {
    /// The id of the proxy that the agent generates for this service.
    pub fn managed_proxy(&self) -> ServiceId {
        ServiceId::from(format!("{self}-proxy"))
    }

    /// The id of the sidecar that the `sidecar_service` shorthand registers for this service.
    pub fn sidecar(&self) -> ServiceId {
        ServiceId::from(format!("{self}-sidecar-proxy"))
    }
}

impl CheckId {
    /// The default id of the `position`-th check (from 1) of a service that has `total` of them.
    pub fn of_service(service: &ServiceId, position: usize, total: usize) -> CheckId {
        if total > 1 {
            CheckId::from(format!("service:{service}:{position}"))
        } else {
            CheckId::from(format!("service:{service}"))
        }
    }

    /// The check that node maintenance mode adds.
    pub fn node_maintenance() -> CheckId {
        CheckId::from("_node_maintenance")
    }

    /// The check that maintenance mode of one service adds.
    pub fn service_maintenance(service: &ServiceId) -> CheckId {
        CheckId::from(format!("_service_maintenance:{service}"))
    }

    /// Whether this is a maintenance check of a node or a service.
    pub fn is_maintenance(&self) -> bool {
        self.0.as_ref() == "_node_maintenance" || self.0.starts_with("_service_maintenance:")
    }
}
