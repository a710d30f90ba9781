//! Activations of all units over a whole text, at one byte each.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::read::{Glimpse, Reading, Run, read};
use super::text::Text;
use crate::models::language_model::LanguageModel;
use crate::record::Series;

/// One signal of one unit. Its text, `c_l1[143]`, is the array and column that it has in a `.npz` recording.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Unit {
    /// The layer, 0 at the input.
    pub layer: usize,
    /// The signal: `h`, `c`, a gate.
    pub signal: String,
    /// The unit, from 0.
    pub unit: usize,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_l{}[{}]", self.signal, self.layer, self.unit)
    }
}

/// Codes a unit has.
pub(crate) const CODES: usize = 256;
/// Cells of the grid from values to codes.
const GRID: usize = 4096;
/// Units encoded together: their values of one row share cache lines.
const TOGETHER: usize = 16;
/// Tokens that a unit's scale is made from.
const SAMPLE: usize = 1 << 14;
/// Floats that wait for the scales at most; with many units the sample is smaller.
const SAMPLE_FLOATS: usize = 1 << 26;

/// One signal of one layer: so many units in a row.
#[derive(Clone, Debug)]
struct Block {
    layer: usize,
    signal: String,
    units: usize,
}

/// The activations of a model's units over a text.
///
/// A value is kept as one byte. Codes keep the order of values; half of them are spread evenly over the unit's
/// range and half over its ranks, so that both a rare extreme and a crowded middle keep their steps.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::lens::{Activations, Reading, Text};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let model = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 2,
///     init: Default::default(), residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
/// }
/// .init(&Device::default())?;
/// let text = Text::of_characters("to be or not to be");
/// let activations = Activations::record(&model, &text, &Reading::of(["h", "c"]), |_| {});
/// assert_eq!((activations.units(), activations.tokens()), (2 * 2 * 8, text.len()));
/// assert_eq!(activations.unit(8).to_string(), "c_l0[0]");
/// let values: Vec<f32> = activations.values(8, 0..text.len());
/// assert!(values.iter().any(|&value| value != values[0]));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Activations {
    blocks: Vec<Block>,
    units: usize,
    tokens: usize,
    /// `[units, tokens]`
    codes: Vec<u8>,
    scales: Vec<Scale>,
}

/// Rows of values, and the tokens they belong to.
#[derive(Default)]
struct Rows<'a> {
    series: Cow<'a, [Series]>,
    /// Token and row.
    places: Vec<(usize, usize)>,
}

impl<'a> Rows<'a> {
    fn of(glimpse: &'a Glimpse) -> Rows<'a> {
        let of_run = |run: &'a Run| {
            let tokens = run.tokens.clone().enumerate();
            tokens.map(move |(index, token)| (token, glimpse.row(run, index)))
        };
        let places = glimpse.runs.iter().flat_map(of_run).collect();
        Rows { series: Cow::Borrowed(&glimpse.record.series), places }
    }

    fn append(&mut self, glimpse: &Glimpse) {
        let new = Rows::of(glimpse);
        let own = self.series.to_mut();
        let rows = own.first().map_or(0, |series| series.values.len() / series.units.max(1));
        if own.is_empty() {
            own.extend(new.series.iter().cloned());
        } else {
            own.iter_mut().zip(&*new.series).for_each(|(own, new)| own.values.extend_from_slice(&new.values));
        }
        self.places.extend(new.places.into_iter().map(|(token, row)| (token, rows + row)));
    }

    fn is_full(&self) -> bool {
        let floats: usize = self.series.iter().map(|series| series.values.len()).sum();
        self.places.len() >= SAMPLE || floats >= SAMPLE_FLOATS
    }
}

/// How one unit's values become codes.
#[derive(Clone, Debug)]
struct Scale {
    low: f32,
    /// Grid cells a unit of value; 0 for a unit that does not move.
    factor: f32,
    /// Grid cell to code.
    codes: Box<[u8; GRID]>,
    /// Code to value.
    values: Box<[f32; CODES]>,
}

