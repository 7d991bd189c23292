//! Who leads the cluster, and who takes part in it.

use std::borrow::Cow;

/// `GET /v1/status/leader`: `host:port`, or empty while there is no leader.
pub type Leader<'a> = Cow<'a, str>;

/// `GET /v1/status/peers`: `host:port` of each.
pub type Peers<'a> = Vec<Cow<'a, str>>;
