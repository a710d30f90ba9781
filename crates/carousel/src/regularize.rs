//! What keeps a net from learning its data by heart: values and weights that drop out at random, and a price on
//! large and on changing activations.
//!
//! All randomness comes from a [`Noise`], a key that names one update of a run. Masks follow from it by counting,
//! see [`carousel_kernels::dropout`]: they do not depend on threads, and a resumed run draws the same.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, TensorData};
use carousel_kernels::dropout::{Mask, Pattern, apply, key};
use carousel_kernels::{Batch, Zoneout, penalty};

use crate::buffers::buffer;
use crate::cell::Cell;
use crate::config_error::ConfigError;
use crate::operation::Operands;
use crate::own_cell::AnyCell;
use crate::slices::{dense, flex, primitive, slice, supports};
use crate::state::index_tensor;

/// The random choices of one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    key: u64,
    /// Of what is drawn anew in each reading of an update.
    free: u64,
}

/// Keys of the masks inside the steps of a layer in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepKeys {
    /// Of those that sequences keep.
    pub(crate) locked: u64,
    /// Of those that change from step to step.
    pub(crate) free: u64,
}

impl Noise {
    /// Named by any numbers: a run's seed, its step, a part of the step.
    #[must_use]
    pub fn new(numbers: &[u64]) -> Noise {
        let key = key(numbers);
        Noise { key, free: key }
    }

    /// The choices of one reading, where an update reads its sequences piece by piece: words, weights and what is
    /// locked to a sequence drop out as in the whole update, the rest is drawn anew.
    #[must_use]
    pub fn reading(self, index: u64) -> Noise {
        // The first one is the update's own, as where there is no other.
        let free = if index == 0 { self.key } else { key(&[self.key, index]) };
        Noise { free, ..self }
    }

    /// The keys of all masks inside the steps of a layer in one direction.
    pub(crate) fn steps(self, layer: usize) -> StepKeys {
        let of = |locked| self.over_steps(locked).draws(Purpose::Steps, layer);
        StepKeys { locked: of(true), free: of(false) }
    }

    /// The choices that sequences keep from step to step, or those that they do not.
    pub(crate) fn over_steps(self, locked: bool) -> Noise {
        Noise { key: if locked { self.key } else { self.free }, ..self }
    }

    /// The choices of one part of a model that has several.
    pub(crate) fn part(self, part: u64) -> Noise {
        Noise { key: key(&[self.key, part]), free: key(&[self.free, part]) }
    }

    /// A seed for what is drawn for a purpose one after the other.
    pub(crate) fn draws(self, purpose: Purpose, layer: usize) -> u64 {
        key(&[self.key, purpose as u64, layer as u64])
    }

    /// A seed for other random choices of the update.
    pub(crate) fn seed(self) -> u64 {
        self.key
    }

    /// The mask of a purpose; `None` where nothing drops out.
    pub(crate) fn mask(self, purpose: Purpose, layer: usize, drop: f64) -> Option<Mask> {
        let mask = Mask { key: self.draws(purpose, layer), drop: drop as f32 };
        (drop > 0.0).then_some(mask)
    }
}

/// What a mask is for; masks of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Words,
    Input,
    Between,
    Output,
    Recurrent,
    Steps,
    Slopes,
}

/// What drops out while a recurrent stack learns. All zero by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Of what each layer but the first reads (Zaremba et al. 2014).
    pub between: f64,
    /// Whether one mask serves all steps of a sequence (Gal and Ghahramani 2016), or each step has its own.
    pub locked: bool,
    /// Of the recurrent weights (DropConnect, Wan et al. 2013; in recurrent nets Merity et al. 2017).
    pub weights: f64,
    /// Of `h`, as the recurrent weights read it: the same units at all steps of a sequence (Gal and Ghahramani
    /// 2016).
    pub recurrent: f64,
    /// Of an LSTM's or a GRU's candidate, as it enters the state (Semeniuta et al. 2016).
    pub update: f64,
    /// That a unit of `h` keeps its last value (zoneout, Krueger et al. 2017). Where nothing is drawn, the mean of
    /// the last and the new value is taken.
    pub zoneout: f64,
    /// The same of an LSTM's `c`.
    pub zoneout_cell: f64,
}

