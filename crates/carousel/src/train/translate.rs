//! Trains and measures translators.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{DataError, Document, EncodedPair, MaxLen, Side, TooLong};
use crate::decode::beam::{Hypothesis, Search, greedy, likeliest};
use crate::init::Initializer;
use crate::metrics::{BleuCounts, Interval, chrf, exact_matches, token_errors};
use crate::models::decoder::Hidden;
use crate::models::reader::Learned;
use crate::models::translator::{Sentences, Translator};
use crate::recipe::{MetricName, Recipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    Known, SavedTranslator, TRANSLATOR, search_all, sentence, side_by_side, translator_config,
};
use crate::train::examples::{ExampleJob, ExampleTask, Parts, shifted, spread_over};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::prepare::{places, prepare, prepare_with, prepared_among, read_sides};
use crate::train::trainer::train;
use crate::train::{Control, Event, Score, Sources, Start, Summary, TrainError, precision, write_json};

/// What a run's best checkpoint made of the test part, in its folder.
pub const TRANSLATIONS: &str = "translations.json";

/// Translations that an evaluation keeps.
const SHOWN: usize = 12;
/// How often sentences are drawn anew to see how far BLEU may be off.
const RESAMPLES: usize = 1000;
/// Translations shown after a validation.
const SAMPLES: usize = 3;

/// Trains a translator in a run's folder.
///
/// The folder gets both vocabularies and in the end `translations.json`: how the best checkpoint does on the test
/// part, or on the validation part where there is no other.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn translate(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let precision = precision(recipe)?;
    let prepared = match start {
        Start::New => {
            let prepared = prepare(recipe, sources)?;
            prepared.write_sides(run)?;
            write_json(run, TRANSLATOR, serde_json::to_string(&Known { max_len: prepared.max_len }))?;
            prepared
        }
        Start::Resume => {
            let Known { max_len } = crate::saved::read_json(run, TRANSLATOR)?;
            prepare_with(recipe, sources, Some((read_sides(run.path(), recipe)?, max_len)))?
        }
    };
    on_event(&Event::Pairs {
        parts: &prepared.counts,
        max_len: prepared.max_len,
        vocabularies: [prepared.sides[0].len(), prepared.sides[1].len()],
    });
    let [train_part, valid, test] = prepared.parts;
    let model = translator_config(recipe, prepared.sides.each_ref().map(Side::len))
        .init(&Device::default().autodiff())?
        .with_precision(precision);
    let tokens = |part: &[EncodedPair]| part.iter().map(places).sum();
    let facts = Facts {
        vocabulary: None,
        train_tokens: Some(tokens(&train_part)),
        valid_tokens: Some(tokens(&valid)),
    };
    let (judged, left_out) = match test.is_empty() {
        true => (valid.clone(), prepared.counts[1].empty),
        false => (test.clone(), prepared.counts[2].empty),
    };
    let parts = Parts { train: train_part, valid, test };
    let task = Translating { recipe, target: prepared.sides[1].clone() };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let saved = SavedTranslator::open(run.path())?;
        let search = Search::default();
        let evaluation = judge(&saved.model, recipe, &saved.sides, (&judged, left_out), &search);
        write_json(run, TRANSLATIONS, serde_json::to_string_pretty(&evaluation))?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run on pairs, all of them.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the pairs do not do.
pub fn evaluate_translator(
    run: &Path,
    documents: &[Document],
    search: &Search,
) -> Result<TranslateEvaluation, TrainError> {
    let saved = SavedTranslator::open(run)?;
    if let Some(name) = prepared_among(documents) {
        let reason =
            "it belongs to a prepared set, expected pairs of texts: the files that the set was made of";
        return Err(DataError::File { name: name.to_owned(), reason: reason.to_owned() }.into());
    }
    let mut recipe = saved.recipe.clone();
    // What is measured is cut where it is longer than the model reads, and none is held out.
    recipe.data.too_long = TooLong::Cut;
    recipe.data.max_len = MaxLen::Places(saved.max_len[0].max(saved.max_len[1]));
    recipe.data.split = [1.0, 0.0, 0.0];
    let sources = Sources { train: documents.to_vec(), ..Sources::default() };
    let known = Some((saved.sides.clone(), saved.max_len));
    let prepared = prepare_with(&recipe, &sources, known)?;
    if prepared.counts[0].source_tokens == prepared.counts[0].source_unknown {
        let reason = "not one token of the sources is in the run's vocabulary; data.source and data.target of the \
                      run say which column it reads";
        return Err(DataError::Examples { reason: reason.to_owned() }.into());
    }
    let measured = (prepared.parts[0].as_slice(), prepared.counts[0].empty);
    Ok(judge(&saved.model, &saved.recipe, &saved.sides, measured, search))
}

