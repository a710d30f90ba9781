//! Finds likely translations: greedily, or with a beam.

use std::rc::Rc;

use crate::data::{EOS, PAD, SOS};
use crate::fused::with_slice;
use crate::models::translator::{Decoded, Encoded, Sentences, Translator};
use crate::state::State;

/// What a hypothesis' log-probability is divided by, for long ones have more factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LengthPenalty {
    /// Nothing.
    None,
    /// The number of its tokens, `<eos>` included.
    Average,
    /// `((5 + tokens) / 6)^α` (Wu et al. 2016).
    Wu(f64),
}

impl LengthPenalty {
    fn of(self, tokens: usize) -> f64 {
        match self {
            LengthPenalty::None => 1.0,
            LengthPenalty::Average => tokens as f64,
            LengthPenalty::Wu(alpha) => ((5.0 + tokens as f64) / 6.0).powf(alpha),
        }
    }
}

/// How translations are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// Hypotheses that are followed at the same time. A sentence that ends takes its place with it, so that a beam of
    /// one is greedy.
    pub beam: usize,
    /// How long and short ones are compared.
    pub penalty: LengthPenalty,
    /// No n-gram of so many tokens occurs twice in a translation; 0: as it comes.
    pub no_repeat: usize,
    /// Translations wanted of each sentence, at most `beam`.
    pub best: usize,
    /// The most tokens of a translation: so many for each token of the source …
    pub ratio: f64,
    /// … and so many more.
    pub extra: usize,
}

impl Default for Search {
    /// A beam of 5 with the average log-probability, at most twice as many tokens and 10.
    fn default() -> Search {
        Search { beam: 5, penalty: LengthPenalty::Average, no_repeat: 0, best: 1, ratio: 2.0, extra: 10 }
    }
}

impl Search {
    /// The most tokens of a translation, `<eos>` not counted, of a source that takes so many places.
    #[must_use]
    pub fn most_tokens(&self, places: usize) -> usize {
        (places.saturating_sub(2) as f64 * self.ratio) as usize + self.extra
    }
}

/// One translation.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens, the last one `<eos>`.
    pub tokens: Vec<u32>,
    /// The log-probability of each.
    pub log_probabilities: Vec<f32>,
    /// The sum of those over the length penalty.
    pub score: f64,
    /// For each token how much each place of the source was looked at; empty without attention.
    pub attention: Vec<Rc<Vec<f32>>>,
}

/// A hypothesis that is not at its end.
#[derive(Clone, Debug)]
struct Open {
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    sum: f64,
    attention: Vec<Rc<Vec<f32>>>,
}

impl Open {
    fn start() -> Open {
        Open { tokens: Vec::new(), log_probabilities: Vec::new(), sum: 0.0, attention: Vec::new() }
    }

    fn with(&self, token: u32, log_probability: f64, attention: Option<&Rc<Vec<f32>>>) -> Open {
        let mut longer = self.clone();
        longer.tokens.push(token);
        longer.log_probabilities.push(log_probability as f32);
        longer.sum += log_probability;
        longer.attention.extend(attention.cloned());
        longer
    }

    fn ended(self, penalty: LengthPenalty) -> Hypothesis {
        let score = self.sum / penalty.of(self.tokens.len());
        let Open { tokens, log_probabilities, attention, .. } = self;
        Hypothesis { tokens, log_probabilities, score, attention }
    }

    /// Whether one more token would make an n-gram that is there already.
    fn repeats(&self, token: u32, n: usize) -> bool {
        if n == 0 || self.tokens.len() < n {
            return false;
        }
        let last = &self.tokens[self.tokens.len() + 1 - n..];
        self.tokens.windows(n).any(|ngram| ngram[..n - 1] == *last && ngram[n - 1] == token)
    }
}

/// A sentence that is being translated.
struct Job<'a> {
    /// Its place among the sources.
    place: usize,
    prefix: &'a [u32],
    most: usize,
    open: Vec<Open>,
    done: Vec<Hypothesis>,
}