impl Dropout {
    /// Whether anything is left to chance.
    #[must_use]
    pub fn is_noisy(self) -> bool {
        self.between + self.weights > 0.0 || self.is_in_steps()
    }

    /// Whether anything is left to chance inside the steps.
    pub(crate) fn is_in_steps(self) -> bool {
        self.recurrent + self.update + self.zoneout + self.zoneout_cell > 0.0
    }

    /// Its zoneout as the kernels take it.
    pub(crate) fn zones(self) -> Zoneout {
        Zoneout { hidden: self.zoneout as f32, cell: self.zoneout_cell as f32 }
    }

    /// Whether all probabilities are such, and the cell has what they are of.
    ///
    /// # Errors
    /// [`ConfigError::Drop`] and [`ConfigError::NotOf`].
    pub(crate) fn check(self, cell: AnyCell) -> Result<(), ConfigError> {
        check_drop("between layers", self.between)?;
        check_drop("of recurrent weights", self.weights)?;
        check_drop("of recurrent values", self.recurrent)?;
        check_drop("of updates", self.update)?;
        check_drop("of h by zoneout", self.zoneout)?;
        check_drop("of c by zoneout", self.zoneout_cell)?;
        if self.update > 0.0 && !matches!(cell.fused(), Some(Cell::Lstm | Cell::Gru(_))) {
            return Err(ConfigError::NotOf { what: "dropout of updates", cell: cell.name() });
        }
        if self.recurrent > 0.0 && cell.fused().is_none() {
            return Err(ConfigError::NotOf { what: "dropout of recurrent values", cell: cell.name() });
        }
        if self.zoneout_cell > 0.0 && !cell.has_cell_state() {
            return Err(ConfigError::NotOf { what: "zoneout of c", cell: cell.name() });
        }
        Ok(())
    }
}

/// A probability to drop out is from 0 and below 1.
pub(crate) fn check_drop(what: &'static str, found: f64) -> Result<(), ConfigError> {
    if (0.0..1.0).contains(&found) { Ok(()) } else { Err(ConfigError::Drop { what, found }) }
}

/// Which elements of a matrix share their fate, owned; see [`Pattern`].
#[derive(Clone, Debug)]
pub(crate) enum Sharing {
    None,
    Rows(Vec<u32>),
    Whole(Vec<u32>),
}

impl Sharing {
    /// One mask a sequence, or one a step; `names` are the sequences'.
    pub(crate) fn of(locked: bool, batch: &Batch, names: &[u32]) -> Sharing {
        match locked {
            true => Sharing::Rows(batch.places().map(|(sequence, _)| names[sequence]).collect()),
            false => Sharing::None,
        }
    }

    fn pattern(&self) -> Pattern<'_> {
        match self {
            Sharing::None => Pattern::Elements,
            Sharing::Rows(names) => Pattern::Rows(names),
            Sharing::Whole(names) => Pattern::Whole(names),
        }
    }
}

/// Backward of a mask: the same mask on the gradient.
#[derive(Debug)]
struct MaskBackward;

impl Backward<Flex, 1> for MaskBackward {
    type State = (Mask, Arc<Sharing>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(gradients.consume::<Flex>(&ops.node));
        let [x] = ops.parents;
        let Some(x) = x else { return };
        let (mask, sharing, width) = ops.state;
        gradients.register::<Flex>(x.id, masked_values(mask, &sharing, width, slice(&dy)));
    }
}

fn masked_values(mask: Mask, sharing: &Sharing, width: usize, x: &[f32]) -> FlexTensor {
    let mut out = buffer(x.len());
    apply(mask, sharing.pattern(), width, x, &mut out).expect("one name a row, and a probability");
    out.into_tensor([x.len() / width, width])
}

