//! When training breaks: finds the first number that is none, says where it arose and what was measured on the
//! way, and keeps the batch so that it can be looked at again.
//!
//! The batch is walked once more, step by step and layer by layer. Forward, the first value that is not finite is
//! looked for in the order of computation: the input, the gates, the cell value, the hidden value, the output
//! layer. If all are finite, so is the loss, and the gradients are walked back in the same way.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use carousel_kernels::Batch;
use carousel_kernels::loss::{
    Objective, Output as KernelOutput, OutputGradients, cross_entropy_backward, logits,
};

use serde::{Deserialize, Serialize};

use crate::cell::{Activation, Cell};
use crate::fused::with_slice;
use crate::models::language_model::LanguageModel;
use crate::one_step::{Net, Pair, Step};
use crate::own_cell::AnyCell;
use crate::parameters::{NamedParameters, NamedTensor};
use crate::recipe::{Named, Recipe};
use crate::state::State;
use crate::train::TrainError;
use crate::train::breakage::{CALLS, look_again};
use crate::train::checkpoint::{CheckpointError, find_tensor, read_tensors, write_tensors};

/// A gate outside 0.1 to 0.9, an `h` beyond ±0.9.
const SATURATED: [f32; 2] = [0.1, 0.9];
/// More saturation than this leaves little to learn with.
const MUCH: f64 = 0.8;
/// Hidden values that no trained net needs.
const HUGE: f64 = 1e3;

/// A batch of a language model and all that its step started from.
#[derive(Clone, Debug)]
pub struct BrokenBatch {
    /// The update that it was for.
    pub step: u64,
    /// Token ids and targets in packed order.
    pub inputs: Vec<u32>,
    /// See `inputs`.
    pub targets: Vec<u32>,
    /// Lengths of the sequences.
    pub batch: Batch,
    /// The state that the sequences started from.
    pub state: Option<State>,
}

/// Which way a number was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// From the input to the loss.
    Forward,
    /// From the loss to the parameters.
    Backward,
}

/// Where the first number that is not finite arose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// In a parameter, before anything was computed.
    Parameter {
        /// Its name.
        name: String,
        /// How many of its values are not finite.
        values: usize,
    },
    /// In the vector of a token: what the first layer reads.
    Input {
        /// The token's id.
        token: u32,
        /// Time step of the batch, from 0.
        step: usize,
        /// Sequence of the batch, from 0.
        sequence: usize,
    },
    /// In the values that a stack of layers reads.
    Values {
        /// The stack, `encoder.recurrent`; empty where the model has one.
        stack: String,
        /// Which value of the step, from 0.
        value: usize,
        /// Time step of the batch, from 0.
        step: usize,
        /// Sequence of the batch, from 0.
        sequence: usize,
    },
    /// In a layer.
    Layer {
        /// Forward, or a gradient.
        way: Way,
        /// The stack, `encoder.recurrent`; empty where the model has one.
        stack: String,
        /// The layer, 0 at the input.
        layer: usize,
        /// `i`, `f`, `g`, `o`, `c`, `h`, …
        signal: String,
        /// Time step of the batch, from 0.
        step: usize,
        /// Sequence of the batch, where one can be named.
        sequence: Option<usize>,
        /// The unit.
        unit: usize,
    },
    /// In the scores of the output layer, or in their loss.
    Output {
        /// Time step of the batch, from 0.
        step: usize,
        /// Sequence of the batch, from 0.
        sequence: usize,
    },
    /// In what reads the recurrent layers, which are all finite, or in the loss.
    Behind,
    /// In the gradient of a parameter, while all values were finite; of those that broke the one nearest to the
    /// loss.
    Gradient {
        /// The parameter's name.
        parameter: String,
        /// Of a recurrent layer the gate (`h` of an RNN) and the unit.
        gate: Option<(String, usize)>,
    },
    /// Nowhere in this batch: only the sum of all gradients is too large.
    Sum,
}

