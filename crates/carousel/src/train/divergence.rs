//! When training breaks: finds the first number that is none, says where it arose and what was measured on the way, and
//! keeps what the step began with so that it can be looked at again.

pub(super) mod diagnosis;
mod file;
pub(super) mod language_model;
mod replay;
pub(super) mod stacks;

pub use diagnosis::{Diagnosis, Origin, Way};
pub use replay::replay;
