//! How error flows back through time: the norm of the loss's gradient at every lag, and the step's Jacobian.

use burn::tensor::Device;
use carousel_kernels::loss::{Objective, Output as KernelOutput, OutputGradients, cross_entropy_backward};
use carousel_kernels::{Signal, Zoneout};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::jacobian::dot;
use super::text::Text;
use crate::cell::{GateActivation, slope};
use crate::config_error::ConfigError;
use crate::init::Initializer;
use crate::layer::PlainWeights;
use crate::models::language_model::{LanguageModel, LanguageModelConfig};
use crate::one_step::{Net, Pair, Pulled, Step};
use crate::parameters::NamedParameters;

/// Places whose step's Jacobian is looked at.
const PLACES: usize = 4;
/// Products before and while the growth of `J^k v` is measured.
const SETTLING: usize = 100;
const GROWING: usize = 200;
/// Leading singular values, and the rounds of subspace iteration that find them.
const SINGULAR: usize = 4;
const ROUNDS: usize = 40;

/// How a gradient flow is measured.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Steps back.
    pub lags: usize,
    /// Places in the text whose loss is followed back.
    pub places: usize,
    /// Tokens read before, so that the state is not zero.
    pub warm_up: usize,
    /// Where the random places start.
    pub seed: u64,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { lags: 64, places: 32, warm_up: 64, seed: 1 }
    }
}

/// How the loss at one step reaches the states before it.
#[derive(Clone, Debug, Serialize)]
pub struct GradientFlow {
    /// Places in the text that were followed.
    pub places: usize,
    /// Layer after layer.
    pub layers: Vec<LayerFlow>,
}

/// The gradients of one layer. `dL/dh` is the whole derivative by the hidden value, on all ways from there to
/// the loss, as PyTorch's `h.retain_grad()` gives it.
#[derive(Clone, Debug, Serialize)]
pub struct LayerFlow {
    /// Mean over the places of `‖dL[t] / dh[t - k]‖`, for `k` from 0.
    pub h: Vec<f64>,
    /// The same of `c`; empty for cells without one, and for an LSTM with peepholes, zoneout or hard gates
    /// that are normalised, where more reads `c` than is followed here.
    pub c: Vec<f64>,
    /// Factor by which the gradient of `h` changes a step, over the last three quarters of the lags.
    pub rate: f64,
    /// The step's Jacobian `d(h, c)[t] / d(h, c)[t - 1]`.
    pub jacobian: Jacobian,
}

/// The step's Jacobian, the mean over some places.
#[derive(Clone, Debug, Serialize)]
pub struct Jacobian {
    /// Spectral radius: by how much `J^k v` grows a step, in the long run.
    pub radius: f64,
    /// The leading singular values, the largest first.
    pub singular: Vec<f64>,
}

/// The recurrent weights of an untrained net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Uniform in `±√(6 / (H + H))` (Glorot and Bengio 2010).
    Xavier,
    /// A random rotation (Saxe, McClelland and Ganguli 2014).
    Orthogonal,
    /// The identity (Le, Jaitly and Hinton 2015).
    Identity,
}

impl Start {
    /// Its name: `xavier`, `orthogonal` or `identity`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Start::Xavier => "xavier",
            Start::Orthogonal => "orthogonal",
            Start::Identity => "identity",
        }
    }

    /// An untrained model on the CPU whose recurrent weights start like this; all others as always.
    ///
    /// # Errors
    /// [`ConfigError`] when a size is zero or the forget bias is not finite.
    pub fn untrained(self, config: &LanguageModelConfig) -> Result<LanguageModel, ConfigError> {
        let mut model = config.init(&Device::default())?;
        self.apply(&mut model, config);
        Ok(model)
    }

    /// Gives every gate of every layer such recurrent weights; all others stay.
    fn apply(self, model: &mut LanguageModel, config: &LanguageModelConfig) {
        let (hidden, mut random) = (config.hidden, Initializer::new(config.seed));
        for (name, mut parameter) in model.parameters_mut() {
            if !name.starts_with("recurrent.weight_hh") {
                continue;
            }
            parameter.with_slice_mut(|values| {
                for gate in values.chunks_exact_mut(hidden * hidden) {
                    let drawn = match self {
                        Start::Xavier => random.uniform(gate.len(), (3.0 / hidden as f64).sqrt()),
                        Start::Orthogonal => random.orthogonal(hidden, hidden),
                        Start::Identity => {
                            (0..gate.len()).map(|at| f32::from(at / hidden == at % hidden)).collect()
                        }
                    };
                    gate.copy_from_slice(&drawn);
                }
            });
        }
    }
}