/// What went wrong in a training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// Where the first number arose that is not finite.
    pub origin: Origin,
    /// The largest weight: its tensor and value.
    pub largest_weight: (String, f32),
    /// Largest `|h|` at the first and the last step that were still finite.
    pub hidden: [f64; 2],
    /// Share of saturated gate values (of an RNN: of `|h|` beyond 0.9) while all was finite.
    pub saturated: f64,
    /// Global gradient norm of the last good step; 0 before the first.
    pub gradient_norm: f64,
    /// What to change, most likely first.
    pub advice: Vec<String>,
    /// The last checkpoint before.
    pub checkpoint: Option<PathBuf>,
    /// Where the batch was saved.
    pub replay: Option<PathBuf>,
}

/// What the recipe and the run say beside the batch.
pub(super) struct Circumstances<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) gradient_norm: f64,
    pub(super) checkpoint: Option<PathBuf>,
}

/// Looks for what made a step break.
pub(super) fn diagnose(model: &LanguageModel, broken: &BrokenBatch, told: Circumstances<'_>) -> Diagnosis {
    let mut measured = Measured::default();
    let Damage { largest, origin } = Damage::of(model);
    let origin = origin.unwrap_or_else(|| walk(model, broken, &mut measured));
    conclude(origin, largest, &measured, Some(model.recurrent().cell()), told)
}

/// The state of the weights.
#[derive(Default)]
pub(super) struct Damage {
    /// The largest weight that is finite: its tensor and value.
    pub(super) largest: (String, f32),
    /// The first parameter with values that are not.
    pub(super) origin: Option<Origin>,
}

impl Damage {
    pub(super) fn of(model: &impl NamedParameters) -> Damage {
        let mut damage = Damage::default();
        for (name, parameter) in model.parameters() {
            parameter.with_slice(|values| damage.see(&name, values));
        }
        damage
    }

    pub(super) fn see(&mut self, name: &str, values: &[f32]) {
        let bad = values.iter().filter(|value| !value.is_finite()).count();
        let most = values.iter().filter(|value| value.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
        if most > self.largest.1 {
            self.largest = (name.to_owned(), most);
        }
        // A token's vector is better named by where it is read.
        if bad > 0 && self.origin.is_none() && !name.ends_with("embedding.weight") {
            self.origin = Some(Origin::Parameter { name: name.to_owned(), values: bad });
        }
    }
}

/// A diagnosis with its advice. `cell` is that of the model, where it has one.
pub(super) fn conclude(
    origin: Origin,
    largest_weight: (String, f32),
    measured: &Measured,
    cell: Option<AnyCell>,
    told: Circumstances<'_>,
) -> Diagnosis {
    let mut diagnosis = Diagnosis {
        origin,
        largest_weight,
        hidden: measured.hidden,
        saturated: measured.saturated as f64 / measured.gates.max(1) as f64,
        gradient_norm: told.gradient_norm,
        advice: Vec::new(),
        checkpoint: told.checkpoint,
        replay: None,
    };
    diagnosis.advice = advice(&diagnosis, cell, told.recipe);
    diagnosis
}

/// What was seen on the way.
#[derive(Default)]
pub(super) struct Measured {
    /// The largest `|h|` of the first step, and of the last.
    pub(super) hidden: [f64; 2],
    saturated: usize,
    gates: usize,
}

impl Measured {
    /// Looks at finite values of a signal, and returns the largest `|h|` among them.
    pub(super) fn see(&mut self, cell: AnyCell, signal: &str, values: &[f32]) -> f64 {
        let is_tanh = cell == Cell::Rnn(Activation::Tanh);
        let outside: Option<fn(f32) -> bool> = match signal {
            "h" if is_tanh => Some(|value| value.abs() > SATURATED[1]),
            "i" | "f" | "o" | "r" | "z" => Some(|value| !(SATURATED[0]..=SATURATED[1]).contains(&value)),
            _ => None,
        };
        if let Some(outside) = outside {
            self.gates += values.len();
            self.saturated += values.iter().filter(|value| outside(**value)).count();
        }
        match signal {
            "h" => values.iter().fold(0.0, |most, value| most.max(f64::from(value.abs()))),
            _ => 0.0,
        }
    }
}

/// A cell's signals in the order of computation: gates, then the cell value, then the hidden one.
pub(super) fn in_order(cell: AnyCell) -> impl Iterator<Item = &'static str> {
    let names = cell.signals().into_iter().map(|signal| signal.name);
    let (states, gates): (Vec<_>, Vec<_>) = names.partition(|name| ["h", "c"].contains(name));
    gates.into_iter().chain(states.into_iter().rev())
}

