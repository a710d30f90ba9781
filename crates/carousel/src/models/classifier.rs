//! Gives a whole sequence one of several classes: a reader, one vector a sequence, an output layer.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::models::dense::{Dense, DenseConfig};
use crate::models::pool::{Pool, Pooling};
use crate::models::reader::{Body, Learned, Reader, StepKind, Steps};
use crate::output::Output;
use crate::parameters::parts;
use crate::ragged::Batch;
use crate::regularize::{Noise, Purpose, Sharing, masked};

/// Sizes of a [`Classifier`].
#[derive(Clone, Debug)]
pub struct ClassifierConfig {
    /// What a step is.
    pub steps: StepKind,
    /// What reads them. Feed-forward layers read the pooled steps.
    pub body: Body,
    /// How steps become one vector.
    pub pooling: Pooling,
    /// Classes.
    pub classes: usize,
    /// Probability of a token's whole vector to drop out.
    pub word_dropout: f64,
    /// Probability to drop out of what is read first.
    pub input_dropout: f64,
    /// Probability to drop out of what the output layer reads.
    pub output_dropout: f64,
    /// The share of each target that is spread over the classes.
    pub label_smoothing: f64,
    /// The seed all weights are drawn from.
    pub seed: u64,
}

impl ClassifierConfig {
    /// The last step of a recurrence, or the mean of what feed-forward layers read, gives the class; nothing drops
    /// out.
    #[must_use]
    pub fn new(steps: StepKind, body: impl Into<Body>, classes: usize) -> ClassifierConfig {
        let body = body.into();
        let pooling = match body {
            Body::Recurrent(_) => Pooling::Last,
            Body::Dense(_) => Pooling::Mean,
        };
        ClassifierConfig {
            steps,
            body,
            pooling,
            classes,
            word_dropout: 0.0,
            input_dropout: 0.0,
            output_dropout: 0.0,
            label_smoothing: 0.0,
            seed: 0,
        }
    }

    /// Makes the model. On an [autodiff device](Device::autodiff) its parameters ask for gradients.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the weights cannot be drawn so.
    pub fn init(&self, device: &Device) -> Result<Classifier, ConfigError> {
        self.init_with(&mut Initializer::new(self.seed), device)
    }

    /// Makes the model with the next values of an initializer, in place of the configuration's own seed.
    ///
    /// # Errors
    /// As [`init`](ClassifierConfig::init).
    pub fn init_with(&self, random: &mut Initializer, device: &Device) -> Result<Classifier, ConfigError> {
        let reader = Reader::init(self.steps, self.body.recurrence(), self.input_dropout, random, device)?
            .with_word_dropout(self.word_dropout)?;
        let width = reader.output_width();
        let pool = Pool::init(self.pooling, width, random, device);
        let dense = match self.body {
            Body::Dense(config) => Some(DenseConfig { input: width, ..config }.init(random, device)?),
            Body::Recurrent(_) => None,
        };
        let hidden = match self.body {
            Body::Dense(config) => config.hidden,
            Body::Recurrent(_) => width,
        };
        let mut model = Classifier {
            reader,
            pool,
            dense,
            output: Output::init(hidden, self.classes, random, device)?
                .with_label_smoothing(self.label_smoothing),
            drop: self.output_dropout,
            smoothing: self.label_smoothing,
        };
        self.body.redraw(&mut model, random);
        Ok(model)
    }
}

/// A net that gives a sequence one of several classes.
///
/// ```
/// use std::sync::Arc;
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::models::classifier::ClassifierConfig;
/// use carousel::models::reader::{RecurrenceConfig, StepKind, Steps};
/// use carousel::ragged::Batch;
/// use carousel::recurrent::Direction;
///
/// let recurrence = RecurrenceConfig { direction: Direction::Both, ..RecurrenceConfig::new(Cell::Lstm, 8) };
/// let config = ClassifierConfig::new(StepKind::Token { vocabulary: 5, embedding: 4 }, recurrence, 3);
/// let model = config.init(&Device::default())?;
/// let batch = Arc::new(Batch::ragged(&[1, 3], 3)?); // packed: the longer sequence comes first in each step
/// let probabilities = model.probabilities(Steps::Tokens(&[0, 4, 1, 2]), &batch);
/// assert_eq!(probabilities.dims(), [2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct Classifier {
    reader: Reader,
    pool: Pool,
    dense: Option<Dense>,
    output: Output,
    #[module(skip)]
    drop: f64,
    #[module(skip)]
    smoothing: f64,
}

