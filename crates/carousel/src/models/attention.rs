//! Attention of decoder steps over encoder states (Bahdanau et al. 2015; Luong et al. 2015), and the layer behind it.
//!
//! On the CPU both are one operation over all steps of a batch. In plain Burn operations they are there for other
//! devices, and for decoders that look step by step.
//!
//! Shapes: B sentences, T steps of the decoder, S of the encoder, H units of the decoder, E values of an encoder
//! state, A values that additive attention compares.

use std::sync::{Arc, Mutex};

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};
use carousel_kernels::attention as kernels;

pub use carousel_kernels::attention::Score;

use crate::buffers::{Buffer, buffer};
use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::lock::lock;
use crate::models::dense::Dense;
use crate::operation::{Operands, Tracked};
use crate::parameters::{parameter, parts};
use crate::ragged::{Batch, Ragged};
use crate::slices::{dense, flex, plain, primitive, slice, supports};
use crate::state::index_tensor;
use crate::tapes::{PooledTape, TapePool};

/// What is added to the score of a place that does not exist: its weight becomes 0 exactly.
const NOWHERE: f32 = -1e30;

/// Attention with its parameters.
#[derive(Module, Debug)]
pub struct Attention {
    /// `W`: `[E, H]` of [`Score::General`] and [`Score::ScaledGeneral`], whose transpose meets the query; `[A, H]` of
    /// [`Score::Additive`].
    pub(super) query: Option<Param<Tensor<2>>>,
    /// `U` `[A, E]`.
    pub(super) key: Option<Param<Tensor<2>>>,
    /// `v` `[1, A]`.
    pub(super) vector: Option<Param<Tensor<2>>>,
    /// `b` `[A]`.
    pub(super) bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(super) score: Score,
    #[module(skip)]
    tapes: TapePool<kernels::Tape>,
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
    ///
    /// # Errors
    /// [`ConfigError::Attended`] when a dot product compares states of another width than the hidden values.
    pub(crate) fn init(
        score: Score,
        hidden: usize,
        states: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Attention, ConfigError> {
        if score.needs_equal_widths() && states != hidden {
            return Err(ConfigError::Attended { places: states, hidden });
        }
        let mut draw = |rows: usize, columns: usize| {
            let bound = 1.0 / (columns as f64).sqrt();
            parameter(random.uniform(rows * columns, bound), [rows, columns], device)
        };
        let none =
            Attention { query: None, key: None, vector: None, bias: None, score, tapes: TapePool::default() };
        Ok(match score {
            Score::Dot | Score::ScaledDot => none,
            Score::General | Score::ScaledGeneral => Attention { query: Some(draw(states, hidden)), ..none },
            Score::Additive => Attention {
                query: Some(draw(hidden, hidden)),
                key: Some(draw(hidden, states)),
                vector: Some(draw(1, hidden)),
                bias: Some(parameter(vec![0.0; hidden], [hidden], device)),
                ..none
            },
        })
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
            (Score::ScaledDot | Score::ScaledGeneral, ..) => {
                query.matmul(memory.keys.clone().swap_dims(1, 2)) / (width as f64).sqrt()
            }
            _ => query.matmul(memory.keys.clone().swap_dims(1, 2)),
        };
        let weights = activation::softmax(scores + memory.mask.clone(), 2);
        (weights.clone().matmul(memory.values.clone()), weights)
    }

    /// What all steps `y` `[F, H]` of `targets` know after a look at the encoder's states, `[F, H]`: what each read
    /// and itself, through `combine`.
    pub(super) fn join(
        &self,
        combine: &Dense,
        y: Tensor<2>,
        targets: &Arc<Batch>,
        states: &Ragged,
    ) -> Tensor<2> {
        let x = states.frames();
        if supports(&y) && supports(&x) && supports(&combine.first().0.val()) {
            return self.joined(combine, y, targets, x, states.batch());
        }
        self.join_memory(combine, y, targets, &self.memory(states))
    }

    /// The same with states that are prepared, in plain Burn operations.
    pub(super) fn join_memory(
        &self,
        combine: &Dense,
        y: Tensor<2>,
        targets: &Arc<Batch>,
        memory: &Memory,
    ) -> Tensor<2> {
        let steps = Ragged::new(y.clone(), targets.clone()).expect("one row a frame").to_padded(0.0);
        let (context, _) = self.forward(steps, memory);
        let context =
            Ragged::from_padded(context, targets.lengths()).expect("the targets' own lengths").frames();
        combine.forward(Tensor::cat(vec![context, y], 1), None)
    }

