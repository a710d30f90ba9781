//! chrF (Popović 2015), the F-score of character n-grams, to the digit as sacreBLEU computes it.

use std::collections::HashMap;

use super::{is_blank, reference_counts};

/// The longest n-grams that count.
const ORDER: usize = 6;
/// How much recall counts beside precision.
const BETA: f64 = 2.0;

/// A chrF score.
#[derive(Clone, Debug, PartialEq)]
pub struct Chrf {
    /// From 0 to 100.
    pub score: f64,
    /// How it was computed, in the form of sacreBLEU's signatures.
    pub signature: String,
}

/// N-grams of one order: in the answer, in the reference, in both.
type Counts = [[usize; 3]; ORDER];

fn count_ngrams(letters: &[char], order: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for ngram in letters.windows(order) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

fn compare(answer: &[char], reference: &[char]) -> Counts {
    let mut counts = Counts::default();
    for (order, [found, wanted, both]) in (1..).zip(&mut counts) {
        let known = count_ngrams(reference, order);
        for (ngram, count) in count_ngrams(answer, order) {
            // Without an n-gram in the reference there is nothing to be precise about.
            *found += if known.is_empty() { 0 } else { count };
            *both += count.min(known.get(ngram).copied().unwrap_or(0));
        }
        *wanted = known.values().sum();
    }
    counts
}

/// The F-score of the mean precision and the mean recall over the orders that both sides have.
fn f_score(counts: &Counts) -> f64 {
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for &[found, wanted, both] in counts.iter().filter(|[found, wanted, _]| *found > 0 && *wanted > 0) {
        precision += both as f64 / found as f64;
        recall += both as f64 / wanted as f64;
        orders += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall, factor) = (precision / orders, recall / orders, BETA * BETA);
    100.0 * ((1.0 + factor) * precision * recall / (factor * precision + recall))
}

/// chrF2 of answers against their references; blanks do not count. Of several references the best counts.
///
/// # Panics
/// When there are not as many lists of references as answers, or a list is empty.
#[must_use]
pub fn chrf(answers: &[String], references: &[Vec<String>], lowercase: bool) -> Chrf {
    assert_eq!(answers.len(), references.len(), "a list of references an answer");
    let letters = |text: &String| -> Vec<char> {
        let text = if lowercase { text.to_lowercase() } else { text.clone() };
        text.chars().filter(|&c| !is_blank(c)).collect()
    };
    let mut sum = Counts::default();
    for (answer, references) in answers.iter().zip(references) {
        let answer = letters(answer);
        let mut best: Option<(f64, Counts)> = None;
        for reference in references {
            let counts = compare(&answer, &letters(reference));
            let score = f_score(&counts);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, counts));
            }
        }
        let (_, counts) = best.expect("an answer has a reference");
        for (sum, counts) in sum.iter_mut().zip(counts) {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let signature = format!(
        "nrefs:{}|case:{}|eff:yes|nc:{ORDER}|nw:0|space:no|version:carousel-{}",
        reference_counts(references),
        if lowercase { "lc" } else { "mixed" },
        env!("CARGO_PKG_VERSION")
    );
    Chrf { score: f_score(&sum), signature }
}
