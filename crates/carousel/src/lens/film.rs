//! Everything some units had over a stretch of text, and what the model expected next: what a page shows.

use serde::Serialize;

use super::read::{Reading, read};
use super::text::Text;
use crate::models::language_model::LanguageModel;
use crate::own_cell::{Role, Signal};
use crate::record::Keep;
use crate::slices::with_slice;

/// Likely next tokens kept for each token.
pub const LIKELY: usize = 5;

/// Some units over a text.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Film {
    /// In the order they were asked for.
    pub units: Vec<FilmUnit>,
    /// For each token the five likeliest next ones, the likeliest first: id, and probability in 255ths.
    pub likely: Vec<[(u32, u8); LIKELY]>,
}

/// One unit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilmUnit {
    /// The layer.
    pub layer: usize,
    /// The unit.
    pub unit: usize,
    /// Every signal of the cell.
    pub signals: Vec<FilmSignal>,
}

/// One signal of a unit, at one byte a token.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilmSignal {
    /// `h`, `c`, a gate.
    pub name: String,
    /// The value of code 0.
    pub low: f32,
    /// The value of code 255. Codes between are evenly spread.
    pub high: f32,
    /// One for each token.
    pub codes: Vec<u8>,
}

/// Reads a text and keeps all signals of these units (layer, unit), whatever `how` keeps. `progress` is told the share that is done.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::lens::{Reading, Text, film};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let model = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 2,
///     init: Default::default(), residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
/// }
/// .init(&Device::default())?;
/// let text = Text::of_characters("hello, hello");
/// let film = film(&model, &text, &[(1, 6), (0, 2)], &Reading::default(), |_| {});
/// let names: Vec<&str> = film.units[0].signals.iter().map(|signal| signal.name.as_str()).collect();
/// assert_eq!(names, ["h", "c", "i", "f", "g", "o"]);
/// assert_eq!(film.units[0].signals[3].codes.len(), text.len());
/// assert_eq!((film.units[0].signals[3].low, film.units[0].signals[3].high), (0.0, 1.0)); // a gate
/// let [first, second, ..] = film.likely[0];
/// assert!(first.1 >= second.1);
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
///
/// # Panics
/// When there is no such unit.
#[must_use]
pub fn film(
    model: &LanguageModel,
    text: &Text,
    units: &[(usize, usize)],
    how: &Reading,
    mut progress: impl FnMut(f64),
) -> Film {
    let signals = model.recurrent().cell().signals();
    let mut values: Vec<Vec<Vec<f32>>> = vec![vec![vec![0.0; text.len()]; signals.len()]; units.len()];
    let mut likely = vec![[(0, 0); LIKELY]; text.len()];
    let mut done = 0;
    let how = Reading { keep: Keep::all().with_layers(units.iter().map(|unit| unit.0)), ..how.clone() };
    read(model, text, &how, |glimpse| {
        for (values, &(layer, unit)) in values.iter_mut().zip(units) {
            for (values, signal) in values.iter_mut().zip(&signals) {
                let series = glimpse.record.get(layer, signal.name).expect("the layer was kept");
                for run in &glimpse.runs {
                    for (index, token) in run.tokens.clone().enumerate() {
                        values[token] = series.values[glimpse.row(run, index) * series.units + unit];
                    }
                }
            }
        }
        let scores = model.output().logits(glimpse.output.clone());
        let vocabulary = scores.dims()[1];
        with_slice(&scores, |scores| {
            for run in &glimpse.runs {
                for (index, token) in run.tokens.clone().enumerate() {
                    likely[token] = likeliest(&scores[glimpse.row(run, index) * vocabulary..][..vocabulary]);
                }
            }
        });
        done += glimpse.runs.iter().map(|run| run.tokens.len()).sum::<usize>();
        progress(done as f64 / text.len().max(1) as f64);
    });
    let units = units.iter().zip(values).map(|(&(layer, unit), values)| FilmUnit {
        layer,
        unit,
        signals: signals.iter().zip(values).map(|(signal, values)| coded(*signal, &values)).collect(),
    });
    Film { units: units.collect(), likely }
}

/// Gates between 0 and 1, all else evenly on both sides of the median, as far as 98 % of the values reach: a few
/// extremes would leave the others without colour, and so would a unit's distance from 0.
fn coded(signal: Signal, values: &[f32]) -> FilmSignal {
    let Signal { name, role } = signal;
    let is_gate = role != Role::Value;
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |share: usize| sorted.get(sorted.len() * share / 100).copied().unwrap_or_default();
    let median = at(50);
    let most = (at(99) - median).max(median - at(1)).max(1e-6);
    let (low, high) = if is_gate { (0.0, 1.0) } else { (median - most, median + most) };
    let code = |&value: &f32| ((value - low) / (high - low) * 255.0).round().clamp(0.0, 255.0) as u8;
    FilmSignal { name: name.to_owned(), low, high, codes: values.iter().map(code).collect() }
}

fn likeliest(scores: &[f32]) -> [(u32, u8); LIKELY] {
    let mut best = [(0u32, f32::NEG_INFINITY); LIKELY];
    for (token, &score) in scores.iter().enumerate() {
        if score > best[LIKELY - 1].1 {
            let place = best.partition_point(|other| other.1 >= score);
            best[place..].rotate_right(1);
            best[place] = (token as u32, score);
        }
    }
    let highest = best[0].1;
    let sum: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
    best.map(|(token, score)| (token, ((score - highest).exp() / sum * 255.0).round() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_far_from_zero_keeps_its_colours() {
        // Mostly -20, at times -19; once 5, which is left out.
        let mut values: Vec<f32> =
            (0..1000).map(|token| if token % 10 == 0 { -19.0 } else { -20.0 }).collect();
        values[7] = 5.0;
        let signal = coded(Signal { name: "c", role: Role::Value }, &values);
        assert_eq!((signal.low, signal.high), (-21.0, -19.0));
        assert_eq!((signal.codes[0], signal.codes[1], signal.codes[7]), (255, 128, 255));
        assert_eq!(
            (
                coded(Signal { name: "f", role: Role::Gate }, &values).low,
                coded(Signal { name: "f", role: Role::Gate }, &values).high
            ),
            (0.0, 1.0)
        );
    }
}
