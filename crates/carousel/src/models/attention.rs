//! Attention of decoder steps over encoder states (Bahdanau et al. 2015; Luong et al. 2015).
//!
//! Shapes: B sentences, T steps of the decoder, S of the encoder, H units of the decoder, E values of an encoder
//! state, A values that additive attention compares.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::init::Initializer;
use crate::parameters::{NamedParameters, Parameter, ParameterMut, parameter};
use crate::ragged::Ragged;
use crate::state::index_tensor;

/// What is added to the score of a place that does not exist: its weight becomes 0 exactly.
const NOWHERE: f32 = -1e30;

/// How well a step `q` and an encoder state `k` fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// `q · k`; both have the same width.
    Dot,
    /// `q · W k`.
    General,
    /// `q · k / √H`; both have the same width (Vaswani et al. 2017).
    ScaledDot,
    /// `v · tanh(W q + U k + b)` (Bahdanau et al. 2015).
    Additive,
}

impl Score {
    /// Whether steps and encoder states must have the same width.
    #[must_use]
    pub fn needs_equal_widths(self) -> bool {
        matches!(self, Score::Dot | Score::ScaledDot)
    }
}

/// Attention with its parameters.
#[derive(Module, Debug)]
pub struct Attention {
    /// `W`: `[E, H]` of [`Score::General`], whose transpose meets the query; `[A, H]` of [`Score::Additive`].
    pub(super) query: Option<Param<Tensor<2>>>,
    /// `U` `[A, E]`.
    pub(super) key: Option<Param<Tensor<2>>>,
    /// `v` `[1, A]`.
    pub(super) vector: Option<Param<Tensor<2>>>,
    /// `b` `[A]`.
    pub(super) bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(super) score: Score,
}

/// What attention reads: the encoder states of a batch, filled up to the longest sentence and masked there.
#[derive(Clone, Debug)]
pub struct Memory {
    /// `[B, S, E]`.
    values: Tensor<3>,
    /// What scores are made with, `[B, S, ·]`.
    keys: Tensor<3>,
    /// `[B, 1, S]`: 0 where there is a state.
    mask: Tensor<3>,
}

impl Memory {
    /// The memories of these sentences, in this order.
    pub(super) fn select(&self, sentences: &[usize]) -> Memory {
        let device = self.values.device();
        let index = index_tensor(sentences.iter().map(|&sentence| sentence as i64).collect(), &device);
        let rows = |all: &Tensor<3>| all.clone().select(0, index.clone());
        Memory { values: rows(&self.values), keys: rows(&self.keys), mask: rows(&self.mask) }
    }
}

impl Attention {
    /// Weights uniform in `±1/√fan-in`, as PyTorch's linear layers have them; additive attention compares `H` values.
    pub(crate) fn init(
        score: Score,
        hidden: usize,
        states: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Attention {
        let mut draw = |rows: usize, columns: usize| {
            let bound = 1.0 / (columns as f64).sqrt();
            parameter(random.uniform(rows * columns, bound), [rows, columns], device)
        };
        let none = Attention { query: None, key: None, vector: None, bias: None, score };
        match score {
            Score::Dot | Score::ScaledDot => none,
            Score::General => Attention { query: Some(draw(states, hidden)), ..none },
            Score::Additive => Attention {
                query: Some(draw(hidden, hidden)),
                key: Some(draw(hidden, states)),
                vector: Some(draw(1, hidden)),
                bias: Some(parameter(vec![0.0; hidden], [hidden], device)),
                ..none
            },
        }
    }

    /// Prepares encoder states to be attended to.
    #[must_use]
    pub fn memory(&self, states: &Ragged) -> Memory {
        let values = states.to_padded(0.0);
        let [sentences, time, _] = values.dims();
        let mut mask = vec![NOWHERE; sentences * time];
        for (sentence, &length) in states.lengths().iter().enumerate() {
            mask[sentence * time..][..length].fill(0.0);
        }
        let mask = Tensor::from_data(TensorData::new(mask, [sentences, 1, time]), &values.device());
        let keys = match &self.key {
            Some(key) => linear(values.clone(), key),
            None => values.clone(),
        };
        Memory { values, keys, mask }
    }

    /// What steps `query` `[B, T, H]` read, `[B, T, E]`, and how much of each place, `[B, T, S]`.
    ///
    /// # Panics
    /// When the widths do not fit.
    #[must_use]
    pub fn forward(&self, query: Tensor<3>, memory: &Memory) -> (Tensor<3>, Tensor<3>) {
        let [sentences, time, width] = query.dims();
        let query = match &self.query {
            Some(weight) => linear(query, weight),
            None => query,
        };
        let scores = match (self.score, &self.vector, &self.bias) {
            (Score::Additive, Some(vector), Some(bias)) => {
                let [_, places, compared] = memory.keys.dims();
                let query = (query + bias.val().reshape([1, 1, compared])).unsqueeze_dim::<4>(2);
                let sums = query + memory.keys.clone().unsqueeze_dim::<4>(1);
                let fits = sums.tanh().reshape([sentences * time * places, compared]);
                fits.matmul(vector.val().transpose()).reshape([sentences, time, places])
            }
            (Score::ScaledDot, ..) => {
                query.matmul(memory.keys.clone().swap_dims(1, 2)) / (width as f64).sqrt()
            }
            _ => query.matmul(memory.keys.clone().swap_dims(1, 2)),
        };
        let weights = activation::softmax(scores + memory.mask.clone(), 2);
        (weights.clone().matmul(memory.values.clone()), weights)
    }
}

/// `x Wᵀ` over the last dimension.
fn linear(x: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    let [sentences, time, width] = x.dims();
    let out = weight.dims()[0];
    x.reshape([sentences * time, width]).matmul(weight.val().transpose()).reshape([sentences, time, out])
}

macro_rules! listed {
    ($self:ident, $kind:ident, $($borrow:tt)+) => {{
        let mut all = Vec::new();
        for (name, matrix) in
            [("query", $($borrow)+ $self.query), ("key", $($borrow)+ $self.key), ("vector", $($borrow)+ $self.vector)]
        {
            if let Some(matrix) = matrix {
                all.push((name.to_owned(), $kind::Matrix(matrix)));
            }
        }
        if let Some(bias) = $($borrow)+ $self.bias {
            all.push(("bias".to_owned(), $kind::Vector(bias)));
        }
        all
    }};
}

/// `query`, `key`, `vector`, `bias`, as far as the score has them.
impl NamedParameters for Attention {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        listed!(self, Parameter, &)
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        listed!(self, ParameterMut, &mut)
    }
}
