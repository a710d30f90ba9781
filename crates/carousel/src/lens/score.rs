//! How well a series of numbers tells a property: by ranks, so that only order counts.
//!
//! Both measures are linear in the ranks of the unit. With `r` the unit's centred mid-ranks over `n` tokens, as
//! shares of `n`, and `y` the property:
//!
//! ```text
//! area under the ROC curve    1/2 + n · Σ r y / (yes · no)         y = 0, 1   (Mann and Whitney 1947)
//! rank correlation            Σ r y / (n · σ_r · σ_y)              y = mid-ranks  (Spearman 1904)
//! ```
//!
//! So the scores of all units against all properties, shifted ones too, are one matrix product.

use std::ops::Range;

use carousel_kernels::loss::{Output, logits};

use super::activations::{Activations, CODES, in_parallel};
use super::properties::Kind;

/// Tokens of a chunk of the product.
const CHUNK: usize = 4096;
/// Floats of a chunk of all units.
const CHUNK_FLOATS: usize = 1 << 24;

/// A property over a range of tokens, made ready to be scored.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// 0 and 1, or centred mid-ranks as shares of their number.
    pub(crate) values: Vec<f32>,
    /// Yes and no; or the spread of the ranks.
    yes: f64,
    no: f64,
    spread: f64,
}

impl Target {
    pub(crate) fn new(kind: Kind, values: &[f32]) -> Target {
        match kind {
            Kind::Binary => {
                let yes = values.iter().filter(|&&value| value != 0.0).count() as f64;
                let no = values.len() as f64 - yes;
                let values = values.iter().map(|&value| f32::from(value != 0.0)).collect();
                Target { kind, values, yes, no, spread: 0.0 }
            }
            Kind::Number => {
                let values = mid_ranks(values);
                let spread = spread(&values);
                Target { kind, values, yes: 0.0, no: 0.0, spread }
            }
        }
    }

    /// Whether there is anything to tell apart.
    pub(crate) fn varies(&self) -> bool {
        match self.kind {
            Kind::Binary => self.yes > 0.0 && self.no > 0.0,
            Kind::Number => self.spread > 0.0,
        }
    }

    /// Share of yes, for yes/no.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.kind == Kind::Binary).then(|| self.yes / (self.yes + self.no).max(1.0))
    }

    /// The score from `Σ r y` and the spread of `r`: an area around 1/2, or a correlation around 0.
    fn score(&self, sum: f64, spread: f64) -> f64 {
        let n = self.values.len() as f64;
        // Sums of rounded ranks may pass the limits by a few billionths.
        match self.kind {
            Kind::Binary => (0.5 + n * sum / (self.yes * self.no).max(1.0)).clamp(0.0, 1.0),
            Kind::Number if spread > 0.0 && self.spread > 0.0 => {
                (sum / (n * spread * self.spread)).clamp(-1.0, 1.0)
            }
            Kind::Number => 0.0,
        }
    }

    /// Scores any series of predictions.
    pub(crate) fn score_series(&self, series: &[f32]) -> f64 {
        let ranks = mid_ranks(series);
        let sum = ranks.iter().zip(&self.values).map(|(&r, &y)| f64::from(r) * f64::from(y)).sum();
        self.score(sum, spread(&ranks))
    }
}

/// How far a score is from chance, 0 to 1.
pub(crate) fn strength(kind: Kind, score: f64) -> f64 {
    match kind {
        Kind::Binary => (score - 0.5).abs() * 2.0,
        Kind::Number => score.abs(),
    }
}

/// The score as it would be for the unit turned upside down, if `sign` is negative.
pub(crate) fn oriented(kind: Kind, score: f64, sign: f64) -> f64 {
    match kind {
        _ if sign >= 0.0 => score,
        Kind::Binary => 1.0 - score,
        Kind::Number => -score,
    }
}

/// The sign of a score.
pub(crate) fn sign(kind: Kind, score: f64) -> f64 {
    let centre = if kind == Kind::Binary { 0.5 } else { 0.0 };
    if score >= centre { 1.0 } else { -1.0 }
}

/// The score that a strength stands for.
pub(crate) fn score_of_strength(kind: Kind, strength: f64) -> f64 {
    match kind {
        Kind::Binary => 0.5 + strength / 2.0,
        Kind::Number => strength,
    }
}

