//! BLEU (Papineni et al. 2002) over a whole test set, to the digit as sacreBLEU computes it (Post 2018).

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

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
    assert_eq!(answers.len(), references.len(), "a list of references an answer");
    let split = |text: &String| match lowercase {
        true => tokens.split(&text.to_lowercase()),
        false => tokens.split(text),
    };
    let (mut right, mut total) = ([0usize; ORDER], [0usize; ORDER]);
    let (mut answer_length, mut reference_length) = (0, 0);
    for (answer, references) in answers.iter().zip(references) {
        let answer = split(answer);
        let references: Vec<Vec<String>> = references.iter().map(split).collect();
        answer_length += answer.len();
        let nearest =
            references.iter().map(Vec::len).min_by_key(|&length| (length.abs_diff(answer.len()), length));
        reference_length += nearest.expect("an answer has a reference");
        let known: Vec<HashMap<&[String], usize>> =
            references.iter().map(|reference| count_ngrams(reference)).collect();
        for (ngram, count) in count_ngrams(&answer) {
            let most = known.iter().map(|counts| counts.get(ngram).copied().unwrap_or(0)).max().unwrap_or(0);
            right[ngram.len() - 1] += count.min(most);
            total[ngram.len() - 1] += count;
        }
    }
    let brevity_penalty = match answer_length {
        0 => 0.0,
        length if length < reference_length => (1.0 - reference_length as f64 / length as f64).exp(),
        _ => 1.0,
    };
    let mut precisions = [0.0; ORDER];
    let mut halved = 1.0;
    if right.iter().any(|&count| count > 0) {
        for order in (0..ORDER).take_while(|&order| total[order] > 0) {
            precisions[order] = match right[order] {
                0 => {
                    halved *= 2.0;
                    100.0 / (halved * total[order] as f64)
                }
                right => 100.0 * right as f64 / total[order] as f64,
            };
        }
    }
    let score = brevity_penalty * mean_precision(&precisions);
    let signature = format!(
        "nrefs:{}|case:{}|eff:no|tok:{}|smooth:exp|version:carousel-{}",
        reference_counts(references),
        if lowercase { "lc" } else { "mixed" },
        tokens.name(),
        env!("CARGO_PKG_VERSION")
    );
    Bleu { score, precisions, brevity_penalty, answer_length, reference_length, signature }
}
