//! Measures a language model on text.

use std::path::Path;
use std::sync::Arc;

use crate::data::{Corpus, Coverage, Document, Tokens, Truncation, Windows};
use crate::models::language_model::LanguageModel;
use crate::output::Loss;
use crate::saved::SavedLanguageModel;
use crate::train::TrainError;
use crate::train::tbptt::Carried;

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
    let loss = measure(&model, &corpus, recipe.train.batch, recipe.train.k2())?;
    let mean = loss.nats / loss.count.max(1) as f64;
    Ok(Evaluation {
        loss: mean,
        tokens: loss.count,
        perplexity: mean.exp(),
        bits_per_char: (recipe.data.tokens != Tokens::Word).then_some(mean / std::f64::consts::LN_2),
        accuracy: loss.correct as f64 / loss.count.max(1) as f64,
    })
}

/// The loss over a whole corpus, read in `streams` streams and windows of `steps` steps.
pub(super) fn measure(
    model: &LanguageModel,
    corpus: &Corpus,
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
            total.nats += loss.nats;
            total.count += loss.count;
            total.correct += loss.correct;
            state
        });
    }
    Ok(total)
}