    /// Encoder states for steps that look one by one.
    pub(super) fn kept(&self, combine: &Dense, states: &Ragged) -> kernels::Memory {
        let (weight, bias) = combine.first();
        let matrix = |weight: Option<Tensor<2>>| weight.map_or_else(|| flex(Vec::new(), [0]), plain);
        let [query, key, vector] =
            [&self.query, &self.key, &self.vector].map(|weight| matrix(weight.as_ref().map(Param::val)));
        let query_bias = self.bias.as_ref().map_or_else(|| flex(Vec::new(), [0]), |bias| plain(bias.val()));
        let (combine, bias, x) = (plain(weight.val()), plain(bias.val()), plain(states.frames()));
        let attention = kernels::Attention {
            score: self.score,
            hidden: weight.dims()[0],
            states: states.frames().dims()[1],
        };
        let weights = kernels::Weights {
            query: slice(&query),
            key: slice(&key),
            vector: slice(&vector),
            query_bias: slice(&query_bias),
            combine: slice(&combine),
            bias: slice(&bias),
        };
        kernels::Memory::new(attention, states.batch(), weights, slice(&x))
            .expect("the model's own sizes, and sentences that are not empty")
    }

    /// The same as one operation.
    fn joined(
        &self,
        combine: &Dense,
        y: Tensor<2>,
        targets: &Arc<Batch>,
        x: Tensor<2>,
        sources: &Arc<Batch>,
    ) -> Tensor<2> {
        let ([frames, hidden], [_, states]) = (y.dims(), x.dims());
        let (weight, bias) = combine.first();
        let mut operands = Operands::default();
        let (matrix, all) =
            (|weight: &Option<Param<Tensor<2>>>| weight.as_ref().map(Param::val), &mut operands);
        let read: [(Tracked, FlexTensor); OPERANDS] = [
            operand(all, Some(y)),
            operand(all, Some(x)),
            operand(all, matrix(&self.query)),
            operand(all, matrix(&self.key)),
            operand(all, matrix(&self.vector)),
            operand(all, self.bias.as_ref().map(Param::val)),
            operand(all, Some(weight.val())),
            operand(all, Some(bias.val())),
        ];
        let values = read.iter().map(|(_, values)| values.clone()).collect();
        let parents = read.map(|(parent, _)| parent);
        let mut look = Look {
            attention: kernels::Attention { score: self.score, hidden, states },
            sources: sources.clone(),
            targets: targets.clone(),
            values,
            tape: self.tapes.take(),
        };
        let out = look.forward().into_tensor([frames, hidden]);
        operands.finish(parents, LookBackward, || Waiting(Arc::new(Mutex::new(Some(look)))), out)
    }
}

/// Steps, states, `W`, `U`, `v`, `b`, and weight and bias of the layer behind.
const OPERANDS: usize = 8;

fn operand<const D: usize>(all: &mut Operands, tensor: Option<Tensor<D>>) -> (Tracked, FlexTensor) {
    let values = tensor.clone().map_or_else(|| flex(Vec::new(), [0]), |tensor| dense(primitive(tensor)));
    (all.add_optional(tensor), values)
}

/// A look at a batch.
struct Look {
    attention: kernels::Attention,
    sources: Arc<Batch>,
    targets: Arc<Batch>,
    /// [`OPERANDS`], dense.
    values: Vec<FlexTensor>,
    tape: PooledTape<kernels::Tape>,
}

impl Look {
    fn weights(&self) -> kernels::Weights<'_> {
        let [_, _, weights @ ..]: [_; OPERANDS] = std::array::from_fn(|place| slice(&self.values[place]));
        let [query, key, vector, query_bias, combine, bias] = weights;
        kernels::Weights { query, key, vector, query_bias, combine, bias }
    }

    fn forward(&mut self) -> Buffer {
        let mut tape = std::mem::take(&mut self.tape.tape);
        let [y, x] = [0, 1].map(|place| slice(&self.values[place]));
        let mut out = buffer(y.len());
        let batches = (&*self.sources, &*self.targets);
        kernels::forward(self.attention, batches, self.weights(), x, y, &mut out, &mut tape)
            .expect("the model's own sizes, and a source for every target");
        self.tape.tape = tape;
        out
    }
}

/// A look that waits for its backward pass; empty once that has run.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<Look>>>);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

#[derive(Debug)]
struct LookBackward;

impl Backward<Flex, OPERANDS> for LookBackward {
    type State = Waiting;