/// How well a translator does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranslateEvaluation {
    /// Different sources.
    pub sentences: usize,
    /// Pairs that were left out because a side is empty.
    #[serde(default)]
    pub left_out: usize,
    /// References; a source may have several, equal ones count once.
    pub references: usize,
    /// Tokens of the references, `<eos>` included.
    pub tokens: usize,
    /// Mean loss of those in nats where the decoder reads the reference.
    pub loss: f64,
    /// `e` to the power of that: teacher-forced perplexity.
    pub perplexity: f64,
    /// The same where the decoder reads what it wrote itself, token by token: free-running perplexity.
    pub free_perplexity: f64,
    /// The share of the references' tokens that have the highest score, teacher-forced.
    pub accuracy: f64,
    /// BLEU, from 0 to 100.
    pub bleu: f64,
    /// BLEU with its parts.
    pub bleu_line: String,
    /// How BLEU was computed.
    pub bleu_signature: String,
    /// How far BLEU may be off, by resampling the sentences.
    #[serde(default)]
    pub bleu_interval: Option<Interval>,
    /// chrF, from 0 to 100.
    pub chrf: f64,
    /// How chrF was computed.
    pub chrf_signature: String,
    /// The share of translations that are one of their references.
    pub exact_match: f64,
    /// Edits a token of the references, of the nearest one.
    pub token_error_rate: f64,
    /// Some translations.
    pub examples: Vec<TranslationExample>,
}

/// A translation beside its references.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranslationExample {
    /// File and line.
    pub place: String,
    /// What was read.
    pub source: String,
    /// What could have been written.
    pub references: Vec<String>,
    /// What was written.
    pub text: String,
    /// Its tokens and the probability of each.
    pub tokens: Vec<(String, f32)>,
}

/// Pairs of one source are one sentence with several references.
struct Grouped<'a> {
    first: Vec<&'a EncodedPair>,
    references: Vec<Vec<String>>,
}

impl<'a> Grouped<'a> {
    fn new(pairs: &'a [EncodedPair]) -> Grouped<'a> {
        let mut places: HashMap<&[u32], Vec<usize>> = HashMap::new();
        let mut grouped = Grouped { first: Vec::new(), references: Vec::new() };
        for pair in pairs {
            // Unknown tokens make different texts look alike.
            let known = places.entry(&pair.source).or_default();
            let same = known.iter().find(|&&place| grouped.first[place].text.source == pair.text.source);
            match same {
                Some(&place) => {
                    let references: &mut Vec<String> = &mut grouped.references[place];
                    if !references.contains(&pair.text.target) {
                        references.push(pair.text.target.clone());
                    }
                }
                None => {
                    known.push(grouped.first.len());
                    grouped.first.push(pair);
                    grouped.references.push(vec![pair.text.target.clone()]);
                }
            }
        }
        grouped
    }

    /// Keeps so many sentences, spread over all.
    fn thin(&mut self, most: usize) {
        let chosen: Vec<usize> = spread_over(self.first.len(), most).collect();
        self.references = chosen.iter().map(|&place| std::mem::take(&mut self.references[place])).collect();
        self.first = chosen.iter().map(|&place| self.first[place]).collect();
    }

    fn sources(&self) -> Vec<&'a [u32]> {
        self.first.iter().map(|pair| pair.source.as_slice()).collect()
    }
}

/// Scores of translations: BLEU, chrF, exact matches and error rate.
struct Scored {
    bleu: BleuCounts,
    chrf: crate::metrics::Chrf,
    exact_match: f64,
    token_error_rate: f64,
}

fn score(recipe: &Recipe, target: &Side, answers: &[String], references: &[Vec<String>]) -> Scored {
    let lowercase = recipe.data.lowercase;
    let each = |of: &dyn Fn(&str) -> String| -> Vec<Vec<String>> {
        references.iter().map(|all| all.iter().map(|text| of(text)).collect()).collect()
    };
    let (normal, spelled) = (each(&|text| target.normal(text)), each(&|text| target.in_form(text)));
    Scored {
        bleu: BleuCounts::new(answers, &spelled, recipe.train.bleu_tokens, lowercase),
        chrf: chrf(answers, &spelled, lowercase),
        exact_match: exact_matches(answers, &normal) as f64 / answers.len().max(1) as f64,
        token_error_rate: token_errors(answers, &normal).rate(),
    }
}

/// A batch of pairs as the model reads it.
struct Shifted {
    sources: Sentences,
    inputs: Sentences,
    wanted: Vec<u32>,
}

impl Shifted {
    fn new(pairs: &[&EncodedPair]) -> Shifted {
        let (ids, wanted, batch) = shifted(pairs.iter().map(|pair| pair.target.as_slice()));
        let sources = Sentences::pack(&pairs.iter().map(|pair| pair.source.as_slice()).collect::<Vec<_>>());
        Shifted { sources, inputs: Sentences { ids, batch }, wanted }
    }
}

