//! The data plane: mutual TLS between services, layer 4.
//!
//! One proxy stands beside one service. Peers reach the service through its public listener, the service reaches
//! others through one local port each. Everything that is needed to do so (certificates, roots, intentions,
//! instances) is held here and kept current by watching the agent, so that an agent that is away is not missed.
//!
//! This room knows the agent by its HTTP contract only. Start reading at [`proxy`]; the path of a connection is
//! `outbound`, `resolve`, `balance` on one side, `inbound`, `authorize` on the other, and `copy` on both; `direct` is the shorter one between proxies of one agent.

mod app;
mod authorize;
mod balance;
mod bulk;
mod calm;
pub mod control;
mod copy;
mod direct;
mod follow;
mod inbound;
mod inherit;
mod lookup;
pub mod metrics;
mod outbound;
mod outcome;
mod pool;
pub mod proxy;
pub mod register;
pub mod report;
mod resolve;
pub mod settings;
mod shared;
mod socket;
pub mod status;
mod track;
mod watch;
mod worker;

pub use calm::Calm;
pub use control::{AgentClient, ControlPlane};
pub use inherit::Sockets;
pub use metrics::Metrics;
pub use proxy::{Config, End, Listening, Mode, Patience, Proxy, SameNode, Wish};
pub use report::{Report, Reporter};
pub use settings::{Flags, Place};
pub use status::{Heritage, Phase, Status};
pub use track::Connections;
