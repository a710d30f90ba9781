//! Searches all units for properties of a text.
//!
//! The text is cut into two halves. The first chooses the unit, the second says how good it is, so the best of
//! many units does not look better than it is. What chance gives is measured in the second half too: the
//! property is turned round against the text by many tokens, which keeps the rhythm of both and breaks their
//! bond, and the best of *all* units is taken. That is the correction for how many units were searched: a find
//! has to beat what the whole net reaches by accident. Beside it stands what the last three tokens alone tell.

use std::collections::HashMap;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::activations::{Activations, CODES, Unit};
use super::properties::{Kind, Property};
use super::score::{Target, oriented, products, score_all, score_of_strength, sign, strength};
use super::text::Text;

/// Tokens that the last-tokens predictor looks at.
const LAST: usize = 3;
/// Sizes of the sparse probes.
const PROBES: [usize; 4] = [1, 2, 5, 10];
/// Tokens of the first half that probes are fitted on.
const PROBE_TOKENS: usize = 1 << 17;
/// Bins of a unit and of a number when their mutual information is taken.
const UNIT_BINS: usize = 64;
const NUMBER_BINS: usize = 8;

/// How a search is done.
#[derive(Clone, Debug)]
pub struct Search {
    /// Shifts that chance is measured by. A find beats all of them, so the level of a false find is
    /// `1 / (shifts + 1)` for each property.
    pub shifts: usize,
    /// Units listed for each property, best first.
    pub list: usize,
    /// Where the random shifts start.
    pub seed: u64,
}

impl Default for Search {
    fn default() -> Search {
        Search { shifts: 99, list: 3, seed: 1 }
    }
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct CellSearch {
    /// Tokens in the half that chose and in the half that is reported.
    pub tokens: [usize; 2],
    /// Units' signals that were searched.
    pub searched: usize,
    /// Level of a false find, for each property.
    pub level: f64,
    /// One for each property, in the order they were given.
    pub findings: Vec<Finding>,
    /// Properties that do not vary in one of the halves.
    pub absent: Vec<String>,
}

/// The units that follow one property.
///
/// Scores are areas under the ROC curve for yes/no (0.5 is chance) and rank correlations for numbers (0 is
/// chance), turned so that the first half's score is on the good side; on the second half.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The property.
    pub property: String,
    /// `true` where the scores are rank correlations.
    pub number: bool,
    /// Share of the second half's tokens that have a yes/no property.
    pub share: Option<f64>,
    /// The best units of the first half, best first.
    pub units: Vec<Scored>,
    /// What the best of all units reaches by accident: the middle and the highest of the shifts.
    pub chance: [f64; 2],
    /// What the last three tokens alone reach.
    pub last_three: f64,
    /// Linear probes on ever more units.
    pub probes: Vec<Probe>,
    /// Mutual information of the best unit with the property, in bits, and the property's own entropy. Numbers
    /// are taken in eight bins of equal size.
    pub information: [f64; 2],
    /// The best unit beats all shifts.
    pub found: bool,
}

/// A unit and how well it follows a property.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// The unit.
    pub unit: Unit,
    /// `-1` where low values mean yes, or a high number.
    pub sign: f64,
    /// Score in the half that chose it.
    pub chosen: f64,
    /// Score in the other half.
    pub held_out: f64,
    /// Share of the shifts, this one counted in, whose best unit does as well.
    pub p_value: f64,
}

/// A linear combination of a few units, fitted by least squares on the first half.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// The units, in the order they were taken in (orthogonal matching pursuit).
    pub units: Vec<Unit>,
    /// Score in the second half.
    pub held_out: f64,
}

