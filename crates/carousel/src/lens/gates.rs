//! How gates stand: the shares of time that each is nearly shut or nearly open (Karpathy, Johnson and Fei-Fei
//! 2015), how long units remember, and which units do nothing.

use serde::Serialize;

use super::read::{Reading, read};
use super::text::Text;
use crate::models::language_model::LanguageModel;
use crate::own_cell::Role;
use crate::record::Keep;

/// A gate below this is saturated on the left, above the other on the right.
pub const SATURATED: [f32; 2] = [0.1, 0.9];
/// A unit whose `h` spreads less than this does nothing.
const STILL: f64 = 1e-3;

/// The gates of a whole model over a text.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GateReport {
    /// Tokens that were read.
    pub tokens: usize,
    /// Layer after layer, the gates in the cell's order. Signals that are no gates (`h`, `c`, and the candidates
    /// `g` and `n`) are not here.
    pub gates: Vec<Gate>,
    /// Each layer's units that do nothing: their `h` stays within 0.001 of its mean.
    pub dead: Vec<Vec<usize>>,
    /// Each layer's share of `h` beyond ±0.9, by unit: what an RNN has in place of gates.
    pub saturated_h: Vec<Vec<f64>>,
}

/// One gate of one layer, a value a unit.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    /// The layer.
    pub layer: usize,
    /// `i`, `f` or `o` of an LSTM, `r` or `z` of a GRU.
    pub name: String,
    /// Share of tokens below 0.1.
    pub left: Vec<f64>,
    /// Share of tokens above 0.9.
    pub right: Vec<f64>,
    /// Mean.
    pub mean: Vec<f64>,
    /// Of a gate that keeps the past (an LSTM's `f`, a GRU's `z`): tokens after which `1/e` of the state is left,
    /// `-1 / mean(ln f)`. Empty for the others.
    pub time: Vec<f64>,
}

/// Reads a text and watches the gates, whatever `how` keeps. `progress` is told the share that is done.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::lens::{Reading, Text, watch_gates};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let model = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 2,
///     init: carousel::init::Init { gates: carousel::init::GateBias::Forget(4.0), ..Default::default() }, residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
/// }
/// .init(&Device::default())?;
/// let report = watch_gates(&model, &Text::of_characters("hello, hello"), &Reading::default(), |_| {});
/// let forget = report.gates.iter().find(|gate| gate.layer == 1 && gate.name == "f");
/// let forget = forget.expect("an LSTM has a forget gate");
/// assert!(forget.right.iter().all(|&share| share > 0.9)); // a forget bias of 4: the gates are open
/// assert!(forget.time.iter().all(|&tokens| tokens > 10.0));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
#[must_use]
pub fn watch_gates(
    model: &LanguageModel,
    text: &Text,
    how: &Reading,
    mut progress: impl FnMut(f64),
) -> GateReport {
    let signals = model.recurrent().cell().signals();
    let keeps = |name: &str| signals.iter().any(|signal| signal.name == name && signal.role == Role::Keep);
    let gates: Vec<&str> =
        signals.iter().filter(|signal| signal.role != Role::Value).map(|signal| signal.name).collect();
    let how = Reading { keep: Keep::signals(gates.iter().copied().chain(["h"])), ..how.clone() };
    let mut sums: Vec<Vec<Sums>> = Vec::new();
    let mut kinds: Vec<(usize, String)> = Vec::new();
    let mut done = 0;
    read(model, text, &how, |glimpse| {
        if sums.is_empty() {
            for series in &glimpse.record.series {
                sums.push(vec![Sums::default(); series.units]);
                kinds.push((series.layer, series.name.clone()));
            }
        }
        for (sums, series) in sums.iter_mut().zip(&glimpse.record.series) {
            let is_h = series.name == "h";
            let keeps_past = keeps(&series.name);
            for run in &glimpse.runs {
                for index in 0..run.tokens.len() {
                    let row = &series.values[glimpse.row(run, index) * series.units..][..series.units];
                    for (sums, &value) in sums.iter_mut().zip(row) {
                        sums.add(value, is_h, keeps_past);
                    }
                }
            }
        }
        done += glimpse.runs.iter().map(|run| run.tokens.len()).sum::<usize>();
        progress(done as f64 / text.len().max(1) as f64);
    });
    let total = text.len().max(1) as f64;
    let mut report = GateReport { tokens: text.len(), ..GateReport::default() };
    for (sums, (layer, name)) in sums.into_iter().zip(kinds) {
        let each = |of: &dyn Fn(&Sums) -> f64| sums.iter().map(of).collect::<Vec<f64>>();
        if name == "h" {
            let still = |sums: &Sums| {
                let mean = sums.sum / total;
                (sums.squares / total - mean * mean).max(0.0).sqrt() < STILL
            };
            report.dead.push((0..sums.len()).filter(|&unit| still(&sums[unit])).collect());
            report.saturated_h.push(each(&|sums| sums.right as f64 / total));
            continue;
        }
        report.gates.push(Gate {
            layer,
            left: each(&|sums| sums.left as f64 / total),
            right: each(&|sums| sums.right as f64 / total),
            mean: each(&|sums| sums.sum / total),
            time: if keeps(&name) { each(&|sums| -total / sums.logarithms) } else { Vec::new() },
            name,
        });
    }
    report
}

#[derive(Clone, Default)]
struct Sums {
    left: u64,
    right: u64,
    sum: f64,
    squares: f64,
    logarithms: f64,
}

impl Sums {
    fn add(&mut self, value: f32, is_h: bool, keeps_past: bool) {
        let side = if is_h { value.abs() } else { value };
        self.left += u64::from(side < SATURATED[0]);
        self.right += u64::from(side > SATURATED[1]);
        let value = f64::from(value);
        self.sum += value;
        self.squares += value * value;
        if keeps_past {
            // An open gate rounds to 1: it forgets, if ever, after millions of tokens.
            self.logarithms += value.clamp(1e-12, 1.0 - 1e-7).ln();
        }
    }
}
