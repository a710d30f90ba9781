//! Where a language model errs, and what it knows that counting does not.

use std::collections::HashSet;

use serde::Serialize;

use super::ngram::{LONGEST, Ngrams};
use super::properties::{Code, scan};
use super::text::Text;

/// A token counts as right when it has more than half of the probability: then no other can be likelier.
const RIGHT: f64 = 0.5;
/// Tokens before a place that make it another one.
const SAME: usize = 16;
/// Brackets that belong together.
const BRACKETS: [(char, char); 3] = [('(', ')'), ('[', ']'), ('{', '}')];

/// The losses of a model and of n-grams on the same tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ErrorReport {
    /// All tokens that were predicted.
    pub all: Row,
    /// By the class of the predicted token's first character: letters, digits, …
    pub classes: Vec<Row>,
    /// By the predicted token's place in its line.
    pub positions: Vec<Row>,
    /// Closing brackets, by the distance to the opening one in tokens.
    pub brackets: Vec<Row>,
    /// The places where the model is furthest ahead of every n-gram, the furthest first; of places that follow the
    /// same tokens one.
    pub ahead: Vec<Ahead>,
}

/// Mean losses over some tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// Which tokens.
    pub name: String,
    /// How many.
    pub tokens: usize,
    /// Of the model, in nats per token.
    pub loss: f64,
    /// Of the n-grams of order 1 to 6.
    pub ngrams: [f64; 6],
    /// Share of the tokens that the model gives more than half of the probability.
    pub right: f64,
    /// Share that it does so and no n-gram does.
    pub only_model: f64,
    /// Share that some n-gram does so and the model does not.
    pub only_ngrams: f64,
}

/// A place where the model is ahead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ahead {
    /// The token that was predicted.
    pub token: usize,
    /// Its probability by the model.
    pub probability: f64,
    /// Its probability by the best n-gram.
    pub best_ngram: f64,
}

/// Compares a model's [`losses`](super::losses) on a text with n-grams counted elsewhere; lists `list` places.
///
/// ```
/// use carousel::lens::{Ngrams, Text, compare_errors};
///
/// let text = Text::of_characters("(a) (b)");
/// let ngrams = Ngrams::count(text.tokens(), text.document_starts(), 128);
/// // Losses of a model that knows everything: those of position t are of predicting t + 1.
/// let losses = [0.0; 6].into_iter().chain([f32::NAN]).collect::<Vec<f32>>();
/// let report = compare_errors(&text, &losses, &ngrams, 3);
/// assert_eq!((report.all.tokens, report.all.loss, report.all.right), (6, 0.0, 1.0));
/// let closing = report.classes.iter().find(|row| row.name == "closing bracket").expect("there are two");
/// assert_eq!(closing.tokens, 2);
/// ```
///
/// # Panics
/// When there is not one loss a token.
#[must_use]
pub fn compare_errors(text: &Text, losses: &[f32], ngrams: &Ngrams, list: usize) -> ErrorReport {
    assert_eq!(losses.len(), text.len(), "one loss a token");
    let lines = line_positions(text);
    let distances = bracket_distances(text);
    let mut all = Sum::default();
    let mut classes = vec![Sum::default(); CLASSES.len()];
    let mut positions = vec![Sum::default(); STEPS.len()];
    let mut brackets = vec![Sum::default(); STEPS.len()];
    let mut ahead: Vec<Ahead> = Vec::new();
    let mut start = 0;
    for token in 1..text.len() {
        if text.starts_document(token) {
            start = token;
        }
        let loss = f64::from(losses[token - 1]);
        if !loss.is_finite() {
            continue;
        }
        let history = &text.tokens()[start.max(token.saturating_sub(LONGEST - 1))..token];
        let counted = ngrams.probabilities(history, text.tokens()[token]);
        let best = counted.iter().copied().fold(0.0, f64::max);
        let seen = Seen { loss, counted, model_right: (-loss).exp() > RIGHT, ngram_right: best > RIGHT };
        all.add(&seen);
        classes[class(text, token)].add(&seen);
        positions[step(lines[token])].add(&seen);
        if let Some(distance) = distances[token] {
            brackets[step(distance)].add(&seen);
        }
        ahead.push(Ahead { token, probability: (-loss).exp(), best_ngram: best });
    }
    let gain = |ahead: &Ahead| ahead.probability.ln() - ahead.best_ngram.ln();
    ahead.retain(|ahead| gain(ahead) > 0.0);
    ahead.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
    let mut listed = HashSet::new();
    ahead.retain(|ahead| {
        listed.len() < list && listed.insert(&text.tokens()[ahead.token.saturating_sub(SAME)..=ahead.token])
    });
    let rows = |sums: Vec<Sum>, name: &dyn Fn(usize) -> String| -> Vec<Row> {
        let rows = sums.into_iter().enumerate().map(|(index, sum)| sum.row(name(index)));
        rows.filter(|row| row.tokens > 0).collect()
    };
    ErrorReport {
        all: all.row("all".to_owned()),
        classes: rows(classes, &|index| CLASSES[index].to_owned()),
        positions: rows(positions, &range_name),
        brackets: rows(brackets, &range_name),
        ahead,
    }
}