impl Scale {
    /// From a sample of the unit's values.
    fn of(mut sample: Vec<f32>) -> Scale {
        sample.retain(|value| value.is_finite());
        sample.sort_unstable_by(f32::total_cmp);
        let (least, most) =
            (sample.first().copied().unwrap_or_default(), sample.last().copied().unwrap_or_default());
        // Room on both sides: the sample has not seen the text's extremes.
        let margin = (most - least) / 4.0;
        let low = least - margin;
        let width = most - least + 2.0 * margin;
        let factor = if width > 0.0 { GRID as f32 / width } else { 0.0 };
        let mut codes = Box::new([0; GRID]);
        let mut values = Box::new([0.0; CODES]);
        let mut counts = [0f32; CODES];
        let mut below = 0;
        for (cell, code) in codes.iter_mut().enumerate() {
            let middle = low + (cell as f32 + 0.5) / GRID as f32 * width;
            while sample.get(below).is_some_and(|&value| value < middle) {
                below += 1;
            }
            let rank = below as f32 / sample.len().max(1) as f32;
            let share = (cell as f32 + 0.5) / GRID as f32;
            *code = ((rank + share) / 2.0 * CODES as f32).min(CODES as f32 - 1.0) as u8;
            // Where the sample has nothing, the middle of the cells stands for a code.
            values[usize::from(*code)] += middle;
            counts[usize::from(*code)] += 1.0;
        }
        let mut scale = Scale { low, factor, codes, values };
        let (mut sums, mut seen) = ([0.0; CODES], [0f32; CODES]);
        for &value in &sample {
            let code = usize::from(scale.encode(value));
            sums[code] += value;
            seen[code] += 1.0;
        }
        for code in 0..CODES {
            scale.values[code] = match (seen[code] > 0.0, counts[code] > 0.0) {
                (true, _) => sums[code] / seen[code],
                (false, true) => scale.values[code] / counts[code],
                (false, false) => code.checked_sub(1).map_or(low, |before| scale.values[before]),
            };
        }
        scale
    }

    /// What is not a number gets the lowest code.
    fn encode(&self, value: f32) -> u8 {
        let cell = ((value - self.low) * self.factor).clamp(0.0, (GRID - 1) as f32);
        self.codes[cell as usize]
    }
}

impl Activations {
    /// Reads a text and keeps what `how` keeps. `progress` is told the share that is done.
    pub fn record(
        model: &LanguageModel,
        text: &Text,
        how: &Reading,
        mut progress: impl FnMut(f64),
    ) -> Activations {
        let mut all: Option<Activations> = None;
        let mut sample = Rows::default();
        let mut done = 0;
        read(model, text, how, |glimpse| {
            done += glimpse.runs.iter().map(|run| run.tokens.len()).sum::<usize>();
            match &mut all {
                Some(all) => all.take(&Rows::of(glimpse)),
                // A window alone may not show what a unit can do: it may be one line of the text.
                None => {
                    sample.append(glimpse);
                    if sample.is_full() || done == text.len() {
                        let made = all.insert(Activations::new(&sample.series, text.len()));
                        made.take(&std::mem::take(&mut sample));
                    }
                }
            }
            progress(done as f64 / text.len().max(1) as f64);
        });
        all.unwrap_or_else(|| Activations::new(&[], text.len()))
    }

    /// Activations that were made elsewhere: a row of `tokens` values a unit.
    #[must_use]
    pub fn from_rows(layer: usize, signal: &str, rows: &[Vec<f32>]) -> Activations {
        let tokens = rows.first().map_or(0, Vec::len);
        let scales: Vec<Scale> = rows.iter().map(|row| Scale::of(row.clone())).collect();
        let codes = rows
            .iter()
            .zip(&scales)
            .flat_map(|(row, scale)| row.iter().map(|&value| scale.encode(value)))
            .collect();
        let blocks = vec![Block { layer, signal: signal.to_owned(), units: rows.len() }];
        Activations { blocks, units: rows.len(), tokens, codes, scales }
    }