/// Loss in nats, targets, and how many of them have the highest score; `own`: the decoder reads what it writes.
fn losses(model: &Translator, pairs: &[EncodedPair], own: bool) -> (f64, usize, usize) {
    let rows: Vec<&[u32]> = pairs.iter().map(|pair| pair.source.as_slice()).collect();
    let mut sum = (0.0, 0, 0);
    for batch in side_by_side(&rows, 1) {
        let chosen: Vec<&EncodedPair> = batch.iter().map(|&place| &pairs[place]).collect();
        let Shifted { sources, inputs, wanted } = Shifted::new(&chosen);
        let read = match own {
            true => model.read_own(&sources, &inputs.ids, &inputs.batch, &mut || false, &mut likeliest),
            false => inputs.ids,
        };
        let loss = model.measure(&sources, &read, &wanted, &inputs.batch);
        sum = (sum.0 + loss.nats, sum.1 + loss.count, sum.2 + loss.correct);
    }
    sum
}

fn judge(
    model: &Translator,
    recipe: &Recipe,
    sides: &[Side; 2],
    (pairs, left_out): (&[EncodedPair], usize),
    search: &Search,
) -> TranslateEvaluation {
    let target = &sides[1];
    let grouped = Grouped::new(pairs);
    let found = search_all(model, &grouped.sources(), &[], search);
    let best: Vec<Hypothesis> = found.into_iter().filter_map(|all| all.into_iter().next()).collect();
    let answers: Vec<String> = best.iter().map(|one| sentence(target, &one.tokens)).collect();
    let scored = score(recipe, target, &answers, &grouped.references);
    let bleu = scored.bleu.score();
    let (nats, tokens, correct) = losses(model, pairs, false);
    let (free, ..) = losses(model, pairs, true);
    let mean = |nats: f64| nats / tokens.max(1) as f64;
    let examples = grouped.first.iter().zip(&grouped.references).zip(answers.iter().zip(&best)).take(SHOWN);
    TranslateEvaluation {
        sentences: answers.len(),
        left_out,
        references: grouped.references.iter().map(Vec::len).sum(),
        tokens,
        loss: mean(nats),
        perplexity: mean(nats).exp(),
        free_perplexity: mean(free).exp(),
        accuracy: correct as f64 / tokens.max(1) as f64,
        bleu: bleu.score,
        bleu_line: bleu.to_string(),
        bleu_signature: bleu.signature,
        bleu_interval: scored.bleu.interval(RESAMPLES, recipe.seed),
        chrf: scored.chrf.score,
        chrf_signature: scored.chrf.signature,
        exact_match: scored.exact_match,
        token_error_rate: scored.token_error_rate,
        examples: examples
            .map(|((pair, references), (text, found))| TranslationExample {
                place: pair.text.place.clone(),
                source: pair.text.source.clone(),
                references: references.clone(),
                text: text.clone(),
                tokens: (found.tokens.iter().zip(&found.log_probabilities))
                    .map(|(&id, log)| (target.shown(id), log.exp()))
                    .collect(),
            })
            .collect(),
    }
}

struct Translating<'a> {
    recipe: &'a Recipe,
    target: Side,
}

impl Translating<'_> {
    /// Loss of all pairs, and scores of the different sources, spread over all, translated by `translate`.
    fn measured(
        &self,
        model: &Translator,
        pairs: &[EncodedPair],
        most: usize,
        translate: impl Fn(&[&[u32]]) -> Vec<Vec<u32>>,
    ) -> Measured {
        let (loss, targets, correct) = losses(model, pairs, false);
        let mut grouped = Grouped::new(pairs);
        grouped.thin(most);
        let mut measured =
            Measured { loss, targets, answers: Some((correct, targets)), ..Measured::default() };
        if grouped.first.is_empty() {
            return measured;
        }
        let answers: Vec<String> = translate(&grouped.sources()).iter().map(|ids| self.text(ids)).collect();
        let scored = score(self.recipe, &self.target, &answers, &grouped.references);
        let bleu = scored.bleu.score().score;
        measured.criterion = match self.recipe.train.metric {
            Some(MetricName::Bleu) => Some(bleu),
            Some(MetricName::ExactMatch) => Some(scored.exact_match),
            _ => None,
        };
        measured.scores = vec![
            Score::new("bleu", bleu),
            Score::new("exact_match", scored.exact_match),
            Score::new("chrf", scored.chrf.score),
            Score::new("token_error_rate", scored.token_error_rate),
        ];
        measured
    }

    fn text(&self, ids: &[u32]) -> String {
        sentence(&self.target, ids)
    }
}