pub(super) fn bad(values: &[f32]) -> Option<usize> {
    values.iter().position(|value| !value.is_finite())
}

fn walk(model: &LanguageModel, broken: &BrokenBatch, measured: &mut Measured) -> Origin {
    let net = Net::new(model);
    let batch = &broken.batch;
    let Some(cell) = net.layers.first().map(|(sizes, _)| sizes.cell) else { return Origin::Sum };
    let mut states = initial(&net, broken);
    let mut walked: Vec<Vec<Step>> = Vec::new();
    let mut tops: Vec<f32> = Vec::new();
    for step in 0..batch.steps() {
        let frames = batch.starts()[step]..batch.starts()[step + 1];
        let tokens = &broken.inputs[frames];
        let alive = tokens.len();
        let x = net.embed(tokens.iter().copied());
        if let Some(at) = bad(&x) {
            let rank = at / net.width;
            return Origin::Input { token: tokens[rank], step, sequence: batch.order()[rank] };
        }
        let before: Vec<Pair> = states
            .iter()
            .zip(&net.layers)
            .map(|(state, (sizes, _))| state.first(alive, sizes.hidden))
            .collect();
        let mut steps = net.step(x, &before);
        let mut largest = 0f64;
        for (layer, taken) in steps.iter_mut().enumerate() {
            let (sizes, weights) = &net.layers[layer];
            for name in in_order(cell.into()) {
                let signal = cell.signals().iter().find(|(own, _)| *own == name);
                let &(_, signal) = signal.expect("the name is one of them");
                let values = taken.signal(weights, signal);
                if let Some(at) = bad(&values) {
                    return Origin::Layer {
                        way: Way::Forward,
                        stack: String::new(),
                        layer,
                        signal: name.to_owned(),
                        step,
                        sequence: Some(batch.order()[at / sizes.hidden]),
                        unit: at % sizes.hidden,
                    };
                }
                largest = largest.max(measured.see(cell.into(), name, &values));
            }
        }
        if step == 0 {
            measured.hidden[0] = largest;
        }
        measured.hidden[1] = largest;
        for (state, taken) in states.iter_mut().zip(&steps) {
            state.put_first(&taken.after);
        }
        tops.extend(net.top(&steps));
        walked.push(steps);
    }
    let hidden = net.layers.last().map_or(1, |(sizes, _)| sizes.hidden);
    let output = KernelOutput { weight: &net.output.0, bias: Some(&net.output.1) };
    let vocabulary = net.output.1.len();
    let place = |frame: usize| {
        let step = batch.starts().partition_point(|&start| start <= frame) - 1;
        Origin::Output { step, sequence: batch.order()[frame - batch.starts()[step]] }
    };
    let mut scores = vec![0.0; broken.inputs.len() * vocabulary];
    logits(output, hidden, &tops, &mut scores).expect("the model's sizes fit each other");
    if let Some(at) = bad(&scores) {
        return place(at / vocabulary);
    }

    let mut dtops = vec![0.0; tops.len()];
    let (mut dweight, mut dbias) = (vec![0.0; net.output.0.len()], vec![0.0; vocabulary]);
    let mean = Objective::scaled(1.0 / broken.targets.len().max(1) as f32);
    let gradients = OutputGradients { x: &mut dtops, weight: &mut dweight, bias: Some(&mut dbias) };
    cross_entropy_backward(output, hidden, &tops, &broken.targets, mean, gradients)
        .expect("the model's sizes fit each other");
    if let Some(at) = bad(&dtops) {
        return place(at / hidden);
    }
    let mut carried: Vec<Pair> =
        net.layers.iter().map(|(sizes, _)| Pair::zeros(sizes, batch.sequences())).collect();
    for (step, mut steps) in walked.into_iter().enumerate().rev() {
        let frames = batch.starts()[step]..batch.starts()[step + 1];
        let mut dy = dtops[frames.start * hidden..frames.end * hidden].to_vec();
        for (layer, (sizes, weights)) in net.layers.iter().enumerate().rev() {
            let pulled =
                steps[layer].pull(weights, Some(&dy), &carried[layer].first(frames.len(), sizes.hidden));
            let found = |signal: &str, unit: usize| Origin::Layer {
                way: Way::Backward,
                stack: String::new(),
                layer,
                signal: signal.to_owned(),
                step,
                sequence: None,
                unit: unit % sizes.hidden,
            };
            if let Some(at) = bad(&pulled.gates) {
                let names: Vec<&str> = cell
                    .signals()
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| !["h", "c"].contains(name))
                    .collect();
                return found(names.get(at / sizes.hidden).copied().unwrap_or("h"), at);
            }
            for (signal, values) in [("h", &pulled.before.h), ("c", &pulled.before.c), ("h", &pulled.x)] {
                if let Some(at) = bad(values) {
                    return found(signal, at);
                }
            }
            carried[layer].put_first(&pulled.before);
            dy = net.passed_down(layer, Some(&dy), pulled.x);
        }
    }
    Origin::Sum
}

