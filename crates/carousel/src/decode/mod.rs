//! From probabilities to text.

pub mod sampling;
