//! Measures a language model on text.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::{
    Coverage, Document, Documents, StoredCorpus, TokenRow, Tokens, Truncation, Window, Windows, list_files,
};
use crate::models::language_model::LanguageModel;
use crate::output::{IGNORE, Loss};
use crate::saved::SavedLanguageModel;
use crate::stepper::StepPrecision;
use crate::train::TrainError;
use crate::train::tbptt::Carried;

/// Tokens that are looked through at a time.
const PIECE: usize = 1 << 20;

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Tokens that were predicted: all but the first of each document.
    pub tokens: usize,
    /// Of these, characters or words that the run's vocabulary does not have.
    pub unknown: usize,
    /// `e^loss`.
    pub perplexity: f64,
    /// `loss / ln 2`, for bytes and characters.
    pub bits_per_char: Option<f64>,
    /// Share of the tokens that the model held most likely.
    pub accuracy: f64,
}

/// Measures the best checkpoint of a run on documents.
///
/// The text is read in as many streams side by side as the run was trained with, each starting from a zero
/// state; every token that has one before it in its document counts once.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the documents have nothing to predict.
pub fn evaluate(run: &Path, documents: &[Document]) -> Result<Evaluation, TrainError> {
    evaluate_with(run, Read::Held(documents), StepsOf::Windows)
}

/// The same on files that are too large to be held; they are read piece by piece. With a `precision` one step at a
/// time, as [`evaluate_stepwise`].
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_large(
    run: &Path,
    paths: &[PathBuf],
    precision: Option<StepPrecision>,
) -> Result<Evaluation, TrainError> {
    evaluate_with(run, Read::Stored(paths), precision.map_or(StepsOf::Windows, StepsOf::Single))
}

/// The same one step at a time, as text is generated, with the recurrent weights in `precision`.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_stepwise(
    run: &Path,
    documents: &[Document],
    precision: StepPrecision,
) -> Result<Evaluation, TrainError> {
    evaluate_with(run, Read::Held(documents), StepsOf::Single(precision))
}