/// A mask's factors, on the device and of the type of another tensor.
pub(crate) fn factors_like(
    like: &Tensor<2>,
    mask: Mask,
    sharing: &Sharing,
    [rows, width]: [usize; 2],
) -> Tensor<2> {
    let mut factors = vec![0.0; rows * width];
    apply(mask, sharing.pattern(), width, &vec![1.0; rows * width], &mut factors)
        .expect("one name a row, and a probability");
    let factors = TensorData::new(factors, [rows, width]).convert_dtype(like.dtype());
    Tensor::from_data(factors, (&like.device(), like.dtype()))
}

/// `x * mask`; `x` as it is without a mask.
pub(crate) fn masked(x: Tensor<2>, mask: Option<Mask>, sharing: Sharing) -> Tensor<2> {
    let [rows, width] = x.dims();
    let Some(mask) = mask.filter(|_| rows > 0) else { return x };
    if !supports(&x) {
        let factors = factors_like(&x, mask, &sharing, [rows, width]);
        return x * factors;
    }
    let values = masked_values(mask, &sharing, width, slice(&dense(primitive(x.clone()))));
    let mut operands = Operands::default();
    let parents = [operands.add(x)];
    operands.finish(parents, MaskBackward, || (mask, Arc::new(sharing), width), values)
}

/// Backward of a penalty: its gradient was computed with it, and only waits for the factor.
#[derive(Debug)]
struct PenaltyBackward;

impl Backward<Flex, 1> for PenaltyBackward {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let incoming = dense(gradients.consume::<Flex>(&ops.node));
        let factor = slice(&incoming)[0];
        let [y] = ops.parents;
        let Some(y) = y else { return };
        let mut gradient = ops.state;
        if factor != 1.0 {
            gradient.storage_mut::<f32>().iter_mut().for_each(|value| *value *= factor);
        }
        gradients.register::<Flex>(y.id, gradient);
    }
}

/// `activation · mean(y²) + temporal · mean((y[t+1] - y[t])²)`, `[1]`, of a layer's outputs `[F, H]` in packed
/// order: activation regularisation and its temporal form (Merity et al. 2017). The second mean is over the steps
/// that follow another of their sequence.
#[must_use]
pub fn activation_penalty(y: Tensor<2>, batch: &Batch, activation: f64, temporal: f64) -> Tensor<1> {
    let [_, width] = y.dims();
    if !supports(&y) {
        return portable_penalty(&y, batch, activation, temporal);
    }
    let values = dense(primitive(y.clone()));
    let mut gradient = buffer(slice(&values).len());
    let (activation, temporal) = (activation as f32, temporal as f32);
    let value = penalty::activations(batch, width, slice(&values), activation, temporal, &mut gradient)
        .expect("one row a frame of the batch");
    let shape = y.dims();
    let mut operands = Operands::default();
    let parents = [operands.add(y)];
    let gradient = || gradient.into_tensor(shape);
    operands.finish(parents, PenaltyBackward, gradient, flex(vec![value as f32], [1]))
}

fn portable_penalty(y: &Tensor<2>, batch: &Batch, activation: f64, temporal: f64) -> Tensor<1> {
    let size = y.clone().powi_scalar(2).mean() * activation;
    let starts = batch.starts();
    let pairs: Vec<(i64, i64)> = (1..batch.steps())
        .flat_map(|step| (0..batch.alive(step)).map(move |rank| (step, rank)))
        .map(|(step, rank)| ((starts[step - 1] + rank) as i64, (starts[step] + rank) as i64))
        .collect();
    if pairs.is_empty() {
        return size;
    }
    let (before, after) = pairs.into_iter().unzip();
    let rows = |rows| y.clone().select(0, index_tensor(rows, &y.device()));
    size + (rows(after) - rows(before)).powi_scalar(2).mean() * temporal
}
