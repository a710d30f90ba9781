//! From probabilities to text.

pub mod beam;
pub mod sampling;
