//! Opens what a run saved: its recipe, its tokens and its best weights, ready to be used.

mod captioner;
mod classifier;
mod forecaster;
mod images;
mod language_model;
mod tagger;
mod translator;

use std::path::{Path, PathBuf};

pub(crate) use captioner::{
    CAPTIONER, KnownCaptions, SubjectBatch, caption_columns, caption_side, caption_text, captioner_config,
    subject_kind, write_all,
};
pub use captioner::{Caption, SavedCaptioner};
pub(crate) use classifier::{
    Encoder, Labels, classifier_config, highest, number_columns, probabilities, steps, text_columns,
};
pub use classifier::{Prediction, SavedClassifier};
pub use forecaster::{ColumnForecast, SavedForecaster, SeriesForecast};
pub(crate) use forecaster::{SeriesLabels, forecaster_config, forecasts, framing, point, series_columns};
pub(crate) use images::image_shape;
pub use language_model::{SavedLanguageModel, language_model_config};
pub(crate) use tagger::{
    Found, TagBatch, TagEncoder, TagLabels, TagSequence, tag_all, tag_columns, tagger_config, within,
};
pub use tagger::{SavedTagger, TagStream, TaggedSentence, TaggedStep};
pub(crate) use translator::{Known, TRANSLATOR, search_all, sentence, side_by_side};
pub use translator::{SavedTranslator, Translated, Translation, Wanted, translator_config};

use serde::Deserialize;

use crate::config_error::ConfigError;
use crate::models::dense::DenseConfig;
use crate::models::reader::{Body, RecurrenceConfig};
use crate::parameters::{LoadError, NamedParameters};
use crate::recipe::{Named, Recipe, Task};
use crate::run::{RunError, RunFolder};
use crate::train::checkpoint::{CheckpointError, MODEL, read_tensors};

/// The file of a run that names its classes.
pub(crate) const LABELS: &str = "labels.json";

/// Why a run's model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder does not do.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run learned something else.
    #[error("{path} is a run of the task {found}, expected {wanted}")]
    Task {
        /// The run.
        path: PathBuf,
        /// Its task.
        found: &'static str,
        /// The task that was wanted.
        wanted: &'static str,
    },
    /// A file that tells what a model's outputs mean is not valid.
    #[error("{path} is damaged or foreign: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The recipe's sizes cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are of another model.
    #[error("the weights do not fit the run's config.toml: {0}")]
    Load(#[from] LoadError),
    /// The file of the weights does not do.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

fn expect_task(recipe: &Recipe, wanted: Task, path: &Path) -> Result<(), OpenError> {
    if recipe.task == wanted {
        return Ok(());
    }
    Err(OpenError::Task { path: path.to_owned(), found: recipe.task.name(), wanted: wanted.name() })
}

/// The weights that a run ships; those of its latest checkpoint where it ships none yet.
fn load_weights(run: &RunFolder, model: &mut impl NamedParameters) -> Result<(), OpenError> {
    // The file at the top may have come from elsewhere, without checkpoints.
    let shipped = run.path().join(MODEL);
    if shipped.exists() {
        model.load(&read_tensors(&shipped)?)?;
    } else {
        model.load(run.load_latest()?.checkpoint.weights())?;
    }
    Ok(())
}

/// Reads a JSON file at the top of a run.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(run: &RunFolder, name: &str) -> Result<T, OpenError> {
    let path = run.path().join(name);
    let damaged = |reason: String| OpenError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))
}

/// What stands between input and output layer.
fn body(recipe: &Recipe) -> Body {
    let model = &recipe.model;
    match model.recurrence_if_any() {
        Some(cell) => Body::Recurrent(RecurrenceConfig {
            cell,
            options: model.options(),
            hidden: model.hidden,
            layers: model.layers,
            direction: model.direction,
            init: model.init(),
            dropout: recipe.regularize().recurrent,
            residual: model.residual,
            merge: model.merge.unwrap_or_default(),
        }),
        None => Body::Dense(DenseConfig {
            // Follows from what the layers read.
            input: 1,
            hidden: model.hidden,
            layers: model.layers,
            activation: model.dense_activation,
            norm: model.norm.dense(),
        }),
    }
}
