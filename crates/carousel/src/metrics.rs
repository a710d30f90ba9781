//! How good answers are, counted: the confusion of classes, and the spans that tags mark.

mod confusion;
mod spans;

pub use confusion::{ClassScores, Confusion};
pub use spans::{SpanCounts, SpanScores, marks_spans, spans};
