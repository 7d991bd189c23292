//! What tests on real processes need: waiting for conditions, free ports, a small HTTP client, and a house.
//!
//! A [`House`] is one agent of the built binary with everything it starts, in a folder of its own; when it is dropped
//! nothing of it is left running. Everything here is blocking code over the standard library, so that what is tested
//! cannot be the reason why a test works.

pub mod corpus;
pub mod etcd;
pub mod house;
pub mod http;
pub mod ports;
pub mod program;
pub mod wait;

pub use etcd::Etcd;
pub use house::House;
pub use http::Answer;
pub use program::Program;
pub use wait::{eventually, until};
