//! The output layer: from hidden values to a score for every token, and the loss of those scores.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

pub use carousel_kernels::loss::{IGNORE, Loss, counted};

use crate::config_error::ConfigError;
use crate::fused;
use crate::init::Initializer;
use crate::parameters::{NamedParameters, Parameter, ParameterMut, parameter};
use crate::path::Path;
use crate::slices::{with_slice, with_slice_mut};
use crate::state::index_tensor;

/// Rows whose scores are in memory at the same time while [`Output::evaluate`] walks the portable path.
const ROWS_A_CHUNK: usize = 256;

/// `logits = x Wᵀ + b`, with softmax cross-entropy.
#[derive(Module, Debug)]
pub struct Output {
    /// `[V, H]`.
    pub weight: Param<Tensor<2>>,
    /// `[V]`.
    pub bias: Param<Tensor<1>>,
    /// The share of each target that is spread over the vocabulary in training; see
    /// [`with_label_smoothing`](Output::with_label_smoothing).
    #[module(skip)]
    smoothing: f64,
    #[module(skip)]
    path: Path,
}

impl Output {
    /// Weights and bias uniform in `±1/√H`, as PyTorch's linear layer has them.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] when a size is zero.
    pub fn init(
        hidden: usize,
        vocabulary: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Output, ConfigError> {
        for (what, size) in [("hidden", hidden), ("vocabulary", vocabulary)] {
            if size == 0 {
                return Err(ConfigError::Zero { what });
            }
        }
        let bound = 1.0 / (hidden as f64).sqrt();
        let weight = parameter(random.uniform(vocabulary * hidden, bound), [vocabulary, hidden], device);
        let bias = parameter(random.uniform(vocabulary, bound), [vocabulary], device);
        Ok(Output { weight, bias, smoothing: 0.0, path: Path::Auto })
    }

    /// `x` `[N, H]` to scores `[N, V]`.
    #[must_use]
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        // The kernel has no backward pass of its own here: training takes `cross_entropy`.
        if self.path.is_fused(&x, &self.weight)
            && !x.device().is_autodiff()
            && !self.weight.device().is_autodiff()
        {
            return fused::logits(&x, &self.weight.val(), &self.bias.val());
        }
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze_dim::<2>(0)
    }

    /// Spreads a share of each target's probability over the whole vocabulary in
    /// [`cross_entropy`](Output::cross_entropy) (label smoothing, Szegedy et al. 2016).
    #[must_use]
    pub fn with_label_smoothing(mut self, smoothing: f64) -> Output {
        self.smoothing = smoothing;
        self
    }

    /// Ties the layer to a table of vectors `[V, H]`: one matrix serves both (Press and Wolf 2017). It takes this layer's
    /// range, for scores from vectors of length √H would be huge. The layer's own weight is not used, and no parameter.
    pub(crate) fn tie(&mut self, table: &mut Param<Tensor<2>>, random: &mut Initializer) {
        let [vocabulary, hidden] = table.dims();
        let drawn = random.uniform(vocabulary * hidden, 1.0 / (hidden as f64).sqrt());
        with_slice_mut(table, |weight| weight.copy_from_slice(&drawn));
        self.weight = parameter(Vec::new(), [0, hidden], &table.device());
    }

    /// Whether it has no weight of its own.
    fn is_tied(&self) -> bool {
        self.weight.dims()[0] == 0
    }

    /// The same layer with another weight in the place of its own.
    pub(crate) fn sharing(&self, weight: &Param<Tensor<2>>) -> Output {
        Output { weight: weight.clone(), ..self.clone() }
    }

