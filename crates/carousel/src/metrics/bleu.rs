//! BLEU (Papineni et al. 2002) over a whole test set, to the digit as sacreBLEU computes it (Post 2018).

use std::collections::HashMap;
use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{is_blank, reference_counts};

/// The longest n-grams that count.
const ORDER: usize = 4;

/// What a token is while scoring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BleuTokens {
    /// The rules of mteval-v13a: punctuation apart from words, for languages with blanks between words.
    #[default]
    V13a,
    /// Every character that is no blank.
    Char,
    /// What stands between blanks.
    None,
}

impl BleuTokens {
    /// The name in signatures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BleuTokens::V13a => "13a",
            BleuTokens::Char => "char",
            BleuTokens::None => "none",
        }
    }

    /// The tokens of a text.
    pub(crate) fn split(self, text: &str) -> Vec<String> {
        let text = text.trim_end_matches(is_blank);
        let blanks =
            |text: &str| text.split(is_blank).filter(|token| !token.is_empty()).map(str::to_owned).collect();
        match self {
            BleuTokens::V13a => blanks(&apart(text)),
            BleuTokens::Char => text.chars().filter(|&c| !is_blank(c)).map(String::from).collect(),
            BleuTokens::None => blanks(text),
        }
    }
}

/// A text with blanks around what mteval-v13a takes for tokens of their own.
fn apart(text: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"([\{-~\[-` -&\(-\+:-@/])", " $1 "),
            (r"([^0-9])([\.,])", "$1 $2 "),
            (r"([\.,])([^0-9])", " $1 $2"),
            (r"([0-9])(-)", "$1 $2 "),
        ]
        .map(|(rule, by)| (Regex::new(rule).expect("the rule is valid"), by))
        .to_vec()
    });
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, character);
    }
    text = format!(" {text} ");
    RULES.iter().fold(text, |text, (rule, by)| rule.replace_all(&text, *by).into_owned())
}

/// A BLEU score and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// From 0 to 100.
    pub score: f64,
    /// Of 1-grams to 4-grams, in percent.
    pub precisions: [f64; ORDER],
    /// What answers that are too short cost.
    pub brevity_penalty: f64,
    /// Tokens of the answers.
    pub answer_length: usize,
    /// Tokens of the references, of each answer the one nearest in length.
    pub reference_length: usize,
    /// How it was computed, in the form of sacreBLEU's signatures.
    pub signature: String,
}

impl std::fmt::Display for Bleu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let precisions: Vec<String> = self.precisions.iter().map(|p| format!("{p:.1}")).collect();
        write!(
            f,
            "BLEU = {:.2} {} (BP = {:.3} ratio = {:.3} hyp_len = {} ref_len = {})",
            self.score,
            precisions.join("/"),
            self.brevity_penalty,
            self.answer_length as f64 / self.reference_length.max(1) as f64,
            self.answer_length,
            self.reference_length
        )
    }
}

impl Bleu {
    /// The score with n-grams up to `order` alone, 1 to 4: BLEU-1, BLEU-2, …; the last is the score itself.
    #[must_use]
    pub fn up_to(&self, order: usize) -> f64 {
        mean_precision(&self.precisions[..order.clamp(1, ORDER)]) * self.brevity_penalty
    }
}

/// The geometric mean; 0 where one is.
fn mean_precision(precisions: &[f64]) -> f64 {
    match precisions.iter().all(|&p| p > 0.0) {
        true => (precisions.iter().map(|p| p.ln()).sum::<f64>() / precisions.len() as f64).exp(),
        false => 0.0,
    }
}

/// How often each n-gram occurs, all orders together.
fn count_ngrams(tokens: &[String]) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for order in 1..=ORDER {
        for ngram in tokens.windows(order) {
            *counts.entry(ngram).or_default() += 1;
        }
    }
    counts
}

/// BLEU of answers against their references, with exponential smoothing. `lowercase` makes all texts so first.
///
/// # Panics
/// When there are not as many lists of references as answers, or a list is empty.
#[must_use]
pub fn bleu(answers: &[String], references: &[Vec<String>], tokens: BleuTokens, lowercase: bool) -> Bleu {
    BleuCounts::new(answers, references, tokens, lowercase).score()
}

/// How far a score may be off: where 95 % of the scores of resampled sentences lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean of those scores.
    pub mean: f64,
    /// The lowest of them but for one in 40.
    pub low: f64,
    /// The highest but for one in 40.
    pub high: f64,
    /// How many there are.
    pub resamples: usize,
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Interval { mean, low, high, resamples } = self;
        let around = (high - low) / 2.0;
        write!(f, "μ = {mean:.2} ± {around:.2}, 95 % of {resamples} resamples from {low:.2} to {high:.2}")
    }
}

