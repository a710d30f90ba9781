//! What went wrong in a training step: where the first number arose that is none, what was measured on the way, and what
//! to change.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cell::{Activation, Cell};
use crate::own_cell::AnyCell;
use crate::parameters::NamedParameters;
use crate::recipe::{Named, Recipe};

/// A gate outside 0.1 to 0.9, an `h` beyond ±0.9.
const SATURATED: [f32; 2] = [0.1, 0.9];
/// More saturation than this leaves little to learn with.
const MUCH: f64 = 0.8;
/// Hidden values that no trained net needs.
const HUGE: f64 = 1e3;

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
pub(in crate::train) struct Circumstances<'a> {
    pub(in crate::train) recipe: &'a Recipe,
    pub(in crate::train) gradient_norm: f64,
    pub(in crate::train) checkpoint: Option<PathBuf>,
}

/// The state of the weights.
#[derive(Default)]
pub(in crate::train) struct Damage {
    /// The largest weight that is finite: its tensor and value.
    pub(in crate::train) largest: (String, f32),
    /// The first parameter with values that are not.
    pub(in crate::train) origin: Option<Origin>,
}

impl Damage {
    /// Of all parameters of a model.
    pub(in crate::train) fn of(model: &impl NamedParameters) -> Damage {
        let mut damage = Damage::default();
        for (name, parameter) in model.parameters() {
            parameter.with_slice(|values| damage.see(&name, values));
        }
        damage
    }

    /// Takes one more parameter in.
    pub(in crate::train) fn see(&mut self, name: &str, values: &[f32]) {
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
pub(in crate::train) fn conclude(
    origin: Origin,
    largest_weight: (String, f32),
    seen: &Seen,
    cell: Option<AnyCell>,
    told: &Circumstances<'_>,
) -> Diagnosis {
    let mut diagnosis = Diagnosis {
        origin,
        largest_weight,
        hidden: seen.hidden,
        saturated: seen.saturated as f64 / seen.gates.max(1) as f64,
        gradient_norm: told.gradient_norm,
        advice: Vec::new(),
        checkpoint: told.checkpoint.clone(),
        replay: None,
    };
    diagnosis.advice = advice(&diagnosis, cell, told.recipe);
    diagnosis
}

/// What was seen on the way.
#[derive(Default)]
pub(in crate::train) struct Seen {
    /// The largest `|h|` of the first step, and of the last.
    pub(in crate::train) hidden: [f64; 2],
    saturated: usize,
    gates: usize,
}

impl Seen {
    /// Looks at finite values of a signal, and returns the largest `|h|` among them.
    pub(in crate::train) fn see(&mut self, cell: AnyCell, signal: &str, values: &[f32]) -> f64 {
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
pub(in crate::train) fn in_order(cell: AnyCell) -> impl Iterator<Item = &'static str> {
    let names = cell.signals().into_iter().map(|signal| signal.name);
    let (states, gates): (Vec<_>, Vec<_>) = names.partition(|name| ["h", "c"].contains(name));
    gates.into_iter().chain(states.into_iter().rev())
}

/// The first value that is not finite.
pub(in crate::train) fn bad(values: &[f32]) -> Option<usize> {
    values.iter().position(|value| !value.is_finite())
}

/// What to change, most likely first.
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
