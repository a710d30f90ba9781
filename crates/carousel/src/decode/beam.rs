//! Finds likely translations and captions: greedily, or with a beam.

use std::rc::Rc;

use carousel_kernels::loss::TOGETHER;

use crate::data::{EOS, PAD, SOS};
use crate::models::translator::{Sentences, Translator};
use crate::models::writer::{Scores, Writer, spread};

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

/// A step of a hypothesis, and where in a [`Job`]'s history the one before stands.
struct Written {
    before: Option<usize>,
    token: u32,
    log_probability: f32,
    looked: Option<Rc<Vec<f32>>>,
}

/// A hypothesis that is not at its end.
#[derive(Clone, Copy)]
struct Open {
    /// Its last step; `None` before the first.
    last: Option<usize>,
    sum: f64,
}

/// A sentence that is being translated.
struct Job<'a> {
    /// Its place among the sources.
    place: usize,
    prefix: &'a [u32],
    most: usize,
    /// Tokens of every hypothesis that is open.
    length: usize,
    history: Vec<Written>,
    open: Vec<Open>,
    done: Vec<Hypothesis>,
}

/// What a hypothesis may go on with, and what it does.
struct Choice<'s> {
    scores: Scores<'s>,
    /// Continuations wanted.
    most: usize,
    /// The only token that it may go on with.
    forced: Option<u32>,
    /// Those that it may not.
    banned: Vec<u32>,
    /// Tokens with their log-probabilities, best first.
    best: Vec<(u32, f64)>,
}

impl Choice<'_> {
    fn choose(&mut self) {
        let Scores { all, total, highest } = self.scores;
        let log_probability = |token: u32, score: f32| (token, f64::from(score) - total);
        if let Some(token) = self.forced {
            self.best = vec![log_probability(token, all[token as usize])];
            return;
        }
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(self.most + 1);
        for (chunk, (scores, &highest)) in all.chunks(TOGETHER).zip(highest).enumerate() {
            // Few of the chunks hold one of the best.
            if best.len() == self.most && highest <= best[self.most - 1].1 {
                continue;
            }
            for (token, &score) in ((chunk * TOGETHER) as u32..).zip(scores) {
                let full = best.len() == self.most;
                if full && score <= best[self.most - 1].1 {
                    continue;
                }
                if matches!(token, PAD | SOS) || (token != EOS && self.banned.contains(&token)) {
                    continue;
                }
                // Of equal ones the smaller token comes first.
                let place = best.partition_point(|&(_, other)| other >= score);
                best.insert(place, (token, score));
                best.truncate(self.most);
            }
        }
        self.best = best.into_iter().map(|(token, score)| log_probability(token, score)).collect();
    }
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
    let encoded = model.encode(&Sentences::pack(sources));
    let most: Vec<usize> = sources.iter().map(|source| search.most_tokens(source.len())).collect();
    greedy_from(model.writer(&encoded), &most)
}