/// The states that the sequences start from, by rank.
fn initial(net: &Net, broken: &BrokenBatch) -> Vec<Pair> {
    let sequences = broken.batch.sequences();
    let ranked = |values: &[f32], width: usize| -> Vec<f32> {
        broken.batch.order().iter().flat_map(|&b| values[b * width..][..width].to_vec()).collect()
    };
    let mut all = net.first(sequences);
    let Some(state) = &broken.state else { return all };
    let begins: Vec<bool> =
        broken.batch.order().iter().map(|&b| state.begins().is_some_and(|all| all[b])).collect();
    for ((pair, (sizes, _)), entry) in all.iter_mut().zip(&net.layers).zip(&state.layers) {
        let put = |to: &mut Vec<f32>, from: &Tensor<2>| {
            let from = with_slice(from, |values| ranked(values, sizes.hidden));
            let rows = to.chunks_exact_mut(sizes.hidden).zip(from.chunks_exact(sizes.hidden));
            rows.zip(&begins)
                .filter(|(_, begins)| !**begins)
                .for_each(|((to, from), _)| to.copy_from_slice(from));
        };
        put(&mut pair.h, &entry.h);
        if let Some(c) = &entry.c {
            put(&mut pair.c, c);
        }
    }
    all
}

fn advice(found: &Diagnosis, cell: Option<AnyCell>, recipe: &Recipe) -> Vec<String> {
    let train = &recipe.train;
    let mut advice = Vec::new();
    let rate = train.learning_rate;
    let (name, weight) = &found.largest_weight;
    match &found.origin {
        Origin::Parameter { .. } => advice.push(format!(
            "an earlier update overflowed: lower train.learning_rate (it is {rate}) and resume from the checkpoint"
        )),
        Origin::Input { token, .. } => {
            advice.push(format!("the vector of token {token} is no number: look at the data or the weights loaded"));
        }
        Origin::Values { .. } => advice.push("look at the data, or at what makes these values of it".to_owned()),
        _ => {}
    }
    if cell.is_some_and(|cell| cell == Cell::Rnn(Activation::Relu)) && found.hidden[1] > HUGE {
        advice.push(
            "ReLU has no upper end and its values grow from step to step: take model.activation=tanh or an lstm, \
             or lower train.learning_rate"
                .to_owned(),
        );
    }
    let candidate = recipe.model.options().activation;
    let bounded = matches!(candidate, Activation::Tanh | Activation::HardTanh);
    if cell.is_some_and(|cell| cell.fused().is_some()) && !bounded && found.hidden[1] > HUGE {
        advice.push(format!(
            "a candidate of {} has no upper end and h grows from step to step: take model.activation=tanh, or \
             lower train.learning_rate",
            candidate.name()
        ));
    }
    if *weight > 100.0 && !matches!(found.origin, Origin::Input { .. } | Origin::Values { .. }) {
        advice.push(format!(
            "weights have grown to {weight:.3e} ({name}): lower train.learning_rate (it is {rate})"
        ));
    }
    if found.saturated > MUCH {
        advice.push(format!(
            "{:.0} % of the gates are saturated, so little gradient passes: lower train.learning_rate (it is {rate})",
            found.saturated * 100.0
        ));
    }
    // A norm of 0 clips nothing.
    match (train.clip_norm.filter(|&clip| clip > 0.0), train.clip_value, train.clip_each_norm) {
        (None, None, None) => {
            advice.push("gradients are not clipped: set train.clip_norm, 5 for instance".to_owned());
        }
        (Some(clip), ..) if found.gradient_norm > clip => advice.push(format!(
            "the last gradient had norm {:.3e} and was clipped to {clip}: lower train.clip_norm",
            found.gradient_norm
        )),
        _ => {}
    }
    if advice.is_empty() {
        advice.push(format!("lower train.learning_rate (it is {rate}) or train.clip_norm"));
    }
    advice
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Parameter { name, values } => {
                write!(f, "{values} values of the parameter {name} were not finite before the step")
            }
            Origin::Input { token, step, sequence } => write!(
                f,
                "first in the input: the vector of token {token}, at time step {step} of sequence {sequence}"
            ),
            Origin::Values { stack, value, step, sequence } => {
                let what = if stack.is_empty() { "the first layer" } else { stack };
                write!(f, "first in the input: value {value} of what {what} reads, ")?;
                write!(f, "at time step {step} of sequence {sequence}")
            }
            Origin::Layer { way, stack, layer, signal, step, sequence, unit } => {
                let what = if *way == Way::Forward { "first in" } else { "first in the gradient of" };
                let of = if stack.is_empty() { String::new() } else { format!(" of {stack}") };
                write!(f, "{what} {signal} of layer {layer}{of}, unit {unit}, at time step {step}")?;
                sequence.map_or(Ok(()), |sequence| write!(f, " of sequence {sequence}"))
            }
            Origin::Output { step, sequence } => {
                write!(f, "first in the output layer, at time step {step} of sequence {sequence}")
            }
            Origin::Behind => {
                f.write_str("behind the recurrent layers, which are all finite: in what reads them")
            }
            Origin::Gradient { parameter, gate } => {
                write!(f, "all values are finite, not so the gradient of {parameter}")?;
                gate.as_ref().map_or(Ok(()), |(gate, unit)| write!(f, ", in {gate} of unit {unit}"))
            }
            Origin::Sum => f.write_str("every part is finite, only the norm of all gradients is not"),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {}", self.origin)?;
        write!(
            f,
            "\n  measured: largest |h| {:.3e} at the first step, {:.3e} at the last finite one; {:.0} % saturated; \
             last gradient norm {:.3e}",
            self.hidden[0],
            self.hidden[1],
            self.saturated * 100.0,
            self.gradient_norm
        )?;
        for advice in &self.advice {
            write!(f, "\n  try: {advice}")?;
        }
        match &self.checkpoint {
            Some(path) => write!(f, "\n  last good checkpoint: {}", path.display())?,
            None => f.write_str("\n  no checkpoint was saved before")?,
        }
        match &self.replay {
            Some(path) => write!(f, "\n  look again with: carousel train --replay {}", path.display()),
            None => Ok(()),
        }
    }
}

