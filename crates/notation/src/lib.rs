//! Text that people and programs write — HCL 1, JSON, durations — turned into trees, and trees into typed fields.
//!
//! This room knows how things are *written*: syntax, positions, spelling of keys, what a repeated key means, and how
//! a wrong type is reported. It must not know what any key is *for*: that is decided by those who declare the fields.
//!
//! Both languages end in one [`tree::Tree`]. Start reading there, then at [`decode`], which every reader of a
//! definition or a configuration file uses and which collects all problems instead of stopping at the first.

pub mod decode;
pub mod duration;
pub mod hcl;
pub mod json;
pub mod tree;

mod position;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use position::SyntaxError;
pub use tree::Tree;