const CLASSES: [&str; 9] = [
    "lower case",
    "upper case",
    "digit",
    "space",
    "line end",
    "quote",
    "opening bracket",
    "closing bracket",
    "other",
];

/// The class of a token: of its first character that is no blank, or of the blank.
fn class(text: &Text, token: usize) -> usize {
    let characters = &text.characters()[text.span(token)];
    let solid = characters.iter().find(|character| !character.is_whitespace());
    match solid.or(characters.first()) {
        Some(c) if c.is_lowercase() => 0,
        Some(c) if c.is_uppercase() => 1,
        Some(c) if c.is_numeric() => 2,
        Some('\n') => 4,
        Some(c) if c.is_whitespace() => 3,
        Some('"' | '\'' | '`' | '\u{2018}'..='\u{201d}') => 5,
        Some('(' | '[' | '{') => 6,
        Some(')' | ']' | '}') => 7,
        _ => 8,
    }
}

/// Borders of ranges of distances.
const STEPS: [usize; 8] = [0, 4, 8, 16, 32, 64, 128, 256];

fn step(distance: usize) -> usize {
    STEPS.partition_point(|&from| from <= distance) - 1
}

fn range_name(index: usize) -> String {
    match STEPS.get(index + 1) {
        Some(next) => format!("{} to {}", STEPS[index], next - 1),
        None => format!("{} and more", STEPS[index]),
    }
}

/// Tokens since the line began.
fn line_positions(text: &Text) -> Vec<usize> {
    let mut position = 0;
    let place = |token: usize| {
        if text.starts_document(token) {
            position = 0;
        }
        let (here, span) = (position, text.span(token));
        // What stands for no character takes no place.
        position = if text.characters()[span.clone()].contains(&'\n') {
            0
        } else {
            here + usize::from(!span.is_empty())
        };
        here
    };
    (0..text.len()).map(place).collect()
}

/// Of every closing bracket the distance in tokens to its opening one; those in comments and literals have none.
fn bracket_distances(text: &Text) -> Vec<Option<usize>> {
    let codes = scan(text.characters());
    let mut open: Vec<(char, usize)> = Vec::new();
    let distance = |token: usize| {
        if text.starts_document(token) {
            open.clear();
        }
        let mut distance = None;
        for at in text.span(token).filter(|&at| codes[at] == Code::Plain) {
            let character = text.characters()[at];
            if let Some(&(_, close)) = BRACKETS.iter().find(|(begin, _)| *begin == character) {
                open.push((close, token));
            } else if BRACKETS.iter().any(|(_, close)| *close == character)
                && open.last().is_some_and(|(wanted, _)| *wanted == character)
            {
                distance = open.pop().map(|(_, from)| token - from);
            }
        }
        distance
    };
    (0..text.len()).map(distance).collect()
}

struct Seen {
    loss: f64,
    counted: [f64; LONGEST],
    model_right: bool,
    ngram_right: bool,
}

#[derive(Clone, Default)]
struct Sum {
    tokens: usize,
    loss: f64,
    ngrams: [f64; LONGEST],
    right: usize,
    only_model: usize,
    only_ngrams: usize,
}

impl Sum {
    fn add(&mut self, seen: &Seen) {
        self.tokens += 1;
        self.loss += seen.loss;
        for (sum, probability) in self.ngrams.iter_mut().zip(seen.counted) {
            *sum -= probability.ln();
        }
        self.right += usize::from(seen.model_right);
        self.only_model += usize::from(seen.model_right && !seen.ngram_right);
        self.only_ngrams += usize::from(seen.ngram_right && !seen.model_right);
    }

    fn row(self, name: String) -> Row {
        let count = self.tokens.max(1) as f64;
        Row {
            name,
            tokens: self.tokens,
            loss: self.loss / count,
            ngrams: self.ngrams.map(|sum| sum / count),
            right: self.right as f64 / count,
            only_model: self.only_model as f64 / count,
            only_ngrams: self.only_ngrams as f64 / count,
        }
    }
}
