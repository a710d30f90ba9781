//! Units that stand out by themselves, whatever the text is about; and the passages a unit is most active in.

use std::ops::Range;
use std::sync::Mutex;

use serde::Serialize;

use super::activations::{Activations, CODES, Unit, in_parallel};
use super::text::Text;

/// Tokens that autocorrelations are taken over, and their longest lag.
const CORRELATED: usize = 16_384;
const LONGEST_LAG: usize = 512;
/// Least share of the smaller mode of a bimodal unit.
const SMALLER_MODE: f64 = 0.05;

/// The most remarkable units of four kinds, best first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rankings {
    /// Values in two heaps: `value` is the share of the variance that lies between them (Otsu 1979), each heap at
    /// least 5 % of the tokens. A normal distribution has 0.64, a uniform one 0.75.
    pub bimodal: Vec<Ranked>,
    /// Slowest to change: `value` is the lag in tokens at which the autocorrelation falls to 1/e.
    pub slowest: Vec<Ranked>,
    /// Most periodic: `value` is how far the autocorrelation rises again at the period, `detail` the period in
    /// tokens.
    pub periodic: Vec<Ranked>,
    /// Most tied to the token just read: `value` is the share of the variance that the token explains; `detail`
    /// the token that lifts the unit furthest from its mean.
    pub tied: Vec<Ranked>,
}

/// A unit in a ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The unit.
    pub unit: Unit,
    /// What it was ranked by.
    pub value: f64,
    /// What goes with it: a period in tokens, a token.
    pub detail: Option<usize>,
}

/// Ranks all units without knowing what to look for; the `list` best of each kind.
///
/// ```
/// use carousel::lens::{Activations, Text, rank};
///
/// let text = Text::of_characters(&"abcdefgh".repeat(200));
/// let clock = (0..text.len()).map(|t| (t % 20) as f32).collect(); // restarts every 20 characters
/// let switch = (0..text.len()).map(|t| f32::from(t / 100 % 2 == 0)).collect();
/// let rankings = rank(&Activations::from_rows(0, "h", &[clock, switch]), &text, 2);
/// assert_eq!(rankings.bimodal[0].unit.unit, 1);
/// assert_eq!(rankings.slowest[0].unit.unit, 1);
/// assert!(rankings.periodic.iter().any(|unit| unit.detail == Some(20)));
/// ```
///
/// # Panics
/// When the activations are of another text.
#[must_use]
pub fn rank(activations: &Activations, text: &Text, list: usize) -> Rankings {
    assert_eq!(activations.tokens(), text.len(), "the activations are of another text");
    let tokens = text.len();
    // From the middle: the start of a text is often unlike the rest.
    let from = (tokens - tokens.min(CORRELATED)) / 2;
    let sample = from..from + tokens.min(CORRELATED);
    let all: Mutex<Vec<(usize, Marks)>> = Mutex::new(Vec::with_capacity(activations.units()));
    in_parallel((0..activations.units()).collect(), |unit| {
        let marks = Marks {
            bimodal: bimodality(activations, unit),
            time: correlation_time(&activations.values(unit, sample.clone())),
            tied: tie(activations, unit, text),
        };
        all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((unit, marks));
    });
    let mut all = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    all.sort_by_key(|&(unit, _)| unit);
    let best = |value: &dyn Fn(&Marks) -> (f64, Option<usize>)| -> Vec<Ranked> {
        let mut ranked: Vec<(usize, (f64, Option<usize>))> = all
            .iter()
            .map(|(unit, marks)| (*unit, value(marks)))
            .filter(|(_, (value, _))| *value > 0.0)
            .collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let units = ranked.into_iter().take(list);
        units.map(|(unit, (value, detail))| Ranked { unit: activations.unit(unit), value, detail }).collect()
    };
    Rankings {
        bimodal: best(&|marks| (marks.bimodal, None)),
        slowest: best(&|marks| (marks.time.0, None)),
        periodic: best(&|marks| (marks.time.2, Some(marks.time.1))),
        tied: best(&|marks| (marks.tied.0, Some(marks.tied.1))),
    }
}

struct Marks {
    bimodal: f64,
    /// Correlation time, period, strength of the period.
    time: (f64, usize, f64),
    tied: (f64, usize),
}

/// The largest share of variance between two heaps, over all borders that leave both large enough.
fn bimodality(activations: &Activations, unit: usize) -> f64 {
    let mut counts = [0f64; CODES];
    activations.codes(unit).iter().for_each(|&code| counts[usize::from(code)] += 1.0);
    let values = activations.code_values(unit).map(f64::from);
    let total: f64 = counts.iter().sum();
    let mean = counts.iter().zip(&values).map(|(count, value)| count * value).sum::<f64>() / total.max(1.0);
    let variance: f64 = counts.iter().zip(&values).map(|(count, value)| count * (value - mean).powi(2)).sum();
    if variance <= 1e-9 * total {
        return 0.0;
    }
    let (mut below, mut sum, mut best) = (0.0, 0.0, 0f64);
    for (count, value) in counts.iter().zip(&values) {
        below += count;
        sum += count * value;
        if (SMALLER_MODE * total..=(1.0 - SMALLER_MODE) * total).contains(&below) {
            let above = total - below;
            let apart = sum / below - (mean * total - sum) / above;
            best = best.max(below * above / total * apart * apart / variance);
        }
    }
    best
}

