//! What translators and captioners write with: the parts of a decoder, borrowed from the model that owns them.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::embedding::Embedding;
use crate::models::attention::Attention;
use crate::models::dense::Dense;
use crate::models::reader::Reader;
use crate::output::Output;
use crate::ragged::{Batch, Ragged};
use crate::stepper::Stepper;

/// The parts of a decoder.
pub(super) struct Decoder<'a> {
    /// Tokens to vectors.
    pub(super) target: &'a Embedding,
    /// The recurrence.
    pub(super) recurrent: &'a Reader,
    /// What looks at what was read; `None`: all that is known of it is the first state.
    pub(super) attention: Option<&'a Attention>,
    /// From what attention read and the step, `[E + H]`, to what the output layer reads, `[H]`.
    pub(super) combine: Option<&'a Dense>,
    /// Vectors to scores.
    pub(super) output: Output,
    /// `H`.
    pub(super) hidden: usize,
    /// Whether a step also reads what the output layer read at the one before.
    pub(super) feeds: bool,
}

impl Decoder<'_> {
    /// What the steps `y` `[F, H]` know after a look at what was read, `[F, H]`.
    pub(super) fn attend(&self, y: Tensor<2>, batch: &Arc<Batch>, states: &Ragged) -> Tensor<2> {
        match (self.attention, self.combine) {
            (Some(attention), Some(combine)) => attention.join(combine, y, batch, states),
            _ => y,
        }
    }

    /// For writing `rows` texts side by side.
    pub(super) fn stepper(&self, rows: usize) -> Stepper {
        self.recurrent.stepper(rows).expect("a decoder walks forward")
    }
}