/// Log-probabilities from scores.
fn log_softmax(scores: &[f32]) -> impl Fn(usize) -> f64 + '_ {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&score| f64::from(score - highest).exp()).sum();
    let base = f64::from(highest) + sum.ln();
    move |token| f64::from(scores[token]) - base
}

/// The highest of the scores that a translation may have; of equal ones the first.
#[must_use]
pub fn likeliest(scores: &[f32]) -> u32 {
    let allowed = (0..scores.len()).filter(|&token| !matches!(token as u32, PAD | SOS));
    let best = allowed.reduce(|best, token| if scores[token] > scores[best] { token } else { best });
    best.unwrap_or_default() as u32
}

/// The likeliest token after each other, without looking back, for sentences side by side: tokens without `<eos>`,
/// at most `search.most_tokens` of them.
///
/// # Panics
/// When a token is not known.
#[must_use]
pub fn greedy(model: &Translator, sources: &[&[u32]], search: &Search) -> Vec<Vec<u32>> {
    if sources.is_empty() {
        return Vec::new();
    }
    let Encoded { memory, mut state } = model.encode(&Sentences::pack(sources));
    let most: Vec<usize> = sources.iter().map(|source| search.most_tokens(source.len())).collect();
    let mut written = vec![Vec::new(); sources.len()];
    let mut ended: Vec<bool> = most.iter().map(|&most| most == 0).collect();
    let mut tokens = vec![SOS; sources.len()];
    while !ended.iter().all(|ended| *ended) {
        let Decoded { logits, state: next, .. } = model.step(&tokens, memory.as_ref(), state);
        state = next;
        let vocabulary = logits.dims()[1];
        with_slice(&logits, |logits| {
            for (place, scores) in logits.chunks_exact(vocabulary).enumerate() {
                tokens[place] = likeliest(scores);
                if !ended[place] && tokens[place] != EOS {
                    written[place].push(tokens[place]);
                }
                ended[place] |= tokens[place] == EOS || written[place].len() == most[place];
            }
        });
    }
    written
}

/// The best translations of sentences side by side, each list best first. `prefixes`, where there are any, are what
/// each translation must begin with.
///
/// At the most tokens a translation has to end: only `<eos>` is left to it.
///
/// # Panics
/// When a token is not known, or there are other than no or as many prefixes as sources.
#[must_use]
pub fn search(
    model: &Translator,
    sources: &[&[u32]],
    prefixes: &[&[u32]],
    search: &Search,
) -> Vec<Vec<Hypothesis>> {
    assert!(prefixes.is_empty() || prefixes.len() == sources.len(), "a prefix for every source, or none");
    let mut found: Vec<Vec<Hypothesis>> = vec![Vec::new(); sources.len()];
    if sources.is_empty() {
        return found;
    }
    let beam = search.beam.max(1);
    let encoded = model.encode(&Sentences::pack(sources));
    let (mut memory, state) = (encoded.memory, encoded.state);
    let mut jobs: Vec<Job<'_>> = (0..sources.len())
        .map(|place| {
            let prefix: &[u32] = prefixes.get(place).copied().unwrap_or_default();
            let most = search.most_tokens(sources[place].len()).max(prefix.len());
            Job { place, prefix, most, open: vec![Open::start()], done: Vec::new() }
        })
        .collect();
    // Every sentence has as many rows as the beam is wide: those that are not taken repeat the first.
    let rows: Vec<usize> = (0..jobs.len()).flat_map(|job| vec![job; beam]).collect();
    let mut state: State = state.select(&rows);
    while !jobs.is_empty() {
        let tokens: Vec<u32> = jobs
            .iter()
            .flat_map(|job| (0..beam).map(|slot| job.open.get(slot).unwrap_or(&job.open[0])))
            .map(|open| open.tokens.last().copied().unwrap_or(SOS))
            .collect();
        let decoded = model.step(&tokens, memory.as_ref(), state);
        let vocabulary = decoded.logits.dims()[1];
        let mut origins: Vec<Vec<usize>> = Vec::with_capacity(jobs.len());
        with_slice(&decoded.logits, |logits| {
            let looked = decoded.attention.as_ref().map(|weights| {
                let places = weights.dims()[1];
                with_slice(weights, |weights| {
                    weights.chunks_exact(places).map(<[f32]>::to_vec).collect::<Vec<_>>()
                })
            });
            for (number, job) in jobs.iter_mut().enumerate() {
                let row = |slot: usize| number * beam + slot;
                let places = sources[job.place].len();
                let looked =
                    |slot: usize| looked.as_ref().map(|all| Rc::new(all[row(slot)][..places].to_vec()));
                let scores = |slot: usize| &logits[row(slot) * vocabulary..][..vocabulary];
                origins.push(job.advance(beam, search, scores, looked));
            }
        });
        // Sentences that are done leave, the others' rows follow their hypotheses.
        let kept: Vec<usize> = (0..jobs.len()).filter(|&number| !jobs[number].open.is_empty()).collect();
        let rows: Vec<usize> = kept
            .iter()
            .flat_map(|&number| {
                let origins = &origins[number];
                (0..beam).map(move |slot| number * beam + origins.get(slot).unwrap_or(&origins[0]))
            })
            .collect();
        if kept.len() < jobs.len() {
            memory = memory.map(|memory| if kept.is_empty() { memory } else { memory.select(&kept) });
        }
        for mut job in jobs.extract_if(.., |job| job.open.is_empty()) {
            job.done.sort_by(|a, b| b.score.total_cmp(&a.score));
            job.done.truncate(search.best.clamp(1, beam));
            found[job.place] = job.done;
        }
        state = if rows.is_empty() { decoded.state } else { decoded.state.select(&rows) };
    }
    found
}