/// The same from a writer that has a row for each text; `most` tokens of each.
///
/// # Panics
/// When there are other than as many rows as texts.
#[must_use]
pub fn greedy_from(mut writer: Writer<'_>, most: &[usize]) -> Vec<Vec<u32>> {
    assert_eq!(writer.rows(), most.len(), "a row for every text");
    let mut written: Vec<Vec<u32>> = vec![Vec::new(); most.len()];
    let mut open: Vec<usize> = (0..most.len()).collect();
    loop {
        let goes_on: Vec<usize> = (0..open.len())
            .filter(|&row| {
                let written = &written[open[row]];
                written.last() != Some(&EOS) && written.len() < most[open[row]]
            })
            .collect();
        writer.select(&goes_on);
        open = goes_on.iter().map(|&row| open[row]).collect();
        if open.is_empty() {
            break;
        }
        let last = |place: &usize| written[*place].last().copied().unwrap_or(SOS);
        writer.step(&open.iter().map(last).collect::<Vec<_>>());
        for (row, &place) in open.iter().enumerate() {
            written[place].push(likeliest(writer.scores(row)));
        }
    }
    for tokens in &mut written {
        tokens.pop_if(|token| *token == EOS);
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
    if sources.is_empty() {
        return Vec::new();
    }
    let encoded = model.encode(&Sentences::pack(sources));
    let most: Vec<usize> = sources.iter().map(|source| search.most_tokens(source.len())).collect();
    search_from(model.writer(&encoded), &most, prefixes, search)
}

/// The same from a writer that has a row for each text; `most` tokens of each, `<eos>` not counted.
///
/// # Panics
/// When there are other than as many rows as texts, or other than no or as many prefixes.
#[must_use]
pub fn search_from(
    mut writer: Writer<'_>,
    most: &[usize],
    prefixes: &[&[u32]],
    search: &Search,
) -> Vec<Vec<Hypothesis>> {
    assert_eq!(writer.rows(), most.len(), "a row for every text");
    assert!(prefixes.is_empty() || prefixes.len() == most.len(), "a prefix for every text, or none");
    let mut found: Vec<Vec<Hypothesis>> = vec![Vec::new(); most.len()];
    let beam = search.beam.max(1);
    let mut jobs: Vec<Job<'_>> = (0..most.len())
        .map(|place| {
            let prefix: &[u32] = prefixes.get(place).copied().unwrap_or_default();
            let most = most[place].max(prefix.len());
            let open = vec![Open { last: None, sum: 0.0 }];
            Job { place, prefix, most, length: 0, history: Vec::new(), open, done: Vec::new() }
        })
        .collect();
    while !jobs.is_empty() {
        // A row for every hypothesis that is open, sentence after sentence.
        writer.step(&jobs.iter().flat_map(Job::last_tokens).collect::<Vec<_>>());
        let vocabulary = writer.vocabulary();
        let mut scores = writer.all_scores();
        let mut choices: Vec<Choice<'_>> = Vec::with_capacity(scores.len());
        for job in &jobs {
            choices.extend(
                job.open
                    .iter()
                    .zip(&mut scores)
                    .map(|(&open, scores)| job.choice(open, beam, search, scores)),
            );
        }
        drop(scores);
        spread(&mut choices, vocabulary / 8, |_, choice| choice.choose());
        let choices: Vec<Vec<(u32, f64)>> = choices.into_iter().map(|choice| choice.best).collect();
        let mut first = 0;
        let mut rows = Vec::new();
        for job in &mut jobs {
            let count = job.open.len();
            let best = &choices[first..first + count];
            let looked = |slot: usize| writer.looked(first + slot).map(|weights| Rc::new(weights.to_vec()));
            rows.extend(job.advance(beam, search, best, looked).into_iter().map(|slot| first + slot));
            first += count;
        }
        for mut job in jobs.extract_if(.., |job| job.open.is_empty()) {
            job.done.sort_by(|a, b| b.score.total_cmp(&a.score));
            job.done.truncate(search.best.clamp(1, beam));
            found[job.place] = job.done;
        }
        writer.select(&rows);
    }
    found
}

impl Job<'_> {
    /// The last token of every open hypothesis.
    fn last_tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.iter().map(|open| open.last.map_or(SOS, |last| self.history[last].token))
    }

    /// The steps of a hypothesis, the last one first.
    fn back(&self, open: Open) -> impl Iterator<Item = &Written> + '_ {
        std::iter::successors(open.last.map(|last| &self.history[last]), |written| {
            written.before.map(|before| &self.history[before])
        })
    }

    fn choice<'s>(&self, open: Open, beam: usize, search: &Search, scores: Scores<'s>) -> Choice<'s> {
        let forced = match self.prefix.get(self.length) {
            Some(&token) => Some(token),
            None => (self.length >= self.most).then_some(EOS),
        };
        let most = beam - self.done.len();
        Choice { scores, most, forced, banned: self.repeats(open, search.no_repeat), best: Vec::new() }
    }

    /// The tokens that would make an n-gram that is there already.
    fn repeats(&self, open: Open, n: usize) -> Vec<u32> {
        if n == 0 || self.length < n {
            return Vec::new();
        }
        let mut tokens: Vec<u32> = self.back(open).map(|written| written.token).collect();
        tokens.reverse();
        let last = &tokens[tokens.len() + 1 - n..];
        tokens.windows(n).filter(|ngram| ngram[..n - 1] == *last).map(|ngram| ngram[n - 1]).collect()
    }

    /// Follows the likeliest of all continuations, as many as there are places left, and returns from which slot
    /// each of those that go on comes.
    fn advance(
        &mut self,
        beam: usize,
        search: &Search,
        best: &[Vec<(u32, f64)>],
        looked: impl Fn(usize) -> Option<Rc<Vec<f32>>>,
    ) -> Vec<usize> {
        let before = std::mem::take(&mut self.open);
        // Sum, slot, token, log-probability of the token.
        let mut candidates: Vec<(f64, usize, u32, f64)> = Vec::new();
        for (slot, (open, best)) in before.iter().zip(best).enumerate() {
            candidates.extend(best.iter().map(|&(token, one)| (open.sum + one, slot, token, one)));
        }
        // Of equal ones those of an earlier slot and a smaller token come first.
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        candidates.truncate(beam - self.done.len());
        let looked: Vec<_> = (0..before.len()).map(looked).collect();
        self.length += 1;
        let mut origins = Vec::new();
        for (sum, slot, token, one) in candidates {
            let looked = looked[slot].clone();
            self.history.push(Written {
                before: before[slot].last,
                token,
                log_probability: one as f32,
                looked,
            });
            let open = Open { last: Some(self.history.len() - 1), sum };
            if token == EOS {
                self.done.push(self.ended(open, search.penalty));
            } else {
                self.open.push(open);
                origins.push(slot);
            }
        }
        origins
    }

    fn ended(&self, open: Open, penalty: LengthPenalty) -> Hypothesis {
        let mut steps: Vec<&Written> = self.back(open).collect();
        steps.reverse();
        Hypothesis {
            score: open.sum / penalty.of(steps.len()),
            tokens: steps.iter().map(|written| written.token).collect(),
            log_probabilities: steps.iter().map(|written| written.log_probability).collect(),
            attention: steps.iter().filter_map(|written| written.looked.clone()).collect(),
        }
    }
}
