//! What is counted and how long things take: one register per process, read in several forms.
//!
//! Like the log, numbers are a matter of the whole process, so the register is a static that every room writes to by
//! name; what becomes of them is decided by the door alone. A room that counts often keeps the [`Counter`], [`Gauge`]
//! or [`Timer`] it was given; writing to that costs an uncontended lock at most. Names are those of the original
//! without its prefix.
//!
//! Start reading at [`register`]; [`filter`] decides which names pass, [`prometheus`] and [`lines`] are two forms of
//! what was written, [`register::Register::interval`] gives the third.

pub mod filter;
pub mod lines;
pub mod prometheus;
pub mod register;
mod series;

pub use filter::Filter;
pub use register::{Counter, Gauge, Register, Timer, View};
pub use series::{Labels, Summary};

/// The register of this process.
pub fn process() -> &'static Register {
    static PROCESS: std::sync::LazyLock<Register> = std::sync::LazyLock::new(Register::default);
    &PROCESS
}

/// Adds one to a counter of the process.
pub fn count(name: &str, labels: Labels<'_>) {
    process().counter(name, labels).add(1);
}
