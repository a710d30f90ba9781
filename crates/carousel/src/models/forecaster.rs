//! Reads a window of a series and answers with the next steps of it, all at once: a reader, its last state, an output
//! layer.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::models::dense::{Dense, DenseConfig};
use crate::models::pool::{Pool, Pooling};
use crate::models::reader::{Body, Learned, Reader, StepKind, Steps};
use crate::output::Output;
use crate::parameters::parts;
use crate::ragged::Batch;
use crate::regularize::{Noise, Purpose, Sharing, masked};

/// Sizes of a [`Forecaster`].
#[derive(Clone, Debug)]
pub struct ForecasterConfig {
    /// `T`, steps of a window.
    pub window: usize,
    /// `C`, values of a step.
    pub input: usize,
    /// `K`, values that are forecast: steps times columns.
    pub outputs: usize,
    /// `Q`, answers to each of them: one, or one a quantile.
    pub levels: usize,
    /// What reads the window. Feed-forward layers read all of it at once.
    pub body: Body,
    /// Probability to drop out of what is read first.
    pub input_dropout: f64,
    /// Probability to drop out of what the output layer reads.
    pub output_dropout: f64,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl ForecasterConfig {
    /// One answer a value; nothing drops out.
    #[must_use]
    pub fn new(window: usize, input: usize, outputs: usize, body: impl Into<Body>) -> ForecasterConfig {
        let body = body.into();
        ForecasterConfig {
            window,
            input,
            outputs,
            levels: 1,
            body,
            input_dropout: 0.0,
            output_dropout: 0.0,
            seed: 0,
        }
    }

    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<Forecaster, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](ForecasterConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Forecaster, ConfigError> {
        let steps = StepKind::Numbers(self.input);
        let reader = Reader::init(steps, self.body.recurrence(), self.input_dropout, random, device)?;
        let (dense, hidden) = match self.body {
            Body::Recurrent(_) => (None, reader.output_width()),
            Body::Dense(config) => {
                let config = DenseConfig { input: self.window * self.input, ..config };
                (Some(config.init(random, device)?), config.hidden)
            }
        };
        let mut model = Forecaster {
            pool: Pool::init(Pooling::Last, hidden, random, device),
            output: Output::init(hidden, self.outputs * self.levels, random, device)?,
            reader,
            dense,
            window: self.window,
            levels: self.levels,
            drop: self.output_dropout,
        };
        self.body.redraw(&mut model, random);
        Ok(model)
    }
}

/// What an answer is to become.
#[derive(Clone, Debug, PartialEq)]
pub enum Criterion {
    /// Small squared errors: the mean.
    Squared,
    /// Small absolute errors: the median.
    Absolute,
    /// Squared errors below 1, absolute ones above (Huber 1964).
    Huber,
    /// Quantiles of what may come, at these levels (pinball loss, Koenker and Bassett 1978).
    Quantiles(Vec<f32>),
}

/// A net that forecasts the steps behind a window.
#[derive(Module, Debug)]
pub struct Forecaster {
    reader: Reader,
    pool: Pool,
    dense: Option<Dense>,
    output: Output,
    #[module(skip)]
    window: usize,
    #[module(skip)]
    levels: usize,
    #[module(skip)]
    drop: f64,
}

impl Forecaster {
    /// The answers `[B, K Q]`, a value's `Q` beside each other, to windows `[T, B, C]`: all first steps, then all
    /// second steps. With `noise` the model learns, and values drop out.
    ///
    /// # Panics
    /// When the windows are not `sequences` of the model's length and width.
    #[must_use]
    pub fn forward(&self, windows: &[f32], sequences: usize, noise: Option<Noise>) -> Tensor<2> {
        self.answer(windows, sequences, noise).0
    }

    /// [`forward`](Forecaster::forward), and what the reader gives at every frame.
    fn answer(&self, windows: &[f32], sequences: usize, noise: Option<Noise>) -> (Tensor<2>, Tensor<2>) {
        let batch = Arc::new(Batch::full(sequences, self.window));
        let device = self.output.weight.device();
        let reading = self.reader.forward(Steps::Numbers(windows), &batch, None, noise, &device);
        let hidden = match &self.dense {
            None => self.pool.forward(reading.frames.clone(), &batch, || self.reader.ends(&reading, &batch)),
            Some(dense) => {
                let width = reading.frames.dims()[1];
                let beside = reading.frames.clone().reshape([self.window, sequences, width]).swap_dims(0, 1);
                dense.forward(beside.reshape([sequences, self.window * width]), noise)
            }
        };
        let mask = noise.and_then(|noise| noise.mask(Purpose::Output, 0, self.drop));
        (self.output.logits(masked(hidden, mask, Sharing::None)), reading.frames)
    }

