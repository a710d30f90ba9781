//! Proof by surgery: what does a unit do for the model's predictions? Its output is held at one value, and the
//! loss is measured again, where the property holds and where it does not.
//!
//! A unit speaks to others through its `h` alone: to its own layer by a column of the recurrent weights, to the
//! layer above by a column of that layer's input weights. To hold `h` at a value is to replace those columns by
//! that value times them, added to the bias. So a held model is a model like any other, and just as fast.

use carousel_kernels::Zoneout;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::activations::{Activations, Unit};
use super::properties::{Kind, Property};
use super::read::{Reading, read};
use super::text::Text;
use crate::cell::{Activation, Cell, Reset};
use crate::models::language_model::LanguageModel;
use crate::parameters::NamedParameters;
use crate::record::Keep;
use crate::slices::with_slice;

/// Units that are nearest in activity, from which the random ones are drawn.
const NEAREST: usize = 20;

/// What a unit's output is held at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hold {
    /// The mean of its values over the text.
    Mean,
    /// This value; 0 is the classical ablation.
    At(f32),
}

/// How units are held and what they are compared with.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What each unit's output is held at.
    pub hold: Hold,
    /// Random units of the same activity beside it.
    pub others: usize,
    /// Where the random units start.
    pub seed: u64,
    /// How the text is read; what it keeps is not looked at.
    pub reading: Reading,
}

impl Default for Operation {
    fn default() -> Operation {
        Operation { hold: Hold::Mean, others: 4, seed: 1, reading: Reading::default() }
    }
}

/// What holding a unit does to the loss.
#[derive(Clone, Debug, Serialize)]
pub struct Surgery {
    /// The layer of the unit.
    pub layer: usize,
    /// The unit.
    pub unit: usize,
    /// The value its `h` was held at.
    pub value: f32,
    /// Loss where the property holds. Of a number: where it is above its median.
    pub inside: Effect,
    /// Loss elsewhere.
    pub outside: Effect,
    /// The same for random units of the same layer whose `h` moves about as much, each at its own value of the
    /// same kind.
    pub others: Vec<Control>,
}

/// Mean loss in nats per token before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// Tokens it is the mean of.
    pub tokens: usize,
    /// Of the model as it is.
    pub before: f64,
    /// With the unit held.
    pub after: f64,
}

impl Effect {
    /// How much the loss rose.
    #[must_use]
    pub fn rise(&self) -> f64 {
        self.after - self.before
    }
}

/// What holding a random unit does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Control {
    /// The unit.
    pub unit: usize,
    /// Rise of the loss where the property holds.
    pub inside: f64,
    /// Rise elsewhere.
    pub outside: f64,
}

/// Whether weights can hold single units of a model. Past a residual layer they cannot (a unit is heard together with
/// the one below it), nor where units zone out (their last value stays in the next), are normalised (what one of them
/// adds to a sum is no constant) or projected together; nor where a GRU resets `h` ahead of a candidate of another
/// non-linearity than tanh, nor of a cell that the kernels do not know.
#[must_use]
pub fn can_hold(model: &LanguageModel) -> bool {
    let recurrent = model.recurrent();
    let options = recurrent.options();
    let bends = options.activation != Activation::Tanh && recurrent.cell() == Cell::Gru(Reset::Before);
    !recurrent.is_residual()
        && recurrent.zoneout() == Zoneout::NONE
        && !options.norm
        && recurrent.walks_by_units()
        && !bends
}

/// A copy of the model in which the output of one unit is held at a value.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::lens::{Reading, Text, hold, losses};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let model = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 2,
///     init: Default::default(), residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
/// }
/// .init(&Device::default())?;
/// let text = Text::of_characters("hello, hello");
/// let held = hold(&model, 0, 3, 0.5);
/// let how = Reading::default();
/// assert_ne!(losses(&model, &text, &how), losses(&held, &text, &how));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
///
/// # Panics
/// When there is no such unit, or the model's [cannot be held](can_hold).
#[must_use]
pub fn hold(model: &LanguageModel, layer: usize, unit: usize, value: f32) -> LanguageModel {
    let recurrent = model.recurrent();
    let cell = recurrent.cell();
    let hidden = recurrent.weights()[layer].weight_hh.dims()[1];
    assert!(unit < hidden, "unit {unit} of {hidden}");
    assert!(can_hold(model), "units of such a model cannot be held by weights alone; see `can_hold`");
    let mut held = model.untied();
    let mut change = |name: &str, f: &mut dyn FnMut(&mut [f32])| {
        let mut parameters = held.parameters_mut().into_iter();
        let (_, mut parameter) = parameters.find(|(own, _)| own == name).expect("a model has its parameters");
        parameter.with_slice_mut(|values| f(values));
    };
    // Takes a column out of a matrix and adds what it contributed to the bias.
    let mut move_column = |weight: &str, bias: &str| {
        let mut column = Vec::new();
        change(weight, &mut |values| {
            for row in values.chunks_exact_mut(hidden) {
                column.push(std::mem::take(&mut row[unit]));
            }
        });
        change(bias, &mut |values| {
            values.iter_mut().zip(&column).for_each(|(bias, weight)| *bias += weight * value);
        });
    };
    if cell == Cell::Gru(Reset::Before) {
        // Here the reset gate stands between h and its column, so the unit's own gates hold it: z = 0 and
        // n = tanh(atanh(value)).
        let [update, candidate] = [1, 2].map(|gate| gate * hidden + unit);
        for weight in ["weight_ih", "weight_hh"] {
            change(&format!("recurrent.{weight}_l{layer}"), &mut |values| {
                let width = values.len() / (3 * hidden);
                for row in [update, candidate] {
                    values[row * width..][..width].fill(0.0);
                }
            });
        }
        for (bias, [at_update, at_candidate]) in
            [("bias_ih", [-40.0, value.clamp(-0.999_999, 0.999_999).atanh()]), ("bias_hh", [0.0, 0.0])]
        {
            change(&format!("recurrent.{bias}_l{layer}"), &mut |values| {
                (values[update], values[candidate]) = (at_update, at_candidate);
            });
        }
        return held;
    }
    move_column(&format!("recurrent.weight_hh_l{layer}"), &format!("recurrent.bias_hh_l{layer}"));
    if layer + 1 < recurrent.weights().len() {
        let above = layer + 1;
        move_column(&format!("recurrent.weight_ih_l{above}"), &format!("recurrent.bias_ih_l{above}"));
    } else {
        move_column("output.weight", "output.bias");
    }
    held
}