/// Follows the loss at random places of a text back through time. `progress` is told the share that is done.
///
/// ```
/// use carousel::cell::{Activation, Cell};
/// use carousel::lens::{Flow, Start, Text, follow_gradients};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let text = Text::of_characters(&"the cat sat on the mat. ".repeat(20));
/// let flow = |cell: Cell| {
///     let config = LanguageModelConfig {
///         cell: cell.into(), vocabulary: 128, embedding: 4, hidden: 16, layers: 1,
///         init: carousel::init::Init { gates: carousel::init::GateBias::Forget(3.0), ..Default::default() }, residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
///     };
///     let model = Start::Orthogonal.untrained(&config).expect("the sizes are not zero");
///     follow_gradients(&model, &text, &Flow { lags: 24, ..Flow::default() }, |_| {})
/// };
/// let (rnn, lstm) = (flow(Cell::Rnn(Activation::Tanh)), flow(Cell::Lstm));
/// // The carousel: an LSTM's c carries error on where a vanilla net has lost it.
/// let left = |norms: &[f64]| norms[24] / norms[0];
/// assert!(left(&lstm.layers[0].c) > 10.0 * left(&rnn.layers[0].h));
/// ```
///
/// # Panics
/// When the text is shorter than `lags + 2` tokens.
#[must_use]
pub fn follow_gradients(
    model: &LanguageModel,
    text: &Text,
    how: &Flow,
    mut progress: impl FnMut(f64),
) -> GradientFlow {
    let net = Net::new(model);
    let ends = ends(text, how);
    let start = net.warm_up(text, &ends, how);
    let norms = net.gradients(text, &ends, how.lags, start.clone(), |share| progress(share * 0.7));
    let layers = norms.into_iter().enumerate().map(|(layer, norms)| {
        let mean = |each: &[Vec<f64>]| -> Vec<f64> {
            each.iter().map(|places| places.iter().sum::<f64>() / places.len() as f64).collect()
        };
        let h = mean(&norms.h);
        let jacobian = net.jacobian(layer, text, &ends, how.lags, &start);
        progress(0.7 + 0.3 * (layer + 1) as f64 / net.layers.len() as f64);
        LayerFlow { rate: rate(&h), c: mean(&norms.c), h, jacobian }
    });
    let layers = layers.collect();
    GradientFlow { places: ends.len(), layers }
}

/// The norms at each place, not their mean: `[lag][place]` of `h` and of `c`, a layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Norms {
    pub(crate) h: Vec<Vec<f64>>,
    pub(crate) c: Vec<Vec<f64>>,
}

/// The factor a step of a curve, by a straight line through its logarithms.
fn rate(norms: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> = norms
        .iter()
        .enumerate()
        .skip(norms.len() / 4)
        .filter(|(_, norm)| **norm > 0.0 && norm.is_finite())
        .map(|(lag, norm)| (lag as f64, norm.ln()))
        .collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>()
        / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>();
    if points.len() < 2 { 0.0 } else { slope.exp() }
}

/// Tokens whose loss is followed: each with `lags` tokens of its document before it and one behind.
fn ends(text: &Text, how: &Flow) -> Vec<usize> {
    assert!(text.len() >= how.lags + 2, "the text has {} tokens, expected {}", text.len(), how.lags + 2);
    let starts = text.document_starts();
    let first = |token: usize| starts[starts.partition_point(|&start| start <= token) - 1];
    let fits = |&token: &usize| first(token) + how.lags <= token && !text.starts_document(token + 1);
    let fit: Vec<usize> = (how.lags..text.len() - 1).filter(fits).collect();
    // Documents that are all shorter are read as one.
    let fit = if fit.is_empty() { (how.lags..text.len() - 1).collect() } else { fit };
    let mut random = ChaCha8Rng::seed_from_u64(how.seed);
    (0..how.places.max(1)).map(|_| fit[(random.next_u64() % fit.len() as u64) as usize]).collect()
}

impl Net {
    /// The states before the first of the tokens that are followed.
    fn warm_up(&self, text: &Text, ends: &[usize], how: &Flow) -> Vec<Pair> {
        let mut states = self.first(ends.len());
        for ahead in (1..=how.warm_up).rev() {
            // Near the start of the text the first token is read again and again.
            let tokens = ends.iter().map(|&end| text.tokens()[(end - how.lags).saturating_sub(ahead)]);
            let steps = self.step(self.embed(tokens), &states);
            states = steps.into_iter().map(|step| step.after).collect();
        }
        states
    }