/// What BLEU counts of each answer.
#[derive(Clone, Debug)]
pub struct BleuCounts {
    answers: Vec<Counts>,
    signature: String,
}

/// What is added up over answers.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// N-grams that a reference has, and all of them.
    right: [usize; ORDER],
    total: [usize; ORDER],
    answer_length: usize,
    reference_length: usize,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        for order in 0..ORDER {
            self.right[order] += other.right[order];
            self.total[order] += other.total[order];
        }
        self.answer_length += other.answer_length;
        self.reference_length += other.reference_length;
    }

    fn sum<'a>(all: impl Iterator<Item = &'a Counts>) -> Counts {
        all.fold(Counts::default(), |mut sum, counts| {
            sum.add(counts);
            sum
        })
    }

    fn brevity_penalty(&self) -> f64 {
        match self.answer_length {
            0 => 0.0,
            length if length < self.reference_length => {
                (1.0 - self.reference_length as f64 / length as f64).exp()
            }
            _ => 1.0,
        }
    }

    /// In percent.
    fn precisions(&self) -> [f64; ORDER] {
        let mut precisions = [0.0; ORDER];
        let mut halved = 1.0;
        if self.right.iter().any(|&count| count > 0) {
            for order in (0..ORDER).take_while(|&order| self.total[order] > 0) {
                precisions[order] = match self.right[order] {
                    0 => {
                        halved *= 2.0;
                        100.0 / (halved * self.total[order] as f64)
                    }
                    right => 100.0 * right as f64 / self.total[order] as f64,
                };
            }
        }
        precisions
    }

    fn score(&self) -> f64 {
        self.brevity_penalty() * mean_precision(&self.precisions())
    }
}

impl BleuCounts {
    /// Counts; see [`bleu`].
    ///
    /// # Panics
    /// As [`bleu`].
    #[must_use]
    pub fn new(
        answers: &[String],
        references: &[Vec<String>],
        tokens: BleuTokens,
        lowercase: bool,
    ) -> BleuCounts {
        assert_eq!(answers.len(), references.len(), "a list of references an answer");
        let split = |text: &String| match lowercase {
            true => tokens.split(&text.to_lowercase()),
            false => tokens.split(text),
        };
        let count = |(answer, references): (&String, &Vec<String>)| {
            let answer = split(answer);
            let references: Vec<Vec<String>> = references.iter().map(split).collect();
            let nearest = references
                .iter()
                .map(Vec::len)
                .min_by_key(|&length| (length.abs_diff(answer.len()), length))
                .expect("an answer has a reference");
            let mut counts =
                Counts { answer_length: answer.len(), reference_length: nearest, ..Counts::default() };
            let known: Vec<HashMap<&[String], usize>> =
                references.iter().map(|reference| count_ngrams(reference)).collect();
            for (ngram, count) in count_ngrams(&answer) {
                let most =
                    known.iter().map(|counts| counts.get(ngram).copied().unwrap_or(0)).max().unwrap_or(0);
                counts.right[ngram.len() - 1] += count.min(most);
                counts.total[ngram.len() - 1] += count;
            }
            counts
        };
        let signature = format!(
            "nrefs:{}|case:{}|eff:no|tok:{}|smooth:exp|version:carousel-{}",
            reference_counts(references),
            if lowercase { "lc" } else { "mixed" },
            tokens.name(),
            env!("CARGO_PKG_VERSION")
        );
        BleuCounts { answers: answers.iter().zip(references).map(count).collect(), signature }
    }

    /// The score of all answers.
    #[must_use]
    pub fn score(&self) -> Bleu {
        let sum = Counts::sum(self.answers.iter());
        Bleu {
            score: sum.score(),
            precisions: sum.precisions(),
            brevity_penalty: sum.brevity_penalty(),
            answer_length: sum.answer_length,
            reference_length: sum.reference_length,
            signature: self.signature.clone(),
        }
    }

    /// Where the scores lie of as many answers drawn with replacement, time and again (Koehn 2004); as sacreBLEU's
    /// `--confidence`, with another generator of random numbers. `None` where there is nothing to draw from.
    #[must_use]
    pub fn interval(&self, resamples: usize, seed: u64) -> Option<Interval> {
        let count = self.answers.len() as u64;
        if count == 0 || resamples == 0 {
            return None;
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The upper half of a product spreads a draw over the answers.
        let mut draw = || &self.answers[((u128::from(random.next_u64()) * u128::from(count)) >> 64) as usize];
        let mut scores: Vec<f64> =
            (0..resamples).map(|_| Counts::sum((0..count).map(|_| draw())).score()).collect();
        scores.sort_by(f64::total_cmp);
        let off = resamples / 40;
        let mean = scores.iter().sum::<f64>() / resamples as f64;
        Some(Interval { mean, low: scores[off], high: scores[resamples - 1 - off], resamples })
    }
}