impl Job<'_> {
    /// Follows the likeliest continuations, as many as there are places left, and returns from which slot each of
    /// those that go on comes.
    fn advance<'s>(
        &mut self,
        beam: usize,
        search: &Search,
        scores: impl Fn(usize) -> &'s [f32],
        looked: impl Fn(usize) -> Option<Rc<Vec<f32>>>,
    ) -> Vec<usize> {
        let step = self.open[0].tokens.len();
        let left = beam - self.done.len();
        let mut candidates: Vec<(f64, f64, usize, u32)> = Vec::new();
        for (slot, open) in self.open.iter().enumerate() {
            let scores = scores(slot);
            let log_probability = log_softmax(scores);
            let forced = match self.prefix.get(step) {
                Some(&token) => Some(token),
                None => (step >= self.most).then_some(EOS),
            };
            let mut own: Vec<(f64, f64, usize, u32)> = match forced {
                Some(token) => {
                    let one = log_probability(token as usize);
                    vec![(open.sum + one, one, slot, token)]
                }
                None => (0..scores.len() as u32)
                    .filter(|&token| !matches!(token, PAD | SOS))
                    .filter(|&token| token == EOS || !open.repeats(token, search.no_repeat))
                    .map(|token| {
                        let one = log_probability(token as usize);
                        (open.sum + one, one, slot, token)
                    })
                    .collect(),
            };
            keep_best(&mut own, left);
            candidates.extend(own);
        }
        keep_best(&mut candidates, left);
        let weights: Vec<Option<Rc<Vec<f32>>>> = (0..self.open.len()).map(looked).collect();
        let mut origins = Vec::new();
        let before = std::mem::take(&mut self.open);
        for (_, one, slot, token) in candidates {
            let longer = before[slot].with(token, one, weights[slot].as_ref());
            if token == EOS {
                self.done.push(longer.ended(search.penalty));
            } else {
                self.open.push(longer);
                origins.push(slot);
            }
        }
        origins
    }
}

/// The best candidates, best first; of equal ones those of an earlier slot and a smaller token.
fn keep_best(candidates: &mut Vec<(f64, f64, usize, u32)>, most: usize) {
    let order = |a: &(f64, f64, usize, u32), b: &(f64, f64, usize, u32)| {
        b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)).then(a.3.cmp(&b.3))
    };
    if candidates.len() > most && most > 0 {
        candidates.select_nth_unstable_by(most - 1, order);
    }
    candidates.truncate(most);
    candidates.sort_by(order);
}
