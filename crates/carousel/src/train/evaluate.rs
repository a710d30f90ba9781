//! Measures a language model on text.

use std::path::Path;
use std::sync::Arc;

use crate::data::{Corpus, Coverage, Document, Segment, Tokens, Window, Windows};
use crate::models::language_model::LanguageModel;
use crate::output::Loss;
use crate::saved::SavedLanguageModel;
use crate::state::{Row, State};
use crate::train::TrainError;

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Tokens that were predicted: all but the first of each document.
    pub tokens: usize,
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
    let SavedLanguageModel { recipe, tokenizer, model } = SavedLanguageModel::open(run)?;
    let corpus = tokenizer.corpus(documents)?;
    let loss = measure(&model, &corpus, recipe.train.batch, recipe.train.bptt)?;
    let mean = mean(loss);
    Ok(Evaluation {
        loss: mean,
        tokens: loss.count,
        perplexity: mean.exp(),
        bits_per_char: (recipe.data.tokens != Tokens::Word).then_some(mean / std::f64::consts::LN_2),
        accuracy: loss.correct as f64 / loss.count.max(1) as f64,
    })
}

/// Nats per token.
pub(super) fn mean(loss: Loss) -> f64 {
    loss.nats / loss.count.max(1) as f64
}

/// The loss over a whole corpus.
pub(super) fn measure(
    model: &LanguageModel,
    corpus: &Corpus,
    streams: usize,
    bptt: usize,
) -> Result<Loss, TrainError> {
    let windows = Windows::new(corpus, streams, bptt, Coverage::All)?;
    let mut carried = None;
    let mut total = Loss::default();
    for window in windows.iter() {
        let Window { inputs, targets, batch, segments } = window;
        let state = window_state(carried.as_ref(), &segments);
        let (loss, state) = model.evaluate(&inputs, &targets, &Arc::new(batch), state);
        total.nats += loss.nats;
        total.count += loss.count;
        total.correct += loss.correct;
        carried = Some(carry(&state, &segments, windows.streams()));
    }
    Ok(total)
}

/// The state that a window's segments start from, given that of the streams.
pub(super) fn window_state(carried: Option<&State>, segments: &[Segment]) -> Option<State> {
    let rows: Vec<Row> = segments
        .iter()
        .map(|segment| if segment.carried { Row::Carried(segment.stream) } else { Row::Zero })
        .collect();
    carried.map(|state| state.arrange(&rows))
}

/// The state that the streams carry on, given that of a window's segments. A stream without a segment
/// starts its next document from zero.
pub(super) fn carry(state: &State, segments: &[Segment], streams: usize) -> State {
    let mut rows = vec![Row::Zero; streams];
    for (place, segment) in segments.iter().enumerate() {
        if segment.last {
            rows[segment.stream] = Row::Carried(place);
        }
    }
    state.arrange(&rows)
}