/// Greedy translations of all sources.
fn greedy_all(model: &Translator, sources: &[&[u32]]) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new(); sources.len()];
    for batch in side_by_side(sources, 1) {
        let rows: Vec<&[u32]> = batch.iter().map(|&place| sources[place]).collect();
        for (&place, found) in batch.iter().zip(greedy(model, &rows, &Search::default())) {
            all[place] = found;
        }
    }
    all
}

impl ExampleTask for Translating<'_> {
    type Model = Translator;
    type Example = EncodedPair;

    fn length(&self, example: &EncodedPair) -> usize {
        places(example)
    }

    fn targets(&self, example: &EncodedPair) -> usize {
        example.target.len() - 1
    }

    fn objective(&self, model: &Translator, batch: &[&EncodedPair], noise: Noise, update: u64) -> Objective {
        let Shifted { sources, inputs, wanted } = Shifted::new(batch);
        let right = self.recipe.train.right_token_probability(update);
        let read = if right < 1.0 {
            let mut coins = Initializer::new(noise.seed());
            let mut draws = Initializer::new(noise.part(2).seed());
            model.read_own(
                &sources,
                &inputs.ids,
                &inputs.batch,
                &mut || coins.unit() < right,
                &mut |scores| drawn(scores, draws.unit()),
            )
        } else {
            inputs.ids
        };
        let Hidden { recurrent, read } = model.hidden(&sources, &read, &inputs.batch, Some(noise));
        let loss = model.output().cross_entropy(read.clone(), &wanted);
        let learned = Learned { loss, raw: recurrent, dropped: read };
        Objective::priced(learned, &self.recipe.train, &inputs.batch)
    }

    fn measure(&self, model: &Translator, examples: &[EncodedPair]) -> Measured {
        let model = model.valid();
        let most = self.recipe.train.decode_sentences;
        self.measured(&model, examples, most, |sources| greedy_all(&model, sources))
    }

    fn test(&self, model: &Translator, examples: &[EncodedPair]) -> Measured {
        let model = model.valid();
        self.measured(&model, examples, usize::MAX, |sources| {
            let found = search_all(&model, sources, &[], &Search::default());
            found.into_iter().filter_map(|all| all.into_iter().next()).map(|best| best.tokens).collect()
        })
    }

    fn sample(&self, model: &Translator, examples: &[EncodedPair]) -> Option<String> {
        if self.recipe.train.decode_sentences == 0 {
            return None;
        }
        let model = model.valid();
        let chosen: Vec<&EncodedPair> =
            spread_over(examples.len(), SAMPLES).map(|place| &examples[place]).collect();
        let sources: Vec<&[u32]> = chosen.iter().map(|pair| pair.source.as_slice()).collect();
        let found = greedy_all(&model, &sources);
        let line =
            |(pair, ids): (&&EncodedPair, &Vec<u32>)| format!("{} → {}\n", pair.text.source, self.text(ids));
        Some(chosen.iter().zip(&found).map(line).collect())
    }
}

/// The token whose share of the probability holds `place`, from 0 to 1, of those that may be read.
fn drawn(scores: &[f32], place: f64) -> u32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass = |token: usize| match token as u32 {
        crate::data::PAD | crate::data::SOS => 0.0,
        _ => f64::from(scores[token] - highest).exp(),
    };
    let all: f64 = (0..scores.len()).map(mass).sum();
    let mut left = place * all;
    for token in 0..scores.len() {
        left -= mass(token);
        if left < 0.0 {
            return token as u32;
        }
    }
    likeliest(scores)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::recipe::{SamplingName, Task};

    #[test]
    fn the_right_token_becomes_rare_as_the_paper_says() {
        let check = |sampling, step, expected: f64| {
            let mut recipe = Recipe::default_for(Task::Translate);
            recipe.train.sampling = sampling;
            recipe.train.sampling_steps = 100;
            recipe.train.teacher_forcing = 0.2;
            let found = recipe.train.right_token_probability(step);
            assert!((found - expected).abs() < 1e-9, "{sampling:?} {step}: {found}");
        };
        check(SamplingName::Constant, 7, 0.2);
        check(SamplingName::Linear, 0, 1.0);
        check(SamplingName::Linear, 50, 0.6);
        check(SamplingName::Linear, 500, 0.2);
        check(SamplingName::Exponential, 100, 0.6);
        check(SamplingName::Exponential, 200, 0.4);
        check(SamplingName::InverseSigmoid, 0, 0.2 + 0.8 * 100.0 / 101.0);
        check(SamplingName::InverseSigmoid, 100_000, 0.2);
    }

    #[test]
    fn tokens_are_drawn_by_their_share() {
        let scores = [9.0, 0.0, 9.0, 3f32.ln(), f32::NEG_INFINITY];
        let check = |place, expected| assert_eq!(drawn(&scores, place), expected, "{place}");
        check(0.0, 1);
        check(0.249, 1);
        check(0.251, 3);
        check(0.999, 3);
    }
}