    /// The mean loss `[1]` of answers to windows whose next values are `wanted` `[B, K]`.
    ///
    /// # Panics
    /// When there is not one wanted value an answer, or not one answer a quantile.
    #[must_use]
    pub fn loss(
        &self,
        windows: &[f32],
        wanted: &[f32],
        sequences: usize,
        criterion: &Criterion,
        noise: Option<Noise>,
    ) -> Tensor<1> {
        self.learn(windows, wanted, sequences, criterion, noise).loss
    }

    /// [`loss`](Forecaster::loss) with what can have a price beside it: what the last layer gives at every step.
    ///
    /// # Panics
    /// As [`loss`](Forecaster::loss).
    #[must_use]
    pub fn learn(
        &self,
        windows: &[f32],
        wanted: &[f32],
        sequences: usize,
        criterion: &Criterion,
        noise: Option<Noise>,
    ) -> Learned {
        let (answers, frames) = self.answer(windows, sequences, noise);
        let answers = answers.reshape([wanted.len(), self.levels]);
        let wanted = TensorData::new(wanted.to_vec(), [wanted.len(), 1]);
        let errors = Tensor::<2>::from_data(wanted, &answers.device()) - answers;
        let loss = match criterion {
            Criterion::Squared => errors.powi_scalar(2).mean(),
            Criterion::Absolute => errors.abs().mean(),
            Criterion::Huber => {
                let size = errors.abs();
                let inner = size.clone().clamp_max(1.0);
                (inner.clone() * (size - inner * 0.5)).mean()
            }
            Criterion::Quantiles(levels) => {
                assert_eq!(levels.len(), self.levels, "one answer a quantile");
                // max(q e, (q - 1) e) = q e + max(0, -e).
                let levels = TensorData::new(levels.clone(), [1, levels.len()]);
                let levels = Tensor::<2>::from_data(levels, &errors.device());
                (errors.clone() * levels + activation::relu(-errors)).mean()
            }
        };
        Learned { loss, raw: frames.clone(), dropped: frames }
    }
}

parts! {
    /// `recurrent.…`, `dense.…`, `output.weight`, `output.bias`.
    Forecaster { "": reader, "dense": dense, "output": output }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::models::reader::RecurrenceConfig;
    use crate::slices::with_slice;

    #[test]
    fn losses_are_what_they_say() {
        let recurrence = RecurrenceConfig::new(Cell::Lstm, 3);
        let config = ForecasterConfig { levels: 2, ..ForecasterConfig::new(2, 1, 2, recurrence) };
        let model = config.init(&Device::default()).unwrap();
        let windows = [0.5, -1.0, 1.5, 2.0];
        let wanted = [0.1, 2.0, -3.0, 0.2];
        let answers = with_slice(&model.forward(&windows, 2, None), <[f32]>::to_vec);
        let errors: Vec<f32> =
            answers.iter().enumerate().map(|(place, answer)| wanted[place / 2] - answer).collect();
        let levels = [0.2, 0.9];
        let check = |criterion: &Criterion, each: &dyn Fn(usize, f32) -> f32| {
            let loss = model.loss(&windows, &wanted, 2, criterion, None);
            let found = with_slice(&loss, |loss| loss[0]);
            let expected = errors.iter().enumerate().map(|(place, &error)| each(place, error)).sum::<f32>();
            assert!((found - expected / 8.0).abs() < 1e-6, "{criterion:?}: {found}");
        };
        check(&Criterion::Squared, &|_, e| e * e);
        check(&Criterion::Absolute, &|_, e| e.abs());
        check(&Criterion::Huber, &|_, e| if e.abs() < 1.0 { e * e / 2.0 } else { e.abs() - 0.5 });
        check(&Criterion::Quantiles(levels.to_vec()), &|place, e| {
            let q = levels[place % 2];
            if e >= 0.0 { q * e } else { (q - 1.0) * e }
        });
    }
}