impl Classifier {
    /// What the output layer reads, `[B, H]`, and what the reader gives at every frame.
    fn hidden(&self, steps: Steps<'_>, batch: &Arc<Batch>, noise: Option<Noise>) -> (Tensor<2>, Tensor<2>) {
        let reading = self.reader.forward(steps, batch, None, noise, &self.output.weight.device());
        let pooled = self.pool.forward(reading.frames.clone(), batch, || self.reader.ends(&reading, batch));
        let hidden = self.dense.as_ref().map_or(pooled.clone(), |dense| dense.forward(pooled, noise));
        let mask = noise.and_then(|noise| noise.mask(Purpose::Output, 0, self.drop));
        (masked(hidden, mask, Sharing::None), reading.frames)
    }

    /// The mean cross-entropy in nats `[1]` against one class a sequence. With `weights`, one a class, an example
    /// counts as much as its class does. With `noise` the model learns, and values drop out.
    ///
    /// # Panics
    /// When there is not one step a frame or one class a sequence, or one is too large.
    #[must_use]
    pub fn loss(
        &self,
        steps: Steps<'_>,
        batch: &Arc<Batch>,
        classes: &[u32],
        weights: Option<&[f32]>,
        noise: Option<Noise>,
    ) -> Tensor<1> {
        self.learn(steps, batch, classes, weights, noise).loss
    }

    /// [`loss`](Classifier::loss) with what can have a price beside it: what the pool reads.
    ///
    /// # Panics
    /// As [`loss`](Classifier::loss).
    #[must_use]
    pub fn learn(
        &self,
        steps: Steps<'_>,
        batch: &Arc<Batch>,
        classes: &[u32],
        weights: Option<&[f32]>,
        noise: Option<Noise>,
    ) -> Learned {
        let (hidden, frames) = self.hidden(steps, batch, noise);
        let loss = match weights {
            None => self.output.cross_entropy(hidden, classes),
            Some(weights) => {
                weighted_cross_entropy(self.output.logits(hidden), classes, weights, self.smoothing)
            }
        };
        Learned { loss, raw: frames.clone(), dropped: frames }
    }

    /// The probability of each class for each sequence, `[B, C]`.
    ///
    /// # Panics
    /// When there is not one step a frame, or a token is not below `V`.
    #[must_use]
    pub fn probabilities(&self, steps: Steps<'_>, batch: &Arc<Batch>) -> Tensor<2> {
        activation::softmax(self.output.logits(self.hidden(steps, batch, None).0), 1)
    }
}

/// `Σ w[y] L / Σ w[y]`, where `L` is the cross-entropy of an example with label smoothing. This is PyTorch's mean
/// with class weights, except that there the smoothed share is weighted class by class.
fn weighted_cross_entropy(logits: Tensor<2>, classes: &[u32], weights: &[f32], smoothing: f64) -> Tensor<1> {
    let count = classes.len();
    let device = logits.device();
    let wanted: Vec<i64> = classes.iter().map(|&class| i64::from(class)).collect();
    let wanted = Tensor::<2, Int>::from_data(TensorData::new(wanted, [count, 1]), &device);
    let shares: Vec<f32> = classes.iter().map(|&class| weights[class as usize]).collect();
    let total: f32 = shares.iter().sum();
    let shares: Vec<f32> = shares.iter().map(|share| share / total).collect();
    let shares = Tensor::<2>::from_data(TensorData::new(shares, [count, 1]), &device);
    let logarithms = activation::log_softmax(logits, 1);
    let plain = logarithms.clone().gather(1, wanted);
    let smoothed = plain * (1.0 - smoothing) + logarithms.mean_dim(1) * smoothing;
    (smoothed * shares).sum().neg()
}

parts! {
    /// `embedding.weight`, `recurrent.…`, `pool.…`, `dense.…`, `output.weight`, `output.bias`.
    Classifier { "": reader, "pool": pool, "dense": dense, "output": output }
}