    /// Room for these series, with scales from what they hold.
    fn new(series: &[Series], tokens: usize) -> Activations {
        let blocks: Vec<Block> = series
            .iter()
            .map(|series| Block { layer: series.layer, signal: series.name.clone(), units: series.units })
            .collect();
        let units = blocks.iter().map(|block| block.units).sum();
        let scales = series
            .iter()
            .flat_map(|series| (0..series.units).map(move |unit| (series, unit)))
            .map(|(series, unit)| {
                Scale::of(series.values.iter().skip(unit).step_by(series.units).copied().collect())
            })
            .collect();
        Activations { blocks, units, tokens, codes: vec![0; units * tokens], scales }
    }

    /// Encodes rows.
    fn take(&mut self, rows: &Rows<'_>) {
        let tokens = self.tokens;
        // The values, units in all, the first unit, scales and codes of the tile's units.
        type UnitTile<'a> = (&'a [f32], usize, usize, &'a [Scale], &'a mut [u8]);
        let mut tiles: Vec<UnitTile<'_>> = Vec::new();
        let (mut scales, mut codes) = (&self.scales[..], &mut self.codes[..]);
        for series in rows.series.iter() {
            for first in (0..series.units).step_by(TOGETHER) {
                let count = TOGETHER.min(series.units - first);
                let (own, rest) = scales.split_at(count);
                scales = rest;
                let (to, rest) = std::mem::take(&mut codes).split_at_mut(count * tokens);
                codes = rest;
                tiles.push((&series.values, series.units, first, own, to));
            }
        }
        in_parallel(tiles, |(values, stride, first, scales, codes)| {
            for &(token, row) in &rows.places {
                let row = &values[row * stride + first..][..scales.len()];
                for (unit, (scale, &value)) in scales.iter().zip(row).enumerate() {
                    codes[unit * tokens + token] = scale.encode(value);
                }
            }
        });
    }

    /// How many units' signals there are.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units
    }

    /// How many tokens were read.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Which unit an index stands for.
    ///
    /// # Panics
    /// When the index is not below [`units`](Activations::units).
    #[must_use]
    pub fn unit(&self, index: usize) -> Unit {
        let mut unit = index;
        for block in &self.blocks {
            if unit < block.units {
                return Unit { layer: block.layer, signal: block.signal.clone(), unit };
            }
            unit -= block.units;
        }
        panic!("unit {index} of {}", self.units)
    }

    /// The index of a unit; `None` where it was not recorded.
    #[must_use]
    pub fn index_of(&self, unit: &Unit) -> Option<usize> {
        let mut first = 0;
        for block in &self.blocks {
            if (block.layer, &block.signal) == (unit.layer, &unit.signal) && unit.unit < block.units {
                return Some(first + unit.unit);
            }
            first += block.units;
        }
        None
    }

    /// The codes of a unit: they order its values.
    #[must_use]
    pub fn codes(&self, index: usize) -> &[u8] {
        &self.codes[index * self.tokens..][..self.tokens]
    }

    /// The value that each code of a unit stands for.
    #[must_use]
    pub fn code_values(&self, index: usize) -> &[f32; 256] {
        &self.scales[index].values
    }

    /// Mean and standard deviation of a unit over some tokens.
    #[must_use]
    pub fn moments(&self, index: usize, tokens: Range<usize>) -> (f32, f32) {
        let total = tokens.len().max(1) as f64;
        let mut counts = [0u32; CODES];
        self.codes(index)[tokens].iter().for_each(|&code| counts[usize::from(code)] += 1);
        let weighted = |of: &dyn Fn(f64) -> f64| -> f64 {
            let values = self.code_values(index).iter().zip(&counts);
            values.map(|(&value, &count)| of(f64::from(value)) * f64::from(count)).sum::<f64>() / total
        };
        let mean = weighted(&|value| value);
        let variance = weighted(&|value| (value - mean) * (value - mean));
        (mean as f32, variance.sqrt() as f32)
    }

    /// The values of a unit over some tokens, to the precision of their codes.
    #[must_use]
    pub fn values(&self, index: usize, tokens: Range<usize>) -> Vec<f32> {
        let values = self.code_values(index);
        self.codes(index)[tokens].iter().map(|&code| values[usize::from(code)]).collect()
    }
}

