//! Spans that tags mark, counted as the conlleval script of CoNLL-2000 does.

use serde::{Deserialize, Serialize};

/// How many spans there are, were found, and are both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// In the truth.
    pub expected: usize,
    /// In the answers.
    pub found: usize,
    /// In both, with the same type and the same ends.
    pub right: usize,
}

/// What follows from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanScores {
    /// Of the spans found, the share that is right.
    pub precision: f64,
    /// Of the spans there are, the share that was found.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

impl SpanCounts {
    /// Adds a sequence's spans.
    pub fn add(&mut self, expected: &[&str], found: &[&str]) {
        let (expected, found) = (spans(expected), spans(found));
        self.right += found.iter().filter(|span| expected.contains(span)).count();
        self.expected += expected.len();
        self.found += found.len();
    }

    /// Precision, recall and F1; 0 where there is nothing to divide by.
    #[must_use]
    pub fn scores(self) -> SpanScores {
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        SpanScores {
            precision: share(self.right, self.found),
            recall: share(self.right, self.expected),
            f1: share(2 * self.right, self.expected + self.found),
        }
    }
}

/// Whether tags are of the forms that mark spans: `O`, or `B-`, `I-`, `E-`, `S-` and a type, at least one of them.
#[must_use]
pub fn marks_spans<'a>(tags: impl IntoIterator<Item = &'a str>) -> bool {
    let mut marked = false;
    for tag in tags {
        let (prefix, kind) = split(tag);
        if tag != "O" && (kind.is_empty() || !matches!(prefix, "B" | "I" | "E" | "S" | "L" | "U")) {
            return false;
        }
        marked |= tag != "O";
    }
    marked
}

/// The spans of a sequence of tags: type, first step, and the step behind the last.
///
/// As conlleval: a span begins at `B-` and `S-`, and at `I-` or `E-` where nothing of its type goes before; it ends
/// before the next that begins, before `O` or another type, and behind `E-` and `S-`. Other tags are as `O`.
#[must_use]
pub fn spans<'a>(tags: &[&'a str]) -> Vec<(&'a str, usize, usize)> {
    let mut all = Vec::new();
    let mut open: Option<(&'a str, usize)> = None;
    for (step, &tag) in tags.iter().enumerate() {
        let (prefix, kind) = split(tag);
        let inside = !kind.is_empty();
        let goes_on =
            inside && matches!(prefix, "I" | "E" | "L") && open.is_some_and(|(open, _)| open == kind);
        if !goes_on {
            all.extend(open.take().map(|(kind, first)| (kind, first, step)));
            open = inside.then_some((kind, step));
        }
        if matches!(prefix, "E" | "S" | "L" | "U") {
            all.extend(open.take().map(|(kind, first)| (kind, first, step + 1)));
        }
    }
    all.extend(open.map(|(kind, first)| (kind, first, tags.len())));
    all
}

fn split(tag: &str) -> (&str, &str) {
    tag.split_once('-').unwrap_or((tag, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_of_conlleval() {
        let check = |tags: &str, expected: &[(&str, usize, usize)]| {
            let tags: Vec<&str> = tags.split(' ').collect();
            assert_eq!(spans(&tags), expected, "{tags:?}");
        };
        check("O B-A I-A O B-B", &[("A", 1, 3), ("B", 4, 5)]);
        check("B-A B-A I-B I-B", &[("A", 0, 1), ("A", 1, 2), ("B", 2, 4)]);
        check("I-A I-A O I-A", &[("A", 0, 2), ("A", 3, 4)]);
        check("B-A I-B I-A", &[("A", 0, 1), ("B", 1, 2), ("A", 2, 3)]);
        check("B-A E-A E-A S-A I-A", &[("A", 0, 2), ("A", 2, 3), ("A", 3, 4), ("A", 4, 5)]);
        check("B-a-b I-a-b O", &[("a-b", 0, 2)]);
        check("O O", &[]);
    }

    #[test]
    fn f1_counts_whole_spans() {
        let mut counts = SpanCounts::default();
        counts.add(&["B-A", "I-A", "O", "B-B"], &["B-A", "O", "O", "B-B"]);
        counts.add(&["O", "O"], &["B-A", "O"]);
        assert_eq!(counts, SpanCounts { expected: 2, found: 3, right: 1 });
        let scores = counts.scores();
        assert!((scores.f1 - 0.4).abs() < 1e-12 && (scores.recall - 0.5).abs() < 1e-12);
        assert_eq!(SpanCounts::default().scores(), SpanScores::default());
    }

    #[test]
    fn tags_that_mark_spans_are_known() {
        let check = |tags: &str, expected| assert_eq!(marks_spans(tags.split(' ')), expected, "{tags}");
        check("O B-A I-A", true);
        check("NOUN VERB", false);
        check("O O", false);
        check("B-A X-C", false);
    }
}
