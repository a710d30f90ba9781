//! A trained language model, ready to be used.

use std::path::Path;

use burn::tensor::Device;

use super::{OpenError, expect_task, load_weights};
use crate::data::Tokenizer;
use crate::init::Initializer;
use crate::models::language_model::{LanguageModel, LanguageModelConfig};
use crate::recipe::{Recipe, Task};
use crate::run::RunFolder;

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
        let mut model = language_model_config(&recipe, tokenizer.vocab().len())
            .init_with(&mut Initializer::blank(), &Device::default())?;
        load_weights(&run, &mut model)?;
        Ok(SavedLanguageModel { recipe, tokenizer, model })
    }
}

/// The sizes that a recipe asks for, with so many tokens.
#[must_use]
pub fn language_model_config(recipe: &Recipe, vocabulary: usize) -> LanguageModelConfig {
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
