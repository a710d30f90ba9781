//! Opens what a run saved: its recipe, its tokens and its best weights, ready to be used.

mod captioner;
mod classifier;
mod forecaster;
mod tagger;
mod translator;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

pub(crate) use captioner::{
    CAPTIONER, KnownCaptions, SubjectBatch, caption_columns, caption_side, caption_text, captioner_config,
    subject_kind, write_all,
};
pub use captioner::{Caption, SavedCaptioner};
pub(crate) use classifier::{
    Encoder, LABELS, Labels, classifier_config, highest, number_columns, probabilities, read_json, steps,
};
pub use classifier::{Prediction, SavedClassifier};
pub use forecaster::{ColumnForecast, SavedForecaster, SeriesForecast};
pub(crate) use forecaster::{SeriesLabels, forecaster_config, forecasts, framing, point, series_columns};
pub(crate) use tagger::{
    Found, TagBatch, TagEncoder, TagLabels, TagSequence, image_shape, tag_all, tagger_config, within,
};
pub use tagger::{SavedTagger, TagStream, TaggedSentence, TaggedStep};
pub(crate) use translator::{Known, TRANSLATOR, search_all, sentence, side_by_side};
pub use translator::{SavedTranslator, Translated, Translation, Wanted, translator_config};

use crate::config_error::ConfigError;
use crate::data::Tokenizer;
use crate::models::language_model::{LanguageModel, LanguageModelConfig};
use crate::parameters::{LoadError, NamedParameters};
use crate::recipe::{Named, Recipe, Task};
use crate::run::{RunError, RunFolder};
use crate::train::checkpoint::{CheckpointError, MODEL, read_tensors};

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

/// A trained language model with all that is needed to use it.
pub struct SavedLanguageModel {
    /// How it was trained.
    pub recipe: Recipe,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The model, on a device without gradients.
    pub model: LanguageModel,
}

impl SavedLanguageModel {
    /// Opens the run in a folder, with the weights in its `model.safetensors`: those of the best checkpoint,
    /// or what was put in their place, as from PyTorch. `config.toml`, `vocab.json` and that file are all it
    /// needs. A run that was stopped before its first validation has no best one yet; its latest checkpoint
    /// serves then.
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run, or its weights are missing, damaged or of another model.
    pub fn open(path: &Path) -> Result<SavedLanguageModel, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        expect_task(&recipe, Task::Lm, path)?;
        let tokenizer = Tokenizer::new(run.read_vocab()?);
        let mut model = config(&recipe, tokenizer.vocab().len()).init(&Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedLanguageModel { recipe, tokenizer, model })
    }
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

/// The sizes that a recipe asks for.
#[must_use]
pub fn config(recipe: &Recipe, vocabulary: usize) -> LanguageModelConfig {
    LanguageModelConfig {
        cell: recipe.model.recurrence(),
        options: recipe.model.options(),
        vocabulary,
        embedding: recipe.model.embedding,
        hidden: recipe.model.hidden,
        layers: recipe.model.layers,
        init: recipe.model.init(),
        residual: recipe.model.residual,
        tied: recipe.model.tie_embeddings,
        regularize: recipe.regularize(),
        seed: recipe.seed,
    }
}
