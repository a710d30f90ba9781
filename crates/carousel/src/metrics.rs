//! How good answers are, counted: the confusion of classes, the spans that tags mark, translations against
//! references, and how far forecasts are off.

mod bleu;
mod chrf;
mod confusion;
mod edits;
mod forecast;
mod rouge;
mod spans;

pub use bleu::{Bleu, BleuCounts, BleuTokens, Interval, bleu};
pub use chrf::{Chrf, chrf};
pub use confusion::{ClassScores, Confusion};
pub use edits::{TokenErrors, edits, exact_matches, token_errors};
pub use forecast::{ErrorSums, ForecastErrors};
pub use rouge::rouge_l;
pub use spans::{SpanCounts, SpanScores, marks_spans, spans};

/// What the texts that Python calls blank have in common, so that scores agree with tools written in it.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The `nrefs` of a score's signature.
fn reference_counts(references: &[Vec<String>]) -> String {
    let first = references.first().map_or(0, Vec::len);
    if references.iter().all(|all| all.len() == first) { first.to_string() } else { "var".to_owned() }
}
