//! Reads a whole sequence and answers with numbers: recurrent stack, linear layer on its last output.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::cell::CellOptions;
use crate::config_error::ConfigError;
use crate::init::{Init, Initializer};
use crate::output::Output;
use crate::own_cell::AnyCell;
use crate::parameters::parts;
use crate::recurrent::{Recurrent, RecurrentConfig};

/// Sizes of a [`Regressor`].
#[derive(Clone, Debug)]
pub struct RegressorConfig {
    /// The recurrence.
    pub cell: AnyCell,
    /// What the cells have beside their equations.
    pub options: CellOptions,
    /// `I`, values of a step.
    pub input: usize,
    /// `H`.
    pub hidden: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// Numbers that are answered.
    pub outputs: usize,
    /// How weights of the recurrent stack are drawn.
    pub init: Init,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl RegressorConfig {
    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<Regressor, ConfigError> {
        let random = &mut Initializer::new(self.seed);
        let recurrent = RecurrentConfig::new(self.cell, self.input, self.hidden)
            .with_layers(self.layers)
            .with_init(self.init)
            .with_options(self.options)
            .init_with(random, device)?;
        let output = Output::init(recurrent.output_width(), self.outputs, random, device)?;
        let mut model = Regressor { recurrent, output };
        self.init.redraw(&mut model, random);
        Ok(model)
    }
}

/// A recurrent net that answers a sequence with a few numbers.
#[derive(Module, Debug)]
pub struct Regressor {
    recurrent: Recurrent,
    output: Output,
}

impl Regressor {
    /// The answers `[B, outputs]` to sequences `[B, T, I]`, each from the state after its last step.
    ///
    /// # Panics
    /// When the sequences have another width than the model.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let [sequences, ..] = x.dims();
        let (_, state) = self.recurrent.forward(x, None);
        let h = state.h();
        let [layers, _, hidden] = h.dims();
        self.output
            .logits(h.slice([layers - 1..layers, 0..sequences, 0..hidden]).reshape([sequences, hidden]))
    }
}

parts! {
    /// `recurrent.weight_ih_l0`, …, `output.weight`, `output.bias`.
    Regressor { "recurrent": recurrent, "output": output }
}
