//! Writes translations and captions token by token, many hypotheses side by side: the decoder on plain slices.
//!
//! What no step changes is made once for each source: the encoder's states are taken through the products that a step
//! would make with them, so that a step compares and adds up vectors of `H` values.
//!
//! Every row is computed by itself and in one order: its bits do not depend on the rows beside it.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use carousel_kernels::loss::{Output as Product, logits};
use carousel_kernels::{State as Rows, threads};

use crate::fused::{dense, flex, primitive, slice, supports, with_slice};
use crate::models::attention::{Attention, Score};
use crate::models::decoder::Decoder;
use crate::models::dense::Dense;
use crate::models::translator::Encoded;
use crate::ragged::Ragged;
use crate::stepper::Stepper;

/// Values that are worth a thread of their own.
const WORK_PER_THREAD: usize = 1 << 17;

/// Writes for rows that each belong to a source, or subject. Made by
/// [`Translator::writer`](crate::models::translator::Translator::writer) and
/// [`Captioner::writer`](crate::models::captioner::Captioner::writer).
pub struct Writer<'a> {
    model: Decoder<'a>,
    /// Of as many rows as there are, or some more.
    stepper: Stepper,
    capacity: usize,
    /// The source of each row.
    sources: Vec<usize>,
    looks: Option<Looks>,
    table: Matrix,
    output: (Matrix, FlexTensor),
    /// What the output layer read last, `[N, H]`; with input feeding the next step reads it as well.
    read: Vec<f32>,
    x: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
    looked: Vec<Vec<f32>>,
}

/// A matrix `[rows, columns]` in memory.
struct Matrix {
    values: FlexTensor,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn new(tensor: Tensor<2>) -> Matrix {
        let [rows, columns] = tensor.dims();
        Matrix { values: plain(tensor), rows, columns }
    }

    /// Some columns of a matrix.
    fn columns(tensor: Tensor<2>, columns: std::ops::Range<usize>) -> Matrix {
        let rows = tensor.dims()[0];
        Matrix::new(tensor.slice([0..rows, columns]))
    }

    /// `x Wᵀ + bias` of rows `x`.
    fn of(&self, bias: Option<&[f32]>, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len() / self.columns * self.rows, 0.0);
        logits(Product { weight: slice(&self.values), bias }, self.columns, x, out)
            .expect("rows are as wide as the matrix");
    }
}

/// A tensor's values, wherever it lies.
fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    if supports(&tensor) {
        return dense(primitive(tensor));
    }
    let shape = tensor.shape();
    flex(with_slice(&tensor, <[f32]>::to_vec), shape)
}

/// What decoder steps look at.
struct Looks {
    score: Score,
    /// First place of each source, and the end.
    starts: Vec<usize>,
    /// What a step is compared with, `[places, H]`.
    keys: Vec<f32>,
    /// The states' part of what the output layer reads, `[places, H]`.
    values: Vec<f32>,
    /// The step's own part of that.
    own: (Matrix, FlexTensor),
    /// Of additive attention the step's matrix and bias, and the vector.
    additive: Option<(Matrix, FlexTensor, FlexTensor)>,
}