    /// Norms of the gradients of every layer's state at every lag and place.
    fn gradients(
        &self,
        text: &Text,
        ends: &[usize],
        lags: usize,
        mut states: Vec<Pair>,
        mut progress: impl FnMut(f64),
    ) -> Vec<Norms> {
        let mut walked: Vec<Vec<Step>> = Vec::with_capacity(lags + 1);
        for back in (0..=lags).rev() {
            let x = self.embed(ends.iter().map(|&end| text.tokens()[end - back]));
            let steps = self.step(x, &states);
            states = steps.iter().map(|step| step.after.clone()).collect();
            walked.push(steps);
        }
        let hidden = self.layers.last().map_or(1, |(layer, _)| layer.hidden);
        let top = walked.last().map(|steps| self.top(steps)).unwrap_or_default();
        let targets: Vec<u32> = ends.iter().map(|&end| text.tokens()[end + 1]).collect();
        let mut above = vec![0.0; top.len()];
        let (mut dweight, mut dbias) = (vec![0.0; self.output.0.len()], vec![0.0; self.output.1.len()]);
        cross_entropy_backward(
            KernelOutput { weight: &self.output.0, bias: Some(&self.output.1) },
            hidden,
            &top,
            &targets,
            Objective::scaled(1.0),
            OutputGradients { x: &mut above, weight: &mut dweight, bias: Some(&mut dbias) },
        )
        .expect("the model's sizes fit each other");

        let mut norms = vec![Norms::default(); self.layers.len()];
        let mut carried: Vec<Pair> =
            self.layers.iter().map(|(layer, _)| Pair::zeros(layer, ends.len())).collect();
        let mut dy = Some(above);
        let total = walked.len();
        for (lag, mut steps) in walked.into_iter().rev().enumerate() {
            for (layer, (sizes, weights)) in self.layers.iter().enumerate().rev() {
                let (step, carried) = (&mut steps[layer], &mut carried[layer]);
                let mut whole = carried.h.clone();
                if let Some(dy) = &dy {
                    whole.iter_mut().zip(dy).for_each(|(whole, dy)| *whole += dy);
                }
                norms[layer].h.push(lengths(&whole, sizes.hidden));
                let pulled = step.pull(weights, dy.as_deref(), carried);
                if let Some(c) = of_cells(step, weights, &whole, &carried.c, &pulled) {
                    norms[layer].c.push(lengths(&c, sizes.hidden));
                }
                *carried = pulled.before;
                dy = Some(self.passed_down(layer, dy.as_deref(), pulled.x));
            }
            // The layer at the top hears of the loss at the last step only.
            dy = None;
            progress((lag + 1) as f64 / total as f64);
        }
        norms
    }

    /// The Jacobian of a layer's step at some of the places.
    fn jacobian(&self, layer: usize, text: &Text, ends: &[usize], lags: usize, start: &[Pair]) -> Jacobian {
        let (sizes, weights) = &self.layers[layer];
        let n = sizes.hidden;
        let places = ends.len().min(PLACES);
        let few: Vec<Pair> = start
            .iter()
            .zip(&self.layers)
            .map(|(pair, (sizes, _))| pair.first(places, sizes.hidden))
            .collect();
        let x = self.embed(ends[..places].iter().map(|&end| text.tokens()[end - lags]));
        let mut steps = self.step(x, &few);
        let linear = steps[layer].linearized(weights);
        let mut random = Initializer::new(11);
        let dimension = n * if sizes.cell.has_cell_state() { 2 } else { 1 };
        let unit = |random: &mut Initializer| Vectors::normal(random, places, n, dimension);

        // Spectral radius: growth in the long run, taken over many steps because a pair of complex eigenvalues
        // makes single steps swing.
        let mut v = unit(&mut random);
        let mut growth = vec![0.0; places];
        for round in 0..SETTLING + GROWING {
            v.normalize();
            let pushed = Vectors { pair: linear.push(weights, &v.pair), ..v };
            v = pushed;
            if round >= SETTLING {
                for (growth, length) in growth.iter_mut().zip(v.lengths()) {
                    *growth += length.ln() / GROWING as f64;
                }
            }
        }
        let radius = growth.iter().map(|growth| growth.exp()).sum::<f64>() / places as f64;

        // Singular values: subspace iteration on JᵀJ.
        let count = SINGULAR.min(dimension);
        let mut basis: Vec<Vectors> = (0..count).map(|_| unit(&mut random)).collect();
        let mut singular = vec![0.0; count];
        for round in 0..ROUNDS {
            orthonormalize(&mut basis);
            for (place, vector) in basis.iter_mut().enumerate() {
                let pushed = linear.push(weights, &vector.pair);
                if round + 1 == ROUNDS {
                    let lengths = Vectors { pair: pushed.clone(), ..*vector }.lengths();
                    singular[place] = lengths.iter().sum::<f64>() / places as f64;
                }
                vector.pair = steps[layer].pull(weights, None, &pushed).before;
            }
        }
        singular.sort_by(|a, b| b.total_cmp(a));
        Jacobian { radius, singular }
    }
}