/// Searches units for properties of the text they were recorded on. `progress` is told the share that is done.
///
/// ```
/// use carousel::lens::{Activations, Property, Search, Text, search};
///
/// // A "net" of two units: one knows whether a quotation is open, one echoes the letter a.
/// let content = "an apple \"or two\" and \"a pear\" by day ".repeat(40);
/// let text = Text::of_characters(&content);
/// let quoted = Property::built_in("double-quotes", &text).expect("it is built in");
/// let echo = text.characters().iter().map(|&c| f32::from(c == 'a')).collect();
/// let activations = Activations::from_rows(0, "h", &[echo, quoted.values.clone()]);
/// let result = search(&activations, &text, &[quoted], &Search::default(), |_| {});
/// let finding = &result.findings[0];
/// assert_eq!(finding.units[0].unit.to_string(), "h_l0[1]");
/// assert!(finding.units[0].held_out > 0.999);
/// assert!(finding.last_three < 1.0);
/// ```
///
/// # Panics
/// When a property or the activations are not of this text.
pub fn search(
    activations: &Activations,
    text: &Text,
    properties: &[Property],
    how: &Search,
    mut progress: impl FnMut(f64),
) -> CellSearch {
    let tokens = text.len();
    assert_eq!(activations.tokens(), tokens, "the activations are of another text");
    let halves = [0..tokens / 2, tokens / 2..tokens];
    let mut absent = Vec::new();
    let mut sought: Vec<Sought<'_>> = Vec::new();
    for property in properties {
        assert_eq!(property.values.len(), tokens, "{} is of another text", property.name);
        let targets =
            halves.each_ref().map(|half| Target::new(property.kind, &property.values[half.clone()]));
        match targets.iter().all(Target::varies) {
            true => sought.push(Sought { property, targets }),
            false => absent.push(property.name.clone()),
        }
    }
    let of_half =
        |half: usize| -> Vec<Target> { sought.iter().map(|sought| sought.targets[half].clone()).collect() };
    let units = activations.units();
    let shifts = shifts(halves[1].len(), how);
    let level = 1.0 / (shifts.len() + 1) as f64;
    let empty = sought.is_empty() || units == 0;
    if empty {
        let findings = Vec::new();
        return CellSearch {
            tokens: halves.map(|half| half.len()),
            searched: units,
            level,
            findings,
            absent,
        };
    }

    let first = score_all(activations, halves[0].clone(), &of_half(0), &[], |share| progress(share * 0.05));
    let second = score_all(activations, halves[1].clone(), &of_half(1), &shifts, |share| {
        progress(0.05 + share * 0.75);
    });
    let last_three = last_tokens(text, &halves, &sought);
    let probes = fit_probes(activations, &halves, &sought, |share| progress(0.8 + share * 0.2));

    let columns = sought.len();
    let each = 1 + shifts.len();
    let findings = sought.iter().zip(last_three).zip(probes).enumerate();
    let findings = findings.map(|(place, ((sought, last_three), probes))| {
        let kind = sought.property.kind;
        let held_out = |unit: usize, shift: usize| second[(unit * columns + place) * each + shift];
        // For every shift, the best of all units.
        let mut accident: Vec<f64> = (1..each)
            .map(|shift| (0..units).map(|unit| strength(kind, held_out(unit, shift))).fold(0.0, f64::max))
            .collect();
        accident.sort_by(f64::total_cmp);
        let mut order: Vec<usize> = (0..units).collect();
        let chosen = |unit: usize| first[unit * columns + place];
        order.sort_by(|&a, &b| strength(kind, chosen(b)).total_cmp(&strength(kind, chosen(a))));
        order.truncate(how.list.max(1));
        let scored: Vec<Scored> = order
            .iter()
            .map(|&unit| {
                let sign = sign(kind, chosen(unit));
                let held_out = oriented(kind, held_out(unit, 0), sign);
                // A unit that turned round does not follow the property, however strongly it does so.
                let own = score_as_strength(kind, held_out);
                let beaten_by = accident.iter().filter(|&&accident| accident >= own).count();
                Scored {
                    unit: activations.unit(unit),
                    sign,
                    chosen: oriented(kind, chosen(unit), sign),
                    held_out,
                    p_value: (1 + beaten_by) as f64 / each as f64,
                }
            })
            .collect();
        let highest = accident.last().copied().unwrap_or_default();
        let middle = accident.get(accident.len() / 2).copied().unwrap_or_default();
        Finding {
            property: sought.property.name.clone(),
            number: kind == Kind::Number,
            share: sought.targets[1].share(),
            chance: [middle, highest].map(|strength| score_of_strength(kind, strength)),
            last_three,
            probes,
            information: information(&activations.codes(order[0])[halves[1].clone()], &sought.targets[1]),
            found: !accident.is_empty() && scored[0].p_value <= level,
            units: scored,
        }
    });
    let findings = findings.collect();
    CellSearch { tokens: halves.map(|half| half.len()), searched: units, level, findings, absent }
}

/// The strength of a score on its good side; negative on the other.
fn score_as_strength(kind: Kind, score: f64) -> f64 {
    match kind {
        Kind::Binary => (score - 0.5) * 2.0,
        Kind::Number => score,
    }
}

/// A property that varies in both halves.
struct Sought<'a> {
    property: &'a Property,
    targets: [Target; 2],
}