/// A tensor of what is saved beside the weights.
pub(super) fn flat(name: &str, values: Vec<f32>) -> NamedTensor {
    NamedTensor { name: format!("batch.{name}"), shape: vec![values.len()], values }
}

/// What was saved beside the weights.
pub(super) struct Saved {
    pub(super) path: PathBuf,
    pub(super) tensors: Vec<NamedTensor>,
}

impl Saved {
    pub(super) fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), reason }
    }

    pub(super) fn values(&self, name: &str) -> Result<&[f32], TrainError> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == format!("batch.{name}"));
        let missing = || self.damaged(format!("it has no batch.{name}; give a file that a run left"));
        Ok(&tensor.ok_or_else(missing)?.values)
    }

    pub(super) fn numbers(&self, name: &str) -> Result<Vec<u32>, TrainError> {
        Ok(self.values(name)?.iter().map(|&value| value as u32).collect())
    }
}

/// Saves a batch and the weights it met, in one file of a run's folder.
pub(super) fn save(path: &Path, model: &LanguageModel, broken: &BrokenBatch) -> Result<(), CheckpointError> {
    // Exact: a vocabulary is far smaller than 2^24.
    let numbers = |values: &[u32]| values.iter().map(|&value| value as f32).collect();
    let lengths: Vec<u32> = broken.batch.lengths().iter().map(|&length| length as u32).collect();
    let mut tensors = model.named_tensors();
    tensors.push(flat("step", vec![broken.step as f32]));
    tensors.push(flat("inputs", numbers(&broken.inputs)));
    tensors.push(flat("targets", numbers(&broken.targets)));
    tensors.push(flat("lengths", numbers(&lengths)));
    if let Some(state) = &broken.state {
        for (layer, entry) in state.layers.iter().enumerate() {
            tensors.push(flat(&format!("h{layer}"), with_slice(&entry.h, <[f32]>::to_vec)));
            if let Some(c) = &entry.c {
                tensors.push(flat(&format!("c{layer}"), with_slice(c, <[f32]>::to_vec)));
            }
        }
    }
    write_tensors(path, &tensors)
}