    fn backward(self, ops: Ops<Waiting, OPERANDS>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dout = dense(gradients.consume::<Flex>(&ops.node));
        let Some(mut look) = lock(&ops.state.0).take() else { return };
        let mut tape = std::mem::take(&mut look.tape.tape);
        let mut found: [_; OPERANDS] = std::array::from_fn(|place| buffer(slice(&look.values[place]).len()));
        let [y, x, query, key, vector, query_bias, combine, bias] = found.each_mut().map(|d| &mut **d);
        let into = kernels::Gradients { y, x, query, key, vector, query_bias, combine, bias };
        let batches = (&*look.sources, &*look.targets);
        kernels::backward(look.attention, batches, look.weights(), &mut tape, slice(&dout), into)
            .expect("shapes were checked by the forward pass");
        for ((parent, values), found) in ops.parents.iter().zip(&look.values).zip(found) {
            if let Some(parent) = parent {
                let shape = values.layout().shape().clone();
                gradients.register::<Flex>(parent.id, found.into_tensor(shape));
            }
        }
        look.tape.tape = tape;
    }
}

/// `x Wᵀ` over the last dimension.
fn linear(x: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    let [sentences, time, width] = x.dims();
    let out = weight.dims()[0];
    x.reshape([sentences * time, width]).matmul(weight.val().transpose()).reshape([sentences, time, out])
}

parts! {
    /// `query`, `key`, `vector`, `bias`, as far as the score has them.
    Attention { "query": query, "key": key, "vector": vector, "bias": bias }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;

    use super::*;
    use crate::models::dense::{DenseActivation, DenseConfig, Norm};
    use crate::parameters::NamedParameters;
    use crate::slices::with_slice;

    /// The operation against plain Burn operations: what comes out, and every gradient.
    #[test]
    fn one_operation_does_what_many_do() {
        let device = Device::default().autodiff();
        let (sources, targets) = ([3, 1, 4], [2, 5, 0]);
        let batch = |lengths: &[usize]| Arc::new(Batch::ragged(lengths, 5).expect("none is longer"));
        let scores = [Score::Dot, Score::ScaledDot, Score::General, Score::ScaledGeneral, Score::Additive];
        for score in scores {
            let (hidden, states) = (6, if score.needs_equal_widths() { 6 } else { 10 });
            let random = &mut Initializer::new(3);
            let attention = Attention::init(score, hidden, states, random, &device).expect("equal widths");
            let config = DenseConfig {
                input: states + hidden,
                hidden,
                layers: 1,
                activation: DenseActivation::Tanh,
                norm: Norm::None,
            };
            let combine = config.init(random, &device).expect("no size is zero");
            let mut draw = |rows: usize, width: usize| {
                let values = TensorData::new(random.uniform(rows * width, 2.0), [rows, width]);
                Tensor::<2>::from_data(values, &device)
            };
            let (sources, targets) = (batch(&sources), batch(&targets));
            let y = draw(targets.frames(), hidden).require_grad();
            let x = draw(sources.frames(), states).require_grad();
            let factors = draw(targets.frames(), hidden);
            let told = |out: Tensor<2>| -> Vec<Vec<f32>> {
                let values = with_slice(&out, <[f32]>::to_vec);
                let mut gradients = (out * factors.clone()).sum().backward();
                let inputs = [&y, &x].map(|input| input.grad(&gradients).expect("it takes part"));
                let mut all = vec![values];
                all.extend(inputs.iter().map(|gradient| with_slice(gradient, <[f32]>::to_vec)));
                for found in
                    [attention.take_gradients(&mut gradients), combine.take_gradients(&mut gradients)]
                {
                    all.extend(found.iter().map(|gradient| with_slice(gradient, <[f32]>::to_vec)));
                }
                all
            };
            let states = Ragged::new(x.clone(), sources.clone()).expect("one row a frame");
            let memory = attention.memory(&states);
            let many = told(attention.join_memory(&combine, y.clone(), &targets, &memory));
            let one = told(attention.join(&combine, y.clone(), &targets, &states));
            assert_eq!(many.len(), one.len());
            for (place, (many, one)) in many.iter().zip(&one).enumerate() {
                assert!(many.iter().any(|&value| value != 0.0), "{score:?} {place}");
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * (1.0 + a.abs());
                assert!(many.iter().zip(one).all(close), "{score:?} {place}: {many:?} {one:?}");
            }
            assert_eq!(attention.tapes.waiting(), 1);
            let plain = Ragged::new(x.without_autodiff(), sources.clone()).expect("one row a frame");
            let still = attention.valid().join(&combine.valid(), y.without_autodiff(), &targets, &plain);
            with_slice(&still, |still| assert_eq!(still, one[0]));
        }
    }
}