/// Distances to turn the second half by: far from nothing, where both still stand next to each other.
fn shifts(tokens: usize, how: &Search) -> Vec<usize> {
    let nearest = tokens / 20;
    let room = tokens.saturating_sub(2 * nearest);
    if room == 0 {
        return Vec::new();
    }
    let mut random = ChaCha8Rng::seed_from_u64(how.seed);
    (0..how.shifts).map(|_| nearest + (random.next_u64() % room as u64) as usize).collect()
}

/// Scores on the second half of what the last tokens predict: the mean of the first half after the same one,
/// two and three tokens, each drawn towards the shorter one's mean by the weight of one token.
fn last_tokens(text: &Text, halves: &[Range<usize>; 2], sought: &[Sought<'_>]) -> Vec<f64> {
    let tokens = text.tokens();
    let mut contexts: Vec<Vec<u32>> = Vec::new();
    let mut sizes = Vec::new();
    for length in 1..=LAST {
        let mut known: HashMap<&[u32], u32> = HashMap::new();
        let ids = (0..tokens.len()).map(|at| {
            let context = &tokens[(at + 1).saturating_sub(length)..=at];
            let next = known.len() as u32;
            *known.entry(context).or_insert(next)
        });
        contexts.push(ids.collect());
        sizes.push(known.len());
    }
    let counts: Vec<Vec<f64>> = contexts
        .iter()
        .zip(&sizes)
        .map(|(ids, &size)| {
            let mut counts = vec![0.0; size];
            ids[halves[0].clone()].iter().for_each(|&id| counts[id as usize] += 1.0);
            counts
        })
        .collect();
    let score = |sought: &Sought<'_>| {
        let values = &sought.targets[0].values;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
        let sums: Vec<Vec<f64>> = contexts
            .iter()
            .zip(&sizes)
            .map(|(ids, &size)| {
                let mut sums = vec![0.0; size];
                for (&id, &value) in ids[halves[0].clone()].iter().zip(values) {
                    sums[id as usize] += f64::from(value);
                }
                sums
            })
            .collect();
        let predicted: Vec<f32> = halves[1]
            .clone()
            .map(|at| {
                let mut prediction = mean;
                for ((ids, sums), counts) in contexts.iter().zip(&sums).zip(&counts) {
                    let id = ids[at] as usize;
                    prediction = (sums[id] + prediction) / (counts[id] + 1.0);
                }
                prediction as f32
            })
            .collect();
        sought.targets[1].score_series(&predicted)
    };
    sought.iter().map(score).collect()
}

