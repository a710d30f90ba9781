//! What the loss of a run is, and what else it is given as.

use carousel::data::Tokens;
use carousel::recipe::{InputName, Recipe, Task};
use carousel::report::Reading;

/// What the loss of a run is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Measure {
    /// Nats per token of text, and what else it is given as.
    Text(Reading),
    /// The adding problem's mean squared error.
    SquaredError,
    /// Nats per step of copy memory; the share of symbols recalled says more.
    Recall,
    /// Nats per example or label; the scores say more.
    Scores {
        /// What is learned.
        task: Task,
        /// What a step is, in the plural.
        steps: &'static str,
    },
}

impl Measure {
    pub(crate) fn of(recipe: &Recipe) -> Measure {
        match (recipe.task, recipe.data.tokens) {
            (Task::Adding, _) => Measure::SquaredError,
            (Task::Copy, _) => Measure::Recall,
            (task @ (Task::Classify | Task::Tag | Task::Forecast), _) => {
                Measure::Scores { task, steps: steps(recipe) }
            }
            (Task::Lm, Tokens::Byte) => Measure::Text(Reading::BitsPerByte),
            (Task::Lm, Tokens::Char) => Measure::Text(Reading::BitsPerCharacter),
            (Task::Lm, Tokens::Word | Tokens::Bpe) | (Task::Caption | Task::Translate, _) => {
                Measure::Text(Reading::Perplexity)
            }
        }
    }

    pub(crate) fn reading(self) -> Option<Reading> {
        match self {
            Measure::Text(reading) => Some(reading),
            Measure::SquaredError | Measure::Recall | Measure::Scores { .. } => None,
        }
    }

    /// What is counted a second.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Measure::SquaredError => "steps",
            Measure::Scores { steps, .. } => steps,
            Measure::Text(_) | Measure::Recall => "tokens",
        }
    }

    /// The unit of a loss, long.
    pub(crate) fn loss_unit(self) -> &'static str {
        match self {
            Measure::Text(_) => "nats per token",
            Measure::SquaredError => "mean squared error",
            Measure::Recall => "nats per step",
            Measure::Scores { task: Task::Classify, .. } => "nats per example",
            Measure::Scores { task: Task::Forecast, .. } => "scaled error",
            Measure::Scores { .. } => "nats per label",
        }
    }
}

/// What the steps of labelled sequences are.
fn steps(recipe: &Recipe) -> &'static str {
    match (recipe.data.input, recipe.data.tokens) {
        _ if recipe.task == Task::Forecast => "steps",
        (InputName::Numbers | InputName::Audio, _) => "steps",
        (InputName::Images, _) => "frames",
        (InputName::Text, Tokens::Byte) => "bytes",
        (InputName::Text, Tokens::Char) => "characters",
        (InputName::Text, Tokens::Word) => "words",
        (InputName::Text, Tokens::Bpe) => "tokens",
    }
}