/// The loss in nats of predicting what follows each token; not a number where nothing of its document follows.
/// `how` may keep anything: it is not looked at.
#[must_use]
pub fn losses(model: &LanguageModel, text: &Text, how: &Reading) -> Vec<f32> {
    let mut losses = vec![f32::NAN; text.len()];
    let how = Reading { keep: Keep::all().with_layers([]), ..how.clone() };
    read(model, text, &how, |glimpse| {
        let scores = model.output().logits(glimpse.output.clone());
        let vocabulary = scores.dims()[1];
        with_slice(&scores, |scores| {
            for run in &glimpse.runs {
                for (index, token) in run.tokens.clone().enumerate() {
                    let next = token + 1;
                    if next < text.len() && !text.starts_document(next) {
                        let row = &scores[glimpse.row(run, index) * vocabulary..][..vocabulary];
                        losses[token] = nats(row, text.tokens()[next] as usize);
                    }
                }
            }
        });
    });
    losses
}

/// `-ln softmax(scores)[target]`
fn nats(scores: &[f32], target: usize) -> f32 {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
    sum.ln() + highest - scores[target]
}

/// Holds a unit and random others of the same activity, and measures the loss inside and outside a property.
/// `before` are the [`losses`] of the model as it is, by the same reading.
///
/// # Panics
/// When the activations hold no `h` of this layer, or something is of another text.
#[must_use]
pub fn operate(
    model: &LanguageModel,
    text: &Text,
    activations: &Activations,
    property: &Property,
    (layer, unit): (usize, usize),
    how: &Operation,
    before: &[f32],
) -> Surgery {
    let index = |unit: usize| {
        let unit = Unit { layer, signal: "h".to_owned(), unit };
        activations.index_of(&unit).unwrap_or_else(|| panic!("{unit} was not recorded"))
    };
    let moments = |unit: usize| activations.moments(index(unit), 0..activations.tokens());
    let value = |unit: usize| match how.hold {
        Hold::Mean => moments(unit).0,
        Hold::At(value) => value,
    };
    let inside = inside(property);
    let measure = |unit: usize| {
        let after = losses(&hold(model, layer, unit, value(unit)), text, &how.reading);
        [true, false].map(|wanted| effect(before, &after, |token| inside[token] == wanted))
    };

    let hidden = model.recurrent().weights()[layer].weight_hh.dims()[1];
    let activity = moments(unit).1;
    let mut near: Vec<(f32, usize)> = (0..hidden)
        .filter(|&other| other != unit)
        .map(|other| ((moments(other).1 - activity).abs(), other))
        .collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0));
    near.truncate(NEAREST);
    let mut random = ChaCha8Rng::seed_from_u64(how.seed);
    let mut controls = Vec::new();
    while controls.len() < how.others && !near.is_empty() {
        let (_, other) = near.swap_remove((random.next_u64() % near.len() as u64) as usize);
        let [inside, outside] = measure(other);
        controls.push(Control { unit: other, inside: inside.rise(), outside: outside.rise() });
    }
    let [inside, outside] = measure(unit);
    Surgery { layer, unit, value: value(unit), inside, outside, others: controls }
}

/// Where a property holds; a number where it is above its median.
pub(crate) fn inside(property: &Property) -> Vec<bool> {
    let border = match property.kind {
        Kind::Binary => 0.0,
        Kind::Number => {
            let mut sorted = property.values.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or_default()
        }
    };
    property.values.iter().map(|&value| value > border).collect()
}

fn effect(before: &[f32], after: &[f32], counts: impl Fn(usize) -> bool) -> Effect {
    let mut effect = Effect { tokens: 0, before: 0.0, after: 0.0 };
    for (token, (&before, &after)) in before.iter().zip(after).enumerate() {
        if counts(token) && before.is_finite() {
            effect.tokens += 1;
            effect.before += f64::from(before);
            effect.after += f64::from(after);
        }
    }
    let tokens = effect.tokens.max(1) as f64;
    Effect { before: effect.before / tokens, after: effect.after / tokens, ..effect }
}
