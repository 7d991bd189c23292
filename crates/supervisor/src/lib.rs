//! Keep child processes in their wanted state; this room knows no proxies and no mesh.
//!
//! The owner declares what it wants ([`Supervisor::want`]) and watches what is ([`Supervisor::statuses`]). Each process
//! has a task that asks a pure table ([`machine`]) what to do. Three promises hold at every instant, a `kill -9` of the
//! supervisor included: there is never a second instance of a process (other than a successor to which it hands over),
//! none is left that nobody knows of, and nothing that is not ours is ever signalled.
//!
//! Start reading at [`machine`] for the rules, then `launch` for how a process comes to life without a gap in which it
//! could get lost, `adopt` for how it is found again, `kept` and
//! `retired` for how it is replaced without losing a connection, and `session` for how it ends.

mod adopt;
mod calls;
mod error;
mod files;
mod group;
mod identity;
mod kept;
mod launch;
pub mod machine;
mod notify;
pub mod output;
mod process;
mod record;
mod retired;
mod session;
mod spec;
mod status;
mod supervisor;
mod usage;

pub use error::Error;
pub use machine::Policy;
pub use output::Logs;
pub use record::file_name;
pub use session::Exit;
pub use spec::{Calls, Draw, Files, Gain, Limits, Paths, Privileges, Replacement, Spec, Standing, StopSignal, User};
pub use status::{Draining, Handover, LastExit, State, Status};
pub use supervisor::{Config, Farewell, Gate, Lifetime, Supervisor};
pub use usage::Usage;
