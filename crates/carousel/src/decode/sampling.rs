//! Draws text from a language model, one token at a time.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::data::{Documents, Tokenizer};
use crate::models::language_model::{LanguageModel, LanguageModelStepper};
use crate::saved::{OpenError, SavedLanguageModel};
use crate::stepper::StepPrecision;

/// How the next token is chosen among the likely ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits: below 1 safer, above 1 wilder; 0 always takes the likeliest.
    pub temperature: f64,
    /// Only so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability (nucleus sampling, Holtzman et al.
    /// 2020).
    pub top_p: Option<f64>,
    /// The same seed gives the same text.
    pub seed: u64,
}

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What a document is: of lines one is written, to its end.
    pub documents: Documents,
    /// The most tokens.
    pub tokens: usize,
}

/// Lets the best checkpoint of a run continue `prompt` by `length` tokens, or to the end of a document where those are
/// lines. `on_text` hears the text piece
/// by piece as it is made; the whole is returned, without the prompt.
///
/// # Errors
/// [`OpenError`] when the run cannot be opened.
pub fn sample(
    run: &Path,
    prompt: &str,
    length: usize,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> Result<String, OpenError> {
    sample_with(run, StepPrecision::F32, prompt, length, sampling, on_text)
}

/// The same with the recurrent weights in `precision`.
///
/// # Errors
/// As [`sample`].
pub fn sample_with(
    run: &Path,
    precision: StepPrecision,
    prompt: &str,
    length: usize,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> Result<String, OpenError> {
    let mut texts = sample_many(run, precision, prompt, [1, length], sampling, &mut |_, text| on_text(text))?;
    Ok(texts.pop().unwrap_or_default())
}

/// The same for several texts, `[count, length]`, each with a seed of its own. `on_text` also hears which one it is.
///
/// # Errors
/// As [`sample`].
pub fn sample_many(
    run: &Path,
    precision: StepPrecision,
    prompt: &str,
    [count, length]: [usize; 2],
    sampling: &Sampling,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<String>, OpenError> {
    let SavedLanguageModel { recipe, tokenizer, model } = SavedLanguageModel::open(run)?;
    let extent = Extent { documents: recipe.data.documents, tokens: length };
    let mut texts = Vec::new();
    let mut stepper = one(&model, precision);
    for number in 0..count {
        stepper.reset();
        let sampling = Sampling { seed: sampling.seed.wrapping_add(number as u64), ..*sampling };
        let told = &mut |text: &str| on_text(number, text);
        texts.push(write_with(&mut stepper, &tokenizer, prompt, extent, &sampling, told));
        // A document may end at once; it is heard of all the same.
        if texts[number].is_empty() {
            on_text(number, "");
        }
    }
    Ok(texts)
}

/// Reads and writes one text.
fn one(model: &LanguageModel, precision: StepPrecision) -> LanguageModelStepper {
    model.stepper_with(1, precision).expect("one text is not none")
}

/// The same with a model at hand.
pub fn write(
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    extent: Extent,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> String {
    write_with(&mut one(model, StepPrecision::F32), tokenizer, prompt, extent, sampling, on_text)
}

fn write_with(
    stepper: &mut LanguageModelStepper,
    tokenizer: &Tokenizer,
    prompt: &str,
    extent: Extent,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
    let banned = tokenizer.vocab().unknown();
    let mut read = tokenizer.encode(prompt);
    let mut decoder = tokenizer.decoder();
    // Behind a prompt's last word the next one stands apart.
    if !prompt.ends_with(char::is_whitespace) {
        read.iter().for_each(|&token| drop(decoder.push(token)));
    }
    let lines = extent.documents == Documents::Lines;
    if lines || read.is_empty() {
        // Without a prompt it starts a line; where documents are lines, a prompt begins one.
        read.insert(0, tokenizer.line_end());
    }
    let mut text = String::new();
    let mut tell = |piece: String, text: &mut String| {
        if !piece.is_empty() {
            on_text(&piece);
            text.push_str(&piece);
        }
    };
    let mut next = read.pop().unwrap_or_default();
    const OWN: &str = "a token of the model's own vocabulary";
    for token in read {
        stepper.read(&[token]).expect(OWN);
    }
    for _ in 0..extent.tokens {
        let logits = stepper.step(&[next]).expect(OWN);
        next = choose(logits, banned, sampling, &mut random);
        if lines && next == tokenizer.line_end() {
            break;
        }
        tell(decoder.push(next), &mut text);
    }
    tell(decoder.finish(), &mut text);
    text
}

/// Draws a token by its logits. `banned` is never drawn.
fn choose(logits: &[f32], banned: Option<u32>, sampling: &Sampling, random: &mut ChaCha8Rng) -> u32 {
    let banned = banned.filter(|_| logits.len() > 1);
    let mut tokens = Likeliest::new(logits, (0..logits.len() as u32).filter(|&token| Some(token) != banned));
    let first = tokens.at(0);
    if sampling.temperature <= 0.0 {
        return first;
    }
    if let Some(count) = sampling.top_k {
        tokens.keep(count.max(1));
    }
    let top = f64::from(logits[first as usize]);
    let weight = |token: u32| ((f64::from(logits[token as usize]) - top) / sampling.temperature).exp();
    let mut total: f64 = tokens.order.iter().map(|&token| weight(token)).sum();
    if let Some(share) = sampling.top_p {
        let (limit, mut count) = (share * total, 0);
        total = 0.0;
        while count < tokens.order.len() && total < limit {
            total += weight(tokens.at(count));
            count += 1;
        }
        tokens.keep(count.max(1));
    }
    // 53 random bits: as many as an f64 between 0 and 1 can tell apart.
    let mut point = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
    let last = tokens.order.len() - 1;
    for place in 0..last {
        let token = tokens.at(place);
        point -= weight(token);
        if point < 0.0 {
            return token;
        }
    }
    tokens.at(last)
}

/// Tokens, the likeliest first; sorted as far as was asked, for most draws end among the first of a large vocabulary.
struct Likeliest<'a> {
    logits: &'a [f32],
    order: Vec<u32>,
    sorted: usize,
}

impl<'a> Likeliest<'a> {
    fn new(logits: &'a [f32], tokens: impl Iterator<Item = u32>) -> Likeliest<'a> {
        Likeliest { logits, order: tokens.collect(), sorted: 0 }
    }

    fn at(&mut self, place: usize) -> u32 {
        while self.sorted <= place {
            self.sort_to((2 * self.sorted).max(32));
        }
        self.order[place]
    }

    /// Forgets all but the first `count`.
    fn keep(&mut self, count: usize) {
        if count < self.order.len() {
            if self.sorted < count {
                self.sort_to(count);
            }
            self.order.truncate(count);
            self.sorted = self.sorted.min(count);
        }
    }

    fn sort_to(&mut self, count: usize) {
        let count = count.min(self.order.len());
        let by = |a: &u32, b: &u32| {
            let [one, other] = [a, b].map(|&token| self.logits[token as usize]);
            other.total_cmp(&one).then(a.cmp(b))
        };
        let rest = &mut self.order[self.sorted..];
        let more = count - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more, by);
        }
        rest[..more].sort_unstable_by(by);
        self.sorted = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, seed: 3 };

    /// How often each token is drawn in 4,000 draws.
    fn shares(logits: &[f32], banned: Option<u32>, sampling: Sampling) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..4000 {
            counts[choose(logits, banned, &sampling, &mut random) as usize] += 1.0 / 4000.0;
        }
        counts
    }

    #[test]
    fn the_likeliest_come_first() {
        // Each score several times: of equal ones the lower token is first.
        let logits: Vec<f32> = (0..1000u32).map(|token| (token * 7919 % 301) as f32).collect();
        let mut expected: Vec<u32> = (0..1000).filter(|&token| token != 5).collect();
        expected.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let all = || Likeliest::new(&logits, (0..1000).filter(|&token| token != 5));
        let mut tokens = all();
        assert_eq!((0..999).map(|place| tokens.at(place)).collect::<Vec<_>>(), expected);
        for (asked, kept) in [(0, 1), (0, 32), (40, 33), (40, 500), (500, 998), (3, 5000)] {
            let mut tokens = all();
            assert_eq!(tokens.at(asked), expected[asked]);
            tokens.keep(kept);
            assert_eq!(tokens.order.len(), kept.min(999));
            assert_eq!(
                (0..tokens.order.len()).map(|place| tokens.at(place)).collect::<Vec<_>>(),
                expected[..kept.min(999)]
            );
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let logits = [4.0f32, 2.0, 1.0, 1.0].map(f32::ln);
        let check = |sampling, banned, expected: [f64; 4]| {
            for (found, expected) in shares(&logits, banned, sampling).iter().zip(expected) {
                assert!((found - expected).abs() < 0.03, "{sampling:?}: {found}, expected {expected}");
                assert!(expected > 0.0 || *found == 0.0, "{sampling:?}");
            }
        };
        check(PLAIN, None, [0.5, 0.25, 0.125, 0.125]);
        check(PLAIN, Some(0), [0.0, 0.5, 0.25, 0.25]);
        check(Sampling { temperature: 0.0, ..PLAIN }, None, [1.0, 0.0, 0.0, 0.0]);
        check(
            Sampling { temperature: 0.5, ..PLAIN },
            None,
            [16.0 / 22.0, 4.0 / 22.0, 1.0 / 22.0, 1.0 / 22.0],
        );
        check(Sampling { top_k: Some(2), ..PLAIN }, None, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(Sampling { top_p: Some(0.7), ..PLAIN }, None, [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(Sampling { top_p: Some(0.4), ..PLAIN }, None, [1.0, 0.0, 0.0, 0.0]);
    }
}