/// Mid-ranks minus their mean, as shares of the number of values. What is not a number ranks lowest.
pub(crate) fn mid_ranks(values: &[f32]) -> Vec<f32> {
    let n = values.len();
    let key = |value: f32| if value.is_nan() { f32::NEG_INFINITY } else { value };
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_unstable_by(|&a, &b| key(values[a as usize]).total_cmp(&key(values[b as usize])));
    let mut ranks = vec![0.0; n];
    let mut from = 0;
    while from < n {
        let value = key(values[order[from] as usize]);
        let mut to = from + 1;
        while to < n && key(values[order[to] as usize]) == value {
            to += 1;
        }
        let rank = centred((from + to) as f64 / 2.0, n);
        for &place in &order[from..to] {
            ranks[place as usize] = rank;
        }
        from = to;
    }
    ranks
}

/// A rank, counted from 0 to `n` between the values, as a centred share.
fn centred(rank: f64, n: usize) -> f32 {
    (rank / n as f64 - 0.5) as f32
}

fn spread(ranks: &[f32]) -> f64 {
    let squares: f64 = ranks.iter().map(|&rank| f64::from(rank) * f64::from(rank)).sum();
    (squares / ranks.len().max(1) as f64).sqrt()
}

/// A unit's codes over a range as ranks.
struct RankTable {
    ranks: [f32; CODES],
    spread: f64,
}

impl RankTable {
    fn of(codes: &[u8]) -> RankTable {
        let mut counts = [0u32; CODES];
        for &code in codes {
            counts[usize::from(code)] += 1;
        }
        let mut ranks = [0.0; CODES];
        let mut below = 0u64;
        let mut squares = 0.0;
        for (rank, &count) in ranks.iter_mut().zip(&counts) {
            let middle = below as f64 + f64::from(count) / 2.0;
            *rank = centred(middle, codes.len());
            squares += f64::from(count) * f64::from(*rank) * f64::from(*rank);
            below += u64::from(count);
        }
        RankTable { ranks, spread: (squares / codes.len().max(1) as f64).sqrt() }
    }
}

/// Scores of all units against targets over a range of tokens, each target also shifted round by `shifts`
/// tokens. `[units][targets][1 + shifts]`: the first of each is not shifted. `progress` is told the share done.
pub(crate) fn score_all(
    activations: &Activations,
    tokens: Range<usize>,
    targets: &[Target],
    shifts: &[usize],
    mut progress: impl FnMut(f64),
) -> Vec<f64> {
    let units = activations.units();
    let tables = rank_tables(activations, &tokens);
    let each = 1 + shifts.len();
    let columns = targets.len() * each;
    let tables_of = |unit: usize| &tables[unit].ranks;
    let sums = products(
        activations,
        &tokens,
        tables_of,
        columns,
        |column, chunk, to| {
            let values = &targets[column / each].values;
            let shift = (column % each).checked_sub(1).map_or(0, |shift| shifts[shift]);
            let from = (chunk.start + shift) % values.len();
            let first = to.len().min(values.len() - from);
            to[..first].copy_from_slice(&values[from..from + first]);
            // A shift is shorter than the range, so a chunk goes round at most once.
            let rest = to.len() - first;
            to[first..].copy_from_slice(&values[..rest]);
        },
        &mut progress,
    );
    let score = |(place, sum): (usize, f64)| {
        targets[place % columns / each].score(sum, tables[place / columns].spread)
    };
    let scores: Vec<f64> = sums.into_iter().enumerate().map(score).collect();
    debug_assert_eq!(scores.len(), units * columns);
    scores
}

fn rank_tables(activations: &Activations, tokens: &Range<usize>) -> Vec<RankTable> {
    let mut tables: Vec<Option<RankTable>> = (0..activations.units()).map(|_| None).collect();
    in_parallel(tables.iter_mut().enumerate().collect(), |(unit, table)| {
        *table = Some(RankTable::of(&activations.codes(unit)[tokens.clone()]));
    });
    tables.into_iter().flatten().collect()
}