/// Reads a saved batch and its weights, and looks again for what broke the step. The run's folder is the one that
/// the file lies in.
///
/// # Errors
/// [`TrainError`] when the file or its run does not do.
pub fn replay(path: &Path) -> Result<(u64, Diagnosis), TrainError> {
    use burn::tensor::{Device, Tensor, TensorData};

    // The file first: where it is none, nothing is said of its folder.
    let read = read_tensors(path)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let run = crate::run::RunFolder::open(folder)?;
    let recipe = run.read_recipe()?;
    let (tensors, weights): (Vec<NamedTensor>, Vec<NamedTensor>) =
        read.into_iter().partition(|tensor| tensor.name.starts_with("batch."));
    let saved = Saved { path: path.to_owned(), tensors };
    let step = saved.numbers("step")?.first().copied().map_or(0, u64::from);
    let gradient_norm = last_norm(&run.read_metrics()?);
    let told = Circumstances { recipe: &recipe, gradient_norm, checkpoint: run.latest_path() };
    if saved.values(CALLS).is_ok() {
        return Ok((step, look_again(&saved, &weights, &recipe, told)?));
    }
    let damaged = |reason: String| saved.damaged(reason);
    let numbers = |name: &str| saved.numbers(name);
    let vocabulary = run.read_vocab()?.len();
    let mut model = crate::saved::config(&recipe, vocabulary).init(&Device::default())?;
    model.load(&weights)?;
    let lengths: Vec<usize> = numbers("lengths")?.into_iter().map(|length| length as usize).collect();
    let time = lengths.iter().copied().max().unwrap_or_default();
    let batch = Batch::ragged(&lengths, time).map_err(|error| damaged(error.to_string()))?;
    let (inputs, targets) = (numbers("inputs")?, numbers("targets")?);
    let fits = |ids: &[u32]| ids.len() == batch.frames() && ids.iter().all(|&id| (id as usize) < vocabulary);
    if !fits(&inputs) || !fits(&targets) {
        return Err(damaged("its tokens do not fit its lengths or the run's vocabulary".to_owned()).into());
    }
    let (layers, hidden) = (recipe.model.layers, recipe.model.hidden);
    let carried = saved.values("h0").is_ok();
    let state = |signal: &str| -> Result<Tensor<3>, TrainError> {
        let mut values: Vec<f32> = Vec::new();
        for layer in 0..layers {
            let shape = [lengths.len() * hidden];
            values.extend(&find_tensor(&saved.tensors, &format!("batch.{signal}{layer}"), &shape)?.values);
        }
        let shape = [layers, lengths.len(), hidden];
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::default()))
    };
    let state = match carried {
        true => {
            let c = if recipe.model.recurrence().has_cell_state() { Some(state("c")?) } else { None };
            Some(State::new(state("h")?, c))
        }
        false => None,
    };
    let broken = BrokenBatch { step, inputs, targets, batch, state };
    Ok((step, diagnose(&model, &broken, told)))
}