/// Sparse linear probes by orthogonal matching pursuit (Pati et al. 1993): again and again the unit that tells
/// most about what is left of the property is taken in, and all weights are fitted anew.
fn fit_probes(
    activations: &Activations,
    halves: &[Range<usize>; 2],
    sought: &[Sought<'_>],
    mut progress: impl FnMut(f64),
) -> Vec<Vec<Probe>> {
    let units = activations.units();
    let tokens = halves[0].start..halves[0].start + halves[0].len().min(PROBE_TOKENS);
    let tables: Vec<[f32; CODES]> = (0..units).map(|unit| standardized(activations, unit, &tokens)).collect();
    let series = |unit: usize, tokens: &Range<usize>| -> Vec<f32> {
        let codes = &activations.codes(unit)[tokens.clone()];
        codes.iter().map(|&code| tables[unit][usize::from(code)]).collect()
    };
    let mut fits: Vec<Fit> = sought
        .iter()
        .map(|sought| {
            let values = &sought.targets[0].values[..tokens.len()];
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let wanted: Vec<f32> = values.iter().map(|value| value - mean).collect();
            Fit { left: wanted.clone(), wanted, units: Vec::new(), series: Vec::new(), weights: Vec::new() }
        })
        .collect();
    let most = PROBES[PROBES.len() - 1].min(units);
    let mut probes: Vec<Vec<Probe>> = sought.iter().map(|_| Vec::new()).collect();
    for size in 1..=most {
        let told = products(
            activations,
            &tokens,
            |unit| &tables[unit],
            fits.len(),
            |column, chunk, to| to.copy_from_slice(&fits[column].left[chunk]),
            &mut |_| {},
        );
        let columns = fits.len();
        for (column, fit) in fits.iter_mut().enumerate() {
            let free = (0..units).filter(|unit| !fit.units.contains(unit));
            let tells = |unit: &usize| told[unit * columns + column].abs();
            if let Some(best) = free.max_by(|a, b| tells(a).total_cmp(&tells(b))) {
                let new = series(best, &tokens);
                fit.add(best, new);
            }
        }
        if PROBES.contains(&size) {
            for ((fit, sought), probes) in fits.iter().zip(sought).zip(&mut probes) {
                let mut predicted = vec![0.0; halves[1].len()];
                for (&unit, &weight) in fit.units.iter().zip(&fit.weights) {
                    let codes = &activations.codes(unit)[halves[1].clone()];
                    for (value, &code) in predicted.iter_mut().zip(codes) {
                        *value += weight as f32 * tables[unit][usize::from(code)];
                    }
                }
                probes.push(Probe {
                    units: fit.units.iter().map(|&unit| activations.unit(unit)).collect(),
                    held_out: sought.targets[1].score_series(&predicted),
                });
            }
        }
        progress(size as f64 / most as f64);
    }
    probes
}

/// A unit's values by code, minus their mean and over their spread; zeros for a unit that does not move.
fn standardized(activations: &Activations, unit: usize, tokens: &Range<usize>) -> [f32; CODES] {
    let (mean, spread) = activations.moments(unit, tokens.clone());
    let mut table = *activations.code_values(unit);
    for value in &mut table {
        *value = if spread > 1e-6 { (*value - mean) / spread } else { 0.0 };
    }
    table
}

/// A least-squares fit that grows.
struct Fit {
    wanted: Vec<f32>,
    left: Vec<f32>,
    units: Vec<usize>,
    series: Vec<Vec<f32>>,
    weights: Vec<f64>,
}

impl Fit {
    fn add(&mut self, unit: usize, series: Vec<f32>) {
        self.units.push(unit);
        self.series.push(series);
        let size = self.series.len();
        let mut matrix = vec![vec![0.0; size + 1]; size];
        for (i, a) in self.series.iter().enumerate() {
            for (j, b) in self.series.iter().enumerate() {
                matrix[i][j] = dot(a, b);
            }
            // A hair of ridge: two units may be equal.
            matrix[i][i] *= 1.0 + 1e-6;
            matrix[i][i] += 1e-9;
            matrix[i][size] = dot(a, &self.wanted);
        }
        self.weights = solve(matrix);
        self.left.copy_from_slice(&self.wanted);
        for (series, &weight) in self.series.iter().zip(&self.weights) {
            for (left, &value) in self.left.iter_mut().zip(series) {
                *left -= weight as f32 * value;
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.chunks(4096)
        .zip(b.chunks(4096))
        .map(|(a, b)| f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()))
        .sum()
}

/// Solves a small positive definite system, the right side in the last column, by elimination.
fn solve(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let size = matrix.len();
    for pivot in 0..size {
        let (above, below) = matrix.split_at_mut(pivot + 1);
        let row = &above[pivot];
        for other in below {
            let factor = other[pivot] / row[pivot];
            for (value, &pivot) in other.iter_mut().zip(row).skip(pivot) {
                *value -= factor * pivot;
            }
        }
    }
    let mut solution = vec![0.0; size];
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * solution[column]).sum();
        solution[row] = (matrix[row][size] - known) / matrix[row][row];
    }
    solution
}

/// Mutual information of a unit's codes with a target, and the target's entropy, in bits. What chance adds is
/// taken off (Miller and Madow 1955).
fn information(codes: &[u8], target: &Target) -> [f64; 2] {
    let bin = |value: f32| match target.kind {
        Kind::Binary => usize::from(value != 0.0),
        Kind::Number => (((value + 0.5) * NUMBER_BINS as f32) as usize).min(NUMBER_BINS - 1),
    };
    let mut joint = vec![[0.0f64; NUMBER_BINS]; UNIT_BINS];
    for (&code, &value) in codes.iter().zip(&target.values) {
        joint[usize::from(code) * UNIT_BINS / CODES][bin(value)] += 1.0;
    }
    let total = codes.len() as f64;
    // Plain entropy in nats, corrected by (occupied bins - 1) / 2n.
    let entropy = |counts: &mut dyn Iterator<Item = f64>| -> f64 {
        let mut occupied = 0.0;
        let mut sum = 0.0;
        for count in counts.filter(|&count| count > 0.0) {
            occupied += 1.0;
            sum -= count / total * (count / total).ln();
        }
        sum + (occupied - 1.0) / (2.0 * total)
    };
    let of_unit = entropy(&mut joint.iter().map(|row| row.iter().sum()));
    let of_target = entropy(&mut (0..NUMBER_BINS).map(|bin| joint.iter().map(|row| row[bin]).sum()));
    let of_both = entropy(&mut joint.iter().flatten().copied());
    let shared = (of_unit + of_target - of_both).clamp(0.0, of_target);
    [shared, of_target].map(|nats| nats / std::f64::consts::LN_2)
}