/// Does all items on as many threads as the kernels use.
pub(crate) fn in_parallel<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    let threads = carousel_kernels::threads().clamp(1, items.len().max(1));
    if threads == 1 {
        return items.into_iter().for_each(work);
    }
    let queue = std::sync::Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_order_and_values_come_back() {
        let row: Vec<f32> = (0..5000).map(|t| ((t * 7919 % 5000) as f32 / 2500.0 - 1.0).powi(3)).collect();
        let all = Activations::from_rows(0, "h", std::slice::from_ref(&row));
        let back = all.values(0, 0..row.len());
        for t in 1..row.len() {
            let codes = (all.codes(0)[t - 1], all.codes(0)[t]);
            assert!(row[t - 1] < row[t] || codes.0 >= codes.1, "order at {t}");
            assert!((back[t] - row[t]).abs() < 2.0 / 128.0, "value at {t}");
        }
    }

    #[test]
    fn a_rare_extreme_keeps_its_steps() {
        let mut row = vec![0.0; 10_000];
        for (index, place) in (0..10_000).step_by(500).enumerate() {
            row[place] = 0.5 + index as f32 * 0.025;
        }
        let all = Activations::from_rows(0, "h", std::slice::from_ref(&row));
        let mut codes: Vec<u8> = (0..10_000).step_by(500).map(|place| all.codes(0)[place]).collect();
        codes.dedup();
        assert!(codes.len() >= 19, "{codes:?}");
    }

    #[test]
    fn units_without_motion_or_sense_have_one_code() {
        let all = Activations::from_rows(0, "h", &[vec![0.25; 8], vec![f32::NAN; 8]]);
        assert!(all.codes(0).iter().chain(all.codes(1)).all(|&code| code == all.codes(0)[0]));
        assert_eq!(all.values(0, 0..1), [0.25]);
    }

    /// What the first window does not show has its codes all the same.
    #[test]
    fn the_scale_of_a_text_is_made_of_more_than_its_first_window() {
        use crate::cell::Cell;
        use crate::models::language_model::LanguageModelConfig;
        let config = LanguageModelConfig {
            cell: Cell::Lstm.into(),
            vocabulary: 128,
            embedding: 4,
            hidden: 3,
            layers: 1,
            init: Default::default(),
            residual: false,
            tied: false,
            options: Default::default(),
            regularize: Default::default(),
            seed: 0,
        };
        let model = config.init(&burn::tensor::Device::default()).expect("the sizes are right");
        // One letter for longer than a window, so that the states come to rest; then others.
        let text = Text::of_characters(&("a".repeat(2_000) + &"xyz".repeat(300)));
        let all = Activations::record(&model, &text, &Reading::of(["h"]), |_| {});
        let rows = |glimpse: &Glimpse| glimpse.record.series[0].values.clone();
        let mut exact = Vec::new();
        read(&model, &text, &Reading::default(), |glimpse| exact.extend(rows(glimpse)));
        for unit in 0..3 {
            let found = all.values(unit, 0..text.len());
            let own = exact.iter().skip(unit).step_by(3);
            let (low, high) =
                own.clone().fold((1.0f32, -1.0f32), |(a, b), &value| (a.min(value), b.max(value)));
            for (found, &value) in found.iter().zip(own) {
                assert!((found - value).abs() <= (high - low) / 64.0, "{found} {value} of {low} to {high}");
            }
        }
    }

    #[test]
    fn names_and_indices_belong_together() {
        let all = Activations::from_rows(1, "c", &[vec![0.0; 2], vec![1.0; 2]]);
        let unit = Unit { layer: 1, signal: "c".to_owned(), unit: 1 };
        assert_eq!((all.unit(1), all.index_of(&unit)), (unit.clone(), Some(1)));
        assert_eq!(all.index_of(&Unit { layer: 0, ..unit }), None);
    }
}