/// Correlation time in tokens, then the period and how far its peak stands above the valley before it.
fn correlation_time(values: &[f32]) -> (f64, usize, f64) {
    let mean = values.iter().sum::<f32>() / values.len().max(1) as f32;
    let centred: Vec<f32> = values.iter().map(|value| value - mean).collect();
    let product = |lag: usize| -> f64 {
        let pairs = centred.len() - lag;
        let sum: f32 = centred[lag..]
            .chunks(1024)
            .zip(centred.chunks(1024))
            .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>())
            .sum();
        f64::from(sum) / pairs.max(1) as f64
    };
    let lags = LONGEST_LAG.min(values.len() / 4);
    let variance = product(0);
    if variance <= 1e-9 || lags < 2 {
        return (0.0, 0, 0.0);
    }
    let correlation: Vec<f64> = (0..lags).map(|lag| product(lag) / variance).collect();
    let threshold = (-1f64).exp();
    let time = match correlation.iter().position(|&value| value < threshold) {
        Some(lag) => {
            let (above, below) = (correlation[lag - 1], correlation[lag]);
            (lag - 1) as f64 + (above - threshold) / (above - below)
        }
        None => lags as f64,
    };
    let (mut valley, mut best) = (f64::INFINITY, (0, 0.0));
    for lag in 1..lags - 1 {
        let here = correlation[lag];
        valley = valley.min(here);
        let peak = here >= correlation[lag - 1] && here >= correlation[lag + 1];
        if peak && here - valley > best.1 && here > 0.0 {
            best = (lag, here - valley);
        }
    }
    (time, best.0, best.1)
}

/// Share of a unit's variance that the token just read explains, and the token with the largest part in it.
fn tie(activations: &Activations, unit: usize, text: &Text) -> (f64, usize) {
    let vocabulary = text.tokens().iter().max().map_or(0, |&most| most as usize + 1);
    let mut sums = vec![(0.0f64, 0.0f64); vocabulary];
    let (mut sum, mut squares) = (0.0, 0.0);
    let values = activations.code_values(unit);
    for (&code, &token) in activations.codes(unit).iter().zip(text.tokens()) {
        let value = f64::from(values[usize::from(code)]);
        let entry = &mut sums[token as usize];
        entry.0 += value;
        entry.1 += 1.0;
        sum += value;
        squares += value * value;
    }
    let total = text.len().max(1) as f64;
    let mean = sum / total;
    let variance = squares / total - mean * mean;
    if variance <= 1e-9 {
        return (0.0, 0);
    }
    let part =
        |&(sum, count): &(f64, f64)| if count > 0.0 { count * (sum / count - mean).powi(2) } else { 0.0 };
    let between: f64 = sums.iter().map(part).sum::<f64>() / total;
    let most = (0..vocabulary).max_by(|&a, &b| part(&sums[a]).total_cmp(&part(&sums[b])));
    (between / variance, most.unwrap_or_default())
}

/// The passages of `length` tokens in which a unit is furthest on one side of its mean (the high one for a
/// positive `sign`): the `count` best that do not overlap, best first.
///
/// ```
/// use carousel::lens::{Activations, passages};
///
/// let mut row = vec![0.0; 300];
/// row[210..220].fill(1.0);
/// let activations = Activations::from_rows(0, "h", &[row]);
/// assert_eq!(passages(&activations, 0, 1.0, 10, 1), [210..220]);
/// ```
#[must_use]
pub fn passages(
    activations: &Activations,
    unit: usize,
    sign: f64,
    length: usize,
    count: usize,
) -> Vec<Range<usize>> {
    let values = activations.values(unit, 0..activations.tokens());
    if length == 0 || values.len() < length {
        return Vec::new();
    }
    let mut sum: f64 = values[..length].iter().map(|&value| f64::from(value)).sum();
    let mut sums = vec![(sum * sign, 0)];
    for at in length..values.len() {
        sum += f64::from(values[at]) - f64::from(values[at - length]);
        sums.push((sum * sign, at + 1 - length));
    }
    sums.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut chosen: Vec<Range<usize>> = Vec::new();
    for (_, from) in sums {
        if chosen.iter().all(|other| from + length <= other.start || other.end <= from) {
            chosen.push(from..from + length);
            if chosen.len() == count {
                break;
            }
        }
    }
    chosen
}