/// The gradient of a step's `c`: what comes from the next step and, of what reaches `h` as a whole, the part that went
/// through `c`. `None` without a `c`, and where more than that reads it.
fn of_cells(
    step: &mut Step,
    weights: &PlainWeights,
    whole: &[f32],
    later: &[f32],
    pulled: &Pulled,
) -> Option<Vec<f32>> {
    let (options, zones) = (step.layer.options, step.layer.zoneout != Zoneout::NONE);
    if later.is_empty() || options.peephole || zones {
        return None;
    }
    if !options.norm {
        let o = step.signal(weights, Signal::Gate(3));
        let bend = |at: usize| slope(options.activation, step.after.c[at]);
        return Some((0..whole.len()).map(|at| later[at] + whole[at] * o[at] * bend(at)).collect());
    }
    // `h` reads what all of `c` is normalised to. The pass back has been through it: the `c` before hears `f` times
    // what this one does, and a sigmoid is never zero.
    let f = step.signal(weights, Signal::Gate(1));
    let heard = pulled.before.c.iter().zip(&f).map(|(before, f)| before / f);
    (options.gate == GateActivation::Sigmoid).then(|| heard.collect())
}

fn lengths(rows: &[f32], width: usize) -> Vec<f64> {
    rows.chunks_exact(width)
        .map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt())
        .collect()
}

/// One vector a place, over `h` and `c` together.
#[derive(Clone)]
struct Vectors {
    pair: Pair,
    width: usize,
}

impl Vectors {
    fn normal(random: &mut Initializer, places: usize, width: usize, dimension: usize) -> Vectors {
        let mut draw = |wanted: bool| if wanted { random.normal(places * width) } else { Vec::new() };
        Vectors { pair: Pair { h: draw(true), c: draw(dimension > width) }, width }
    }

    fn lengths(&self) -> Vec<f64> {
        let h = lengths(&self.pair.h, self.width);
        let mut c = lengths(&self.pair.c, self.width);
        c.resize(h.len(), 0.0);
        h.iter().zip(c).map(|(h, c)| h.hypot(c)).collect()
    }

    fn scale(&mut self, factors: &[f64]) {
        for half in [&mut self.pair.h, &mut self.pair.c] {
            for (row, &factor) in half.chunks_exact_mut(self.width).zip(factors) {
                row.iter_mut().for_each(|value| *value *= factor as f32);
            }
        }
    }

    fn normalize(&mut self) {
        let factors: Vec<f64> = self.lengths().iter().map(|length| 1.0 / length.max(1e-30)).collect();
        self.scale(&factors);
    }

    /// Takes off what lies along another.
    fn remove(&mut self, other: &Vectors) {
        let width = self.width;
        let along: Vec<f32> = (0..self.pair.h.len() / width)
            .map(|place| {
                let row = place * width..(place + 1) * width;
                let c = if self.pair.c.is_empty() {
                    0.0
                } else {
                    dot(&self.pair.c[row.clone()], &other.pair.c[row.clone()])
                };
                dot(&self.pair.h[row.clone()], &other.pair.h[row]) + c
            })
            .collect();
        for (own, other) in [(&mut self.pair.h, &other.pair.h), (&mut self.pair.c, &other.pair.c)] {
            for (at, (own, other)) in own.iter_mut().zip(other).enumerate() {
                *own -= along[at / width] * other;
            }
        }
    }
}

fn orthonormalize(basis: &mut [Vectors]) {
    for index in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(index);
        let vector = &mut rest[0];
        vector.normalize();
        for other in done.iter() {
            vector.remove(other);
        }
        vector.normalize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::lens::jacobian::tests::{problem, vector};

    /// The way that the gradient of a normalised `c` is found, on a cell whose formula is known: the `c` before hears
    /// `f` times what this one does.
    #[test]
    fn the_cell_before_hears_through_the_forget_gate() {
        let (layer, weights, x, before, mut random) = problem(Cell::Lstm);
        let later = vector(&layer, &mut random);
        let mut step = Step::take(layer, &weights, x, before);
        let pulled = step.pull(&weights, None, &later);
        let found = of_cells(&mut step, &weights, &later.h, &later.c, &pulled).expect("an LSTM has c");
        let f = step.signal(&weights, Signal::Gate(1));
        for (at, found) in found.iter().enumerate() {
            assert!((pulled.before.c[at] / f[at] - found).abs() < 1e-5, "{at}: {found}");
        }
    }
}