impl Looks {
    fn new(attention: &Attention, combine: &Dense, states: &Ragged) -> Looks {
        let batch = states.batch();
        let frames = plain(states.frames());
        let width = states.frames().dims()[1];
        let mut starts = vec![0];
        starts.extend(batch.lengths().iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        // From packed order to source after source.
        let sorted = |rows: &[f32]| {
            let width = rows.len() / batch.frames().max(1);
            let mut sorted = vec![0.0; rows.len()];
            for ((source, place), row) in batch.places().zip(rows.chunks_exact(width)) {
                sorted[(starts[source] + place) * width..][..width].copy_from_slice(row);
            }
            sorted
        };
        let through = |matrix: &Matrix| {
            let mut rows = Vec::new();
            matrix.of(None, slice(&frames), &mut rows);
            sorted(&rows)
        };
        let query = || attention.query.as_ref().expect("the score has a query").val();
        let keys = match attention.score {
            Score::Dot | Score::ScaledDot => sorted(slice(&frames)),
            // `(W q) · k` is `q · (Wᵀ k)`.
            Score::General => through(&Matrix::new(query().transpose())),
            Score::Additive => through(&Matrix::new(attention.key.as_ref().expect("a key").val())),
        };
        let additive = (attention.score == Score::Additive).then(|| {
            let bias = plain(attention.bias.as_ref().expect("a bias").val());
            (Matrix::new(query()), bias, plain(attention.vector.as_ref().expect("a vector").val()))
        });
        let (weight, bias) = combine.first();
        let all = weight.dims()[1];
        let values = through(&Matrix::columns(weight.val(), 0..width));
        let own = (Matrix::columns(weight.val(), width..all), plain(bias.val()));
        Looks { score: attention.score, starts, keys, values, own, additive }
    }

    /// One row: adds what it reads of its source to `read`, and gives how much of each place.
    fn look(&self, source: usize, query: &[f32], read: &mut [f32]) -> Vec<f32> {
        let hidden = query.len();
        let places = self.starts[source]..self.starts[source + 1];
        let rows = |all: &'_ [f32]| places.start * all.len() / self.starts[self.starts.len() - 1];
        let key = &self.keys[rows(&self.keys)..];
        let mut weights: Vec<f32> = match &self.additive {
            Some((_, _, vector)) => {
                let vector = slice(vector);
                let mut sums = vec![0.0; hidden];
                let fit = |key: &[f32]| {
                    sums.iter_mut().zip(key.iter().zip(query)).for_each(|(sum, (k, q))| *sum = tanh(k + q));
                    dot(&sums, vector)
                };
                key.chunks_exact(hidden).take(places.len()).map(fit).collect()
            }
            None => key.chunks_exact(hidden).take(places.len()).map(|key| dot(key, query)).collect(),
        };
        if self.score == Score::ScaledDot {
            let root = (hidden as f32).sqrt();
            weights.iter_mut().for_each(|weight| *weight /= root);
        }
        let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        weights.iter_mut().for_each(|weight| *weight = exp(*weight - highest));
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        let values = self.values[rows(&self.values)..].chunks_exact(read.len());
        for (&weight, value) in weights.iter().zip(values) {
            read.iter_mut().zip(value).for_each(|(read, value)| *read += weight * value);
        }
        weights
    }
}

impl<'a> Writer<'a> {
    /// A row for every source.
    pub(super) fn new(model: Decoder<'a>, encoded: &Encoded) -> Writer<'a> {
        let count = encoded.state.sequences();
        let looks = match (model.attention, model.combine) {
            (Some(attention), Some(combine)) => Some(Looks::new(attention, combine, &encoded.states)),
            _ => None,
        };
        let mut stepper = model.stepper(count);
        stepper.set_state(&encoded.state).expect("the decoder's own state");
        Writer {
            stepper,
            capacity: count,
            sources: (0..count).collect(),
            looks,
            table: Matrix::new(model.target.weight.val()),
            output: (Matrix::new(model.output.weight.val()), plain(model.output.bias.val())),
            read: vec![0.0; count * model.hidden],
            x: Vec::new(),
            queries: Vec::new(),
            scores: Vec::new(),
            looked: Vec::new(),
            model,
        }
    }

    /// Rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.sources.len()
    }

    /// `V`, scores of a row.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.output.0.rows
    }

    /// Every row reads a token.
    ///
    /// # Panics
    /// When there is not one token a row, or one is not known.
    pub fn step(&mut self, tokens: &[u32]) {
        let (rows, hidden) = (self.rows(), self.model.hidden);
        assert_eq!(tokens.len(), rows, "a token for every row");
        if rows == 0 {
            return;
        }
        let (embedding, feeds) = (self.table.columns, self.model.feeds);
        let width = if feeds { embedding + hidden } else { embedding };
        self.x.resize(self.capacity * width, 0.0);
        let table = slice(&self.table.values);
        for (row, (&token, x)) in tokens.iter().zip(self.x.chunks_exact_mut(width)).enumerate() {
            x[..embedding].copy_from_slice(&table[token as usize * embedding..][..embedding]);
            if feeds {
                x[embedding..].copy_from_slice(&self.read[row * hidden..][..hidden]);
            }
        }
        let y = &self.stepper.step(&self.x).expect("a vector for every row")[..rows * hidden];
        match &self.looks {
            None => {
                self.read.clear();
                self.read.extend_from_slice(y);
            }
            Some(looks) => {
                let (own, bias) = &looks.own;
                own.of(Some(slice(bias)), y, &mut self.read);
                let queries = match &looks.additive {
                    Some((matrix, bias, _)) => {
                        matrix.of(Some(slice(bias)), y, &mut self.queries);
                        &self.queries
                    }
                    None => y,
                };
                self.looked.resize(rows, Vec::new());
                let work = (looks.starts[looks.starts.len() - 1] / (looks.starts.len() - 1) + 1) * hidden;
                let mut items: Vec<(&mut [f32], &mut Vec<f32>)> =
                    self.read.chunks_exact_mut(hidden).zip(&mut self.looked).collect();
                let sources = &self.sources;
                spread(&mut items, work, |row, (read, looked)| {
                    **looked = looks.look(sources[row], &queries[row * hidden..][..hidden], read);
                    read.iter_mut().for_each(|value| *value = tanh(*value));
                });
            }
        }
        let (matrix, bias) = &self.output;
        matrix.of(Some(slice(bias)), &self.read, &mut self.scores);
    }

