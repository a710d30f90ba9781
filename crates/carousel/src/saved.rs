//! Opens what a run saved: its recipe, its tokens and its best weights, ready to be used.

use std::path::Path;

use burn::tensor::Device;

use crate::data::Tokenizer;
use crate::models::language_model::{LanguageModel, LanguageModelConfig};
use crate::parameters::{LoadError, NamedParameters};
use crate::recipe::Recipe;
use crate::recurrent::ConfigError;
use crate::run::{RunError, RunFolder};

/// Why a run's model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder does not do.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The recipe's sizes cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are of another model.
    #[error("the weights do not fit the run's config.toml: {0}")]
    Load(#[from] LoadError),
    /// The best weights cannot be trusted, and others were not asked for.
    #[error("the best checkpoint cannot be used: {0}")]
    Damaged(String),
}

/// A trained language model with all that is needed to use it.
pub struct SavedLanguageModel {
    /// How it was trained.
    pub recipe: Recipe,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The model, with the weights of the best checkpoint, on a device without gradients.
    pub model: LanguageModel,
}

impl SavedLanguageModel {
    /// Opens the best checkpoint of the run in a folder.
    ///
    /// # Errors
    /// [`OpenError`] when the folder holds no run, or its best checkpoint is missing or damaged.
    pub fn open(path: &Path) -> Result<SavedLanguageModel, OpenError> {
        let run = RunFolder::open(path)?;
        let recipe = run.read_recipe()?;
        let tokenizer = Tokenizer::new(run.read_vocab()?);
        let mut model = config(&recipe, tokenizer.vocab().len()).init(&Device::default())?;
        let loaded = run.load_best()?;
        if let Some(note) = loaded.note {
            return Err(OpenError::Damaged(note));
        }
        model.load(&loaded.checkpoint.model)?;
        Ok(SavedLanguageModel { recipe, tokenizer, model })
    }
}

/// The sizes that a recipe asks for.
#[must_use]
pub fn config(recipe: &Recipe, vocabulary: usize) -> LanguageModelConfig {
    LanguageModelConfig {
        cell: recipe.model.recurrence(),
        vocabulary,
        embedding: recipe.model.embedding,
        hidden: recipe.model.hidden,
        layers: recipe.model.layers,
        forget_bias: recipe.model.forget_bias,
        seed: recipe.seed,
    }
}