    /// Mean cross-entropy in nats, `[1]`, of `x` `[N, H]` against `N` targets. Targets that are [`IGNORE`] count
    /// for nothing.
    ///
    /// # Panics
    /// When there is not one target a row, none counts, or one is not below `V`.
    #[must_use]
    pub fn cross_entropy(&self, x: Tensor<2>, targets: &[u32]) -> Tensor<1> {
        let counted = self.check_targets(&x, targets);
        assert!(counted > 0, "no target counts; give at least one that is not IGNORE");
        if self.path.is_fused(&x, &self.weight) {
            let (weight, bias) = (self.weight.val(), self.bias.val());
            return fused::cross_entropy(x, weight, bias, targets, counted, self.smoothing as f32);
        }
        let device = x.device();
        let rows: Vec<i64> =
            (0..targets.len()).filter(|&row| targets[row] != IGNORE).map(|row| row as i64).collect();
        let wanted: Vec<i64> =
            targets.iter().filter(|&&target| target != IGNORE).map(|&target| i64::from(target)).collect();
        let logits = self.logits(x.select(0, index_tensor(rows, &device)));
        let wanted = Tensor::<2, Int>::from_data(TensorData::new(wanted, [counted, 1]), &device);
        let logarithms = activation::log_softmax(logits, 1);
        let plain = logarithms.clone().gather(1, wanted).mean().neg();
        if self.smoothing == 0.0 {
            return plain;
        }
        plain * (1.0 - self.smoothing) - logarithms.mean() * self.smoothing
    }

    /// Measures the predictions from `x` `[N, H]` against `N` targets, without a gradient.
    ///
    /// # Panics
    /// As [`cross_entropy`](Output::cross_entropy), but no target need count.
    #[must_use]
    pub fn evaluate(&self, x: &Tensor<2>, targets: &[u32]) -> Loss {
        self.check_targets(x, targets);
        if self.path.is_fused(x, &self.weight) {
            return fused::evaluate(x, &self.weight.val(), &self.bias.val(), targets);
        }
        let width = x.dims()[1];
        let mut loss = Loss::default();
        for (chunk, targets) in targets.chunks(ROWS_A_CHUNK).enumerate() {
            let first = chunk * ROWS_A_CHUNK;
            let logits = self.logits(x.clone().slice([first..first + targets.len(), 0..width]));
            let vocabulary = logits.dims()[1];
            with_slice(&logits, |logits| {
                for (logits, &target) in logits.chunks_exact(vocabulary).zip(targets) {
                    if target != IGNORE {
                        add_row(&mut loss, logits, target as usize);
                    }
                }
            });
        }
        loss
    }

    /// Counts the targets that are not ignored.
    fn check_targets(&self, x: &Tensor<2>, targets: &[u32]) -> usize {
        let rows = x.dims()[0];
        assert!(rows == targets.len(), "{} targets for {rows} rows", targets.len());
        let vocabulary = self.bias.dims()[0];
        let mut counted = 0;
        for (place, &target) in targets.iter().enumerate().filter(|&(_, &target)| target != IGNORE) {
            assert!(
                (target as usize) < vocabulary,
                "target {place} is {target}, expected less than the vocabulary's {vocabulary}"
            );
            counted += 1;
        }
        counted
    }

    /// Chooses the implementation.
    #[must_use]
    pub fn with_path(mut self, path: Path) -> Output {
        self.path = path;
        self
    }
}

/// `weight` unless it is [tied](crate::models::language_model::LanguageModelConfig::tied), `bias`.
impl NamedParameters for Output {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let own = (!self.is_tied()).then_some(("weight".to_owned(), Parameter::Matrix(&self.weight)));
        own.into_iter().chain([("bias".to_owned(), Parameter::Vector(&self.bias))]).collect()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let own = (!self.is_tied()).then_some(("weight".to_owned(), ParameterMut::Matrix(&mut self.weight)));
        own.into_iter().chain([("bias".to_owned(), ParameterMut::Vector(&mut self.bias))]).collect()
    }
}

/// Adds one row to a loss. Of equal scores the first counts as the highest.
fn add_row(loss: &mut Loss, logits: &[f32], target: usize) {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    let highest = f64::from(logits[best]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    loss.nats += sum.ln() + highest - f64::from(logits[target]);
    loss.count += 1;
    loss.correct += usize::from(best == target);
}