    /// The scores of a row's next token, `[V]`.
    #[must_use]
    pub fn scores(&self, row: usize) -> &[f32] {
        let vocabulary = self.vocabulary();
        &self.scores[row * vocabulary..][..vocabulary]
    }

    /// How much a row looked at each place of its source in the last step; `None` without attention.
    #[must_use]
    pub fn looked(&self, row: usize) -> Option<&[f32]> {
        self.looks.as_ref().map(|_| self.looked[row].as_slice())
    }

    /// Goes on with these rows, in this order; one may be named more than once.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn select(&mut self, rows: &[usize]) {
        if rows.len() == self.rows() && rows.iter().enumerate().all(|(place, &row)| place == row) {
            return;
        }
        let hidden = self.model.hidden;
        let count = rows.len();
        // Rows beyond those that are there cost as much as they do.
        let fits = count <= self.capacity && count * 4 > self.capacity * 3;
        let capacity = if fits { self.capacity } else { count };
        let gather = |all: &[f32], room: usize| {
            let mut chosen = vec![0.0; room * hidden];
            for (chosen, &row) in chosen.chunks_exact_mut(hidden).zip(rows) {
                chosen.copy_from_slice(&all[row * hidden..][..hidden]);
            }
            chosen
        };
        self.sources = rows.iter().map(|&row| self.sources[row]).collect();
        self.read = gather(&self.read, count);
        if count == 0 {
            return;
        }
        let layers: Vec<[Option<Vec<f32>>; 2]> = (0..self.model.layers)
            .map(|layer| {
                let Rows { h, c } = self.stepper.state(layer);
                [h, c].map(|all| all.map(|all| gather(all, capacity)))
            })
            .collect();
        if !fits {
            (self.stepper, self.capacity) = (self.model.stepper(count), count);
        }
        for (layer, [h, c]) in layers.iter().enumerate() {
            let state = Rows { h: h.as_deref(), c: c.as_deref() };
            self.stepper.set_layer(layer, state).expect("rows of the stepper's own state");
        }
    }
}

/// Calls `f` with every item and its place, on several threads where each item's `work`, in values, makes it worth
/// their start.
pub(crate) fn spread<T: Send>(items: &mut [T], work: usize, f: impl Fn(usize, &mut T) + Sync) {
    let parts = threads().min(items.len() * work / WORK_PER_THREAD).max(1);
    let share = items.len().div_ceil(parts).max(1);
    let one = |part: usize, items: &mut [T]| {
        items.iter_mut().enumerate().for_each(|(place, item)| f(part * share + place, item));
    };
    if parts == 1 {
        return one(0, items);
    }
    std::thread::scope(|scope| {
        let mut chunks = items.chunks_mut(share).enumerate();
        let own = chunks.next();
        for (part, items) in chunks {
            scope.spawn(move || one(part, items));
        }
        if let Some((part, items)) = own {
            one(part, items);
        }
    });
}

const LANES: usize = 16;

/// `a · b`, in lanes that are added up in the end.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// `ln Σ exp(scores)`.
pub(crate) fn log_sum_exp(scores: &[f32]) -> f64 {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut sums = [0.0; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for scores in chunks.clone() {
        for lane in 0..LANES {
            highest[lane] = highest[lane].max(scores[lane]);
        }
    }
    let highest = highest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    for scores in chunks {
        for lane in 0..LANES {
            sums[lane] += exp(scores[lane] - highest);
        }
    }
    let sum: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
    let rest: f64 = rest.iter().map(|&score| f64::from(exp(score - highest))).sum();
    f64::from(highest) + (sum + rest).ln()
}

/// `eˣ` to a few units in the last place, in operations that compilers turn into vectors: `2ⁿ` times the series of
/// what is left, up to half a doubling.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, so that nothing is lost in the subtraction.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    series * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_close_to_the_exact_ones() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 5e-7, "exp({x})");
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn sums_have_every_value() {
        for count in [1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..count).map(|value| (value as f32 * 0.7).cos() * 5.0).collect();
            let exact: f64 = values.iter().map(|&value| f64::from(value).exp()).sum::<f64>().ln();
            assert!((log_sum_exp(&values) - exact).abs() < 1e-6, "{count}");
            let exact: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
            assert!((f64::from(dot(&values, &values)) / exact - 1.0).abs() < 1e-6, "{count}");
        }
    }

    #[test]
    fn every_item_is_met_once() {
        for (count, work) in [(0, 1), (1, 1 << 20), (5, 1), (7, 1 << 20), (100, 1 << 20)] {
            let mut items: Vec<usize> = vec![1000; count];
            spread(&mut items, work, |place, item| *item = *item - 1000 + place);
            assert_eq!(items, (0..count).collect::<Vec<_>>());
        }
    }
}