/// The gradient norm in the last line about training.
fn last_norm(metrics: &[serde_json::Value]) -> f64 {
    let lines = metrics.iter().rev().filter_map(|line| line["gradient_norm"].as_f64());
    lines.into_iter().next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::cell::Reset;
    use crate::models::language_model::LanguageModelConfig;
    use crate::recipe::Task;

    fn model(cell: Cell) -> LanguageModel {
        LanguageModelConfig {
            cell: cell.into(),
            vocabulary: 6,
            embedding: 3,
            hidden: 5,
            layers: 2,
            init: Default::default(),
            residual: false,
            tied: false,
            options: Default::default(),
            regularize: Default::default(),
            seed: 3,
        }
        .init(&Device::default())
        .unwrap()
    }

    /// Two sequences, of 4 and 6 steps; the longer one is the second.
    fn batch() -> BrokenBatch {
        let batch = Batch::ragged(&[4, 6], 6).unwrap();
        // Packed, longest first: sequence 1 reads 0 1 2 3 4 5, sequence 0 reads 1 1 1 2.
        let inputs = vec![0, 1, 1, 1, 2, 1, 3, 2, 4, 5];
        BrokenBatch { step: 7, targets: inputs.clone(), inputs, batch, state: None }
    }

    fn change(model: &mut LanguageModel, wanted: &str, f: impl FnOnce(&mut [f32])) {
        let mut parameters = model.parameters_mut().into_iter();
        let (_, mut parameter) = parameters.find(|(name, _)| name == wanted).unwrap();
        parameter.with_slice_mut(f);
    }

    fn look(model: &LanguageModel, broken: &BrokenBatch) -> Diagnosis {
        let recipe = Recipe::default_for(Task::Lm);
        diagnose(model, broken, Circumstances { recipe: &recipe, gradient_norm: 0.5, checkpoint: None })
    }

    #[test]
    fn a_nan_in_the_features_is_named_where_it_is_first_read() {
        for cell in [Cell::Lstm, Cell::Gru(Reset::After), Cell::Rnn(Activation::Relu)] {
            let mut model = model(cell);
            change(&mut model, "embedding.weight", |values| values[2 * 3 + 1] = f32::NAN);
            let origin = look(&model, &batch()).origin;
            assert_eq!(origin, Origin::Input { token: 2, step: 2, sequence: 1 }, "{cell:?}");
        }
    }

    #[test]
    fn a_state_that_is_no_number_is_named_with_layer_gate_and_step() {
        let mut broken = batch();
        // Only unit 4 of layer 1 of sequence 0, which all gates of that layer read.
        let mut h = vec![0.0; 2 * 2 * 5];
        h[10 + 4] = f32::INFINITY;
        let tensor = |values: Vec<f32>| {
            burn::tensor::Tensor::from_data(
                burn::tensor::TensorData::new(values, [2, 2, 5]),
                &Device::default(),
            )
        };
        broken.state = Some(State::new(tensor(h), Some(tensor(vec![0.0; 20]))));
        let mut model = model(Cell::Lstm);
        // Of the gates, f alone reads it.
        change(&mut model, "recurrent.weight_hh_l1", |values| {
            for (row, values) in values.chunks_exact_mut(5).enumerate() {
                values[4] = if row == 7 { f32::MIN_POSITIVE * 0.0 } else { 1.0 };
            }
        });
        let Origin::Layer { way, layer, signal, step, sequence, unit, .. } = look(&model, &broken).origin
        else {
            panic!("expected a layer")
        };
        // 0 · inf is no number: unit 2 of the forget gate.
        assert_eq!(
            (way, layer, signal.as_str(), step, sequence, unit),
            (Way::Forward, 1, "f", 0, Some(0), 2)
        );
    }

    #[test]
    fn a_relu_net_that_explodes_is_named_by_step() {
        let mut model = model(Cell::Rnn(Activation::Relu));
        change(&mut model, "recurrent.weight_hh_l0", |values| values.fill(1e13));
        change(&mut model, "recurrent.weight_ih_l0", |values| values.fill(1.0));
        change(&mut model, "embedding.weight", |values| values.fill(1.0));
        let found = look(&model, &batch());
        // 3, then times 5e13 a step: beyond 3e38 at the third product.
        let Origin::Layer { way: Way::Forward, layer: 0, signal, step: 3, .. } = &found.origin else {
            panic!("{:?}", found.origin)
        };
        assert_eq!(signal, "h");
        assert!(found.advice[0].contains("ReLU"), "{:?}", found.advice);
        assert!(found.hidden[1] > 1e20 && found.hidden[0] < 1e3, "{:?}", found.hidden);
    }

    #[test]
    fn an_output_layer_that_overflows_is_named() {
        let mut model = model(Cell::Lstm);
        change(&mut model, "output.weight", |values| values[..5].fill(f32::MAX));
        change(&mut model, "output.bias", |values| values[0] = f32::MAX);
        change(&mut model, "recurrent.bias_ih_l1", |values| values.fill(50.0));
        assert_eq!(look(&model, &batch()).origin, Origin::Output { step: 0, sequence: 1 });
    }

    #[test]
    fn a_gradient_that_overflows_is_found_on_the_way_back() {
        // Nothing goes in, so all is zero on the way forward, whatever it is multiplied with. Not so on the way back.
        let mut model = model(Cell::Rnn(Activation::Tanh));
        change(&mut model, "embedding.weight", |values| values.fill(0.0));
        for layer in [0, 1] {
            for name in ["bias_ih", "bias_hh"] {
                change(&mut model, &format!("recurrent.{name}_l{layer}"), |values| values.fill(0.0));
            }
        }
        change(&mut model, "recurrent.weight_hh_l1", |values| values.fill(1e25));
        change(&mut model, "output.weight", |values| {
            values.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
        });
        let found = look(&model, &batch());
        let Origin::Layer { way: Way::Backward, layer: 1, .. } = &found.origin else {
            panic!("{:?}", found.origin)
        };
    }

    #[test]
    fn a_broken_parameter_comes_first() {
        let mut model = model(Cell::Gru(Reset::After));
        change(&mut model, "recurrent.weight_hh_l1", |values| values[3] = f32::NAN);
        let expected = Origin::Parameter { name: "recurrent.weight_hh_l1".to_owned(), values: 1 };
        assert_eq!(look(&model, &batch()).origin, expected);
    }

    #[test]
    fn a_sound_batch_has_no_origin() {
        for cell in [Cell::Lstm, Cell::Gru(Reset::Before), Cell::Rnn(Activation::Tanh)] {
            assert_eq!(look(&model(cell), &batch()).origin, Origin::Sum, "{cell:?}");
        }
    }
}