/// Where a text is.
enum Read<'a> {
    Held(&'a [Document]),
    Stored(&'a [PathBuf]),
}

/// How a model reads.
enum StepsOf {
    Windows,
    Single(StepPrecision),
}

fn evaluate_with(run: &Path, read: Read<'_>, steps: StepsOf) -> Result<Evaluation, TrainError> {
    let SavedLanguageModel { recipe, tokenizer, model } = SavedLanguageModel::open(run)?;
    let corpus: Box<dyn TokenRow> = match read {
        Read::Held(documents) => Box::new(match recipe.data.documents {
            Documents::Files => tokenizer.corpus(documents)?,
            Documents::Lines => tokenizer.line_corpus(documents)?,
        }),
        Read::Stored(paths) => Box::new(StoredCorpus::index(&list_files(paths)?.0, &tokenizer)?),
    };
    let streams = match recipe.data.documents {
        Documents::Files => streams(&*corpus, recipe.train.batch),
        Documents::Lines => 1,
    };
    let length = recipe.train.k2();
    let loss = match steps {
        StepsOf::Windows => measure(&model, &*corpus, streams, length)?,
        StepsOf::Single(precision) => measure_stepwise(&model, &*corpus, streams, length, precision)?,
    };
    let mean = loss.nats / loss.count.max(1) as f64;
    Ok(Evaluation {
        loss: mean,
        tokens: loss.count,
        unknown: tokenizer.vocab().unknown().map_or(0, |unknown| predicted(&*corpus, unknown)),
        perplexity: mean.exp(),
        bits_per_char: matches!(recipe.data.tokens, Tokens::Byte | Tokens::Char)
            .then_some(mean / std::f64::consts::LN_2),
        accuracy: loss.correct as f64 / loss.count.max(1) as f64,
    })
}

/// How often a token is one to predict: anywhere but first in its document.
pub(super) fn predicted(corpus: &dyn TokenRow, token: u32) -> usize {
    let count = |range: Range<usize>| corpus.read(range).iter().filter(|&&own| own == token).count();
    let pieces = (0..corpus.len()).step_by(PIECE);
    let all: usize = pieces.map(|from| count(from..corpus.len().min(from + PIECE))).sum();
    let first: usize = corpus.document_starts().iter().map(|&start| count(start..start + 1)).sum();
    all - first
}

/// Tokens of a stream below which one would feel that the text before it is not known.
const STREAM: usize = 1000;

/// Streams that a corpus is measured in, at most `most`: each begins anew, so that none may be short.
pub(super) fn streams(corpus: &dyn TokenRow, most: usize) -> usize {
    (corpus.len() / STREAM).clamp(1, most)
}

/// The loss over a whole corpus, read in `streams` streams and windows of `steps` steps.
pub(super) fn measure(
    model: &LanguageModel,
    corpus: &dyn TokenRow,
    streams: usize,
    steps: usize,
) -> Result<Loss, TrainError> {
    let windows = Windows::new(corpus, streams, Truncation::every(steps), Coverage::All)?;
    let mut carried = Carried::new(windows.streams());
    let mut total = Loss::default();
    for window in windows.iter() {
        carried.read(&window, |window, state| {
            let batch = Arc::new(window.batch.clone());
            let (loss, state) = model.evaluate(&window.inputs, &window.targets, &batch, state);
            add(&mut total, loss);
            state
        });
    }
    corpus.failure().map_or(Ok(total), |failure| Err(failure.into()))
}

/// One position of a stream.
struct Position {
    input: u32,
    target: u32,
    /// The first of its document: the state before it is zero.
    fresh: bool,
}

/// The loss over a whole corpus, one step at a time.
///
/// Where a document ends inside a window, its stream has a position less there. So streams run ahead of each
/// other, and each has a queue.
fn measure_stepwise(
    model: &LanguageModel,
    corpus: &dyn TokenRow,
    streams: usize,
    bptt: usize,
    precision: StepPrecision,
) -> Result<Loss, TrainError> {
    let windows = Windows::new(corpus, streams, Truncation::every(bptt), Coverage::All)?;
    let streams = windows.streams();
    let mut stepper = model.stepper_with(streams, precision).expect("there is at least one stream");
    let mut queues: Vec<VecDeque<Position>> = (0..streams).map(|_| VecDeque::new()).collect();
    let mut total = Loss::default();
    let (mut tokens, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (index, window) in windows.iter().enumerate() {
        enqueue(&window, &mut queues);
        // At the end the streams that have run out step on, and nothing counts there.
        let last = index + 1 == windows.len();
        let lengths = queues.iter().map(VecDeque::len);
        let steps = if last { lengths.max() } else { lengths.min() }.unwrap_or_default();
        for step in 0..steps {
            tokens.clear();
            for (stream, queue) in queues.iter_mut().enumerate() {
                let next = queue.pop_front().unwrap_or(Position { input: 0, target: IGNORE, fresh: false });
                if next.fresh {
                    stepper.reset_text(stream);
                }
                tokens.push(next.input);
                targets.push(next.target);
            }
            rows.extend_from_slice(stepper.read(&tokens).expect("one token of the vocabulary a stream"));
            // Many rows at once take less time, but not all that there may be at the end.
            if targets.len() >= streams * bptt || step + 1 == steps {
                add(&mut total, stepper.loss(&rows, &targets).expect("one target of the vocabulary a row"));
                rows.clear();
                targets.clear();
            }
        }
    }
    corpus.failure().map_or(Ok(total), |failure| Err(failure.into()))
}

/// Puts a window's positions into its streams' queues.
fn enqueue(window: &Window, queues: &mut [VecDeque<Position>]) {
    let lengths = window.batch.lengths();
    let mut segments: Vec<Vec<Position>> = lengths.iter().map(|&length| Vec::with_capacity(length)).collect();
    let tokens = window.inputs.iter().zip(&window.targets);
    for ((place, step), (&input, &target)) in window.batch.places().zip(tokens) {
        let fresh = step == 0 && !window.segments[place].carried;
        segments[place].push(Position { input, target, fresh });
    }
    for (segment, positions) in window.segments.iter().zip(segments) {
        queues[segment.stream].extend(positions);
    }
}

fn add(total: &mut Loss, loss: Loss) {
    total.nats += loss.nats;
    total.count += loss.count;
    total.correct += loss.correct;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::cell::{Activation, Cell, Reset};
    use crate::data::Corpus;
    use crate::models::language_model::LanguageModelConfig;

    #[test]
    fn tokens_are_counted_where_they_are_predicted() {
        let mut corpus = Corpus::default();
        corpus.push(&[0, 0, 1]);
        corpus.push(&[1, 0, 2, 0]);
        assert_eq!([0, 1, 2, 3].map(|token| predicted(&corpus, token)), [3, 1, 1, 0]);
    }

    /// A stream begins anew, so that a short text is one.
    #[test]
    fn no_stream_is_short() {
        for (tokens, expected) in [(1, 1), (999, 1), (2500, 2), (50_000, 20)] {
            let mut corpus = Corpus::default();
            corpus.push(&vec![0; tokens]);
            assert_eq!(streams(&corpus, 20), expected, "{tokens} tokens");
        }
    }

    #[test]
    fn steps_measure_what_windows_measure() {
        let cells =
            [Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before), Cell::Rnn(Activation::Tanh)];
        // Edges inside windows, at their borders, in a row, and a tail without anything to predict.
        for documents in
            [&[40][..], &[7, 1, 1, 12, 6, 6, 6, 20], &[3, 30, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
        {
            let mut corpus = Corpus::default();
            for &length in documents {
                let start = corpus.tokens.len();
                corpus.push(&(start..start + length).map(|at| (at * at % 7) as u32).collect::<Vec<_>>());
            }
            for (streams, bptt) in [(1, 5), (3, 6), (4, 1), (5, 100)] {
                for cell in cells {
                    let config = LanguageModelConfig {
                        cell: cell.into(),
                        vocabulary: 7,
                        embedding: 6,
                        hidden: 20,
                        layers: 2,
                        init: Default::default(),
                        residual: false,
                        tied: false,
                        options: Default::default(),
                        regularize: Default::default(),
                        seed: 1,
                    };
                    let model = config.init(&Device::default()).unwrap();
                    let whole = measure(&model, &corpus, streams, bptt).unwrap();
                    let steps =
                        |precision| measure_stepwise(&model, &corpus, streams, bptt, precision).unwrap();
                    let (floats, bytes) = (steps(StepPrecision::F32), steps(StepPrecision::Int8));
                    let what = format!("{cell:?} {documents:?} {streams} streams of {bptt}");
                    assert_eq!((floats.count, floats.correct), (whole.count, whole.correct), "{what}");
                    assert_eq!(bytes.count, whole.count, "{what}");
                    let apart = |loss: Loss| (loss.nats - whole.nats).abs() / whole.nats;
                    assert!(apart(floats) < 1e-6, "{what}: {floats:?} {whole:?}");
                    assert!(bytes.nats != whole.nats && apart(bytes) < 0.01, "{what}: {bytes:?} {whole:?}");
                }
            }
        }
    }
}