/// `Σ table(code) · column` over a range of tokens for every unit and column: `[units, columns]`. `fill` writes
/// a column's values of a chunk, which counts from the range's start.
pub(crate) fn products<'a>(
    activations: &Activations,
    tokens: &Range<usize>,
    table: impl Fn(usize) -> &'a [f32; CODES] + Sync,
    columns: usize,
    fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
    progress: &mut impl FnMut(f64),
) -> Vec<f64> {
    let units = activations.units();
    let mut sums = vec![0.0f64; units * columns];
    if units == 0 || columns == 0 {
        return sums;
    }
    let size = CHUNK.min((CHUNK_FLOATS / units.max(columns)).max(64));
    let mut rows = vec![0.0; units * size];
    let mut weights = vec![0.0; columns * size];
    let mut out = vec![0.0; units * columns];
    let mut from = 0;
    while from < tokens.len() {
        let chunk = from..(from + size).min(tokens.len());
        let length = chunk.len();
        let (rows, weights) = (&mut rows[..units * length], &mut weights[..columns * length]);
        in_parallel(rows.chunks_mut(length * 64).enumerate().collect(), |(part, rows)| {
            for (index, row) in rows.chunks_exact_mut(length).enumerate() {
                let unit = part * 64 + index;
                let table = table(unit);
                let codes = &activations.codes(unit)[tokens.start + chunk.start..][..length];
                for (value, &code) in row.iter_mut().zip(codes) {
                    *value = table[usize::from(code)];
                }
            }
        });
        in_parallel(weights.chunks_mut(length * 64).enumerate().collect(), |(part, weights)| {
            for (index, column) in weights.chunks_exact_mut(length).enumerate() {
                fill(part * 64 + index, chunk.clone(), column);
            }
        });
        // The output layer's kernel is rows times rows: the depth here is time.
        logits(Output { weight: weights, bias: None }, length, rows, &mut out)
            .expect("both have rows of the chunk's length");
        for (sum, &value) in sums.iter_mut().zip(&out) {
            *sum += f64::from(value);
        }
        from = chunk.end;
        progress(from as f64 / tokens.len() as f64);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: the share of pairs in the right order, ties half.
    fn area(series: &[f32], yes: &[f32]) -> f64 {
        let (mut right, mut pairs) = (0.0, 0.0);
        for (a, _) in series.iter().zip(yes).filter(|(_, yes)| **yes != 0.0) {
            for (b, _) in series.iter().zip(yes).filter(|(_, yes)| **yes == 0.0) {
                right += if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 };
                pairs += 1.0;
            }
        }
        right / pairs
    }

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32
            })
            .collect()
    }

    #[test]
    fn areas_are_shares_of_pairs_in_order() {
        let series: Vec<f32> = numbers(300, 1).iter().map(|value| (value * 20.0).floor()).collect();
        let yes: Vec<f32> = numbers(300, 2)
            .iter()
            .zip(&series)
            .map(|(value, series)| f32::from(value * 20.0 < *series))
            .collect();
        let found = Target::new(Kind::Binary, &yes).score_series(&series);
        assert!((found - area(&series, &yes)).abs() < 1e-6, "{found}");
    }

    #[test]
    fn rank_correlation_sees_order_only() {
        let series = numbers(200, 3);
        let check = |series: &[f32], values: &[f32], expected: f64| {
            let found = Target::new(Kind::Number, values).score_series(series);
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        };
        let cubes: Vec<f32> = series.iter().map(|value| value.powi(3)).collect();
        let minus: Vec<f32> = series.iter().map(|value| -value.exp()).collect();
        check(&series, &cubes, 1.0);
        check(&series, &minus, -1.0);
        check(&vec![0.5; 200], &cubes, 0.0);
        // Five values by hand: 1 - 6 Σd² / (n (n² - 1)) with Σd² = 4.
        check(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0], 0.8);
    }

    #[test]
    fn the_product_scores_as_one_by_one_and_shifts_go_round() {
        let rows: Vec<Vec<f32>> = (0..3).map(|unit| numbers(900, 10 + unit)).collect();
        let activations = Activations::from_rows(0, "h", &rows);
        let labels: Vec<f32> = numbers(900, 4).iter().map(|value| f32::from(*value < 0.3)).collect();
        let values = numbers(900, 5);
        let tokens = 100..900;
        let targets = [Target::new(Kind::Binary, &labels[100..]), Target::new(Kind::Number, &values[100..])];
        let scores = score_all(&activations, tokens.clone(), &targets, &[0, 37, 799], |_| {});
        for unit in 0..3 {
            let codes: Vec<f32> =
                activations.codes(unit)[tokens.clone()].iter().map(|&code| f32::from(code)).collect();
            for (index, target) in targets.iter().enumerate() {
                for (place, shift) in [0, 0, 37, 799].into_iter().enumerate() {
                    let mut turned = target.clone();
                    turned.values.rotate_left(shift);
                    let expected = turned.score_series(&codes);
                    let found = scores[(unit * 2 + index) * 4 + place];
                    assert!((found - expected).abs() < 1e-5, "{unit} {index} {shift}: {found} {expected}");
                }
            }
        }
    }
}
