//! What normalisation does to training: three questions that courses ask, on data made here.
//!
//!     cargo run --release --example normalization_study                               # tables, about three minutes
//!     cargo run --release --example normalization_study -- docs/normalization.svg     # and the picture
//!     cargo run --release --example normalization_study -- quick                      # small nets, some seconds
//!
//! 1. What the last hidden layer's non-linearity is given while the layers below it learn: the internal covariate
//!    shift (Ioffe and Szegedy 2015).
//! 2. Accuracy against the size of a batch: statistics of few examples are noise, and of one there are none.
//! 3. Accuracy on sequences longer than those learned from, where steps have statistics of their own.

use std::fmt::Write as _;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use carousel::batch_norm::BatchNorm;
use carousel::cell::{Cell, CellOptions};
use carousel::init::Initializer;
use carousel::models::classifier::{Classifier, ClassifierConfig};
use carousel::models::dense::{DenseActivation, DenseConfig, Norm};
use carousel::models::reader::{Body, RecurrenceConfig, StepKind, Steps};
use carousel::parameters::{NamedParameters, NamedTensor};
use carousel::ragged::Batch;
use carousel::recipe::{Recipe, Task};
use carousel::regularize::Noise;
use carousel::slices::with_slice;
use carousel::train::Optimizer;

/// Numbers of an example, and classes.
const INPUT: usize = 16;
const CLASSES: usize = 5;
const LAYERS: usize = 4;
const HIDDEN: usize = 32;
const EPSILON: f32 = 1e-5;

const NORMS: [(&str, Norm); 3] = [("none", Norm::None), ("batch", Norm::Batch), ("layer", Norm::Layer)];

/// How much is done.
struct Size {
    /// Examples to learn from, and the same number to measure on.
    examples: usize,
    passes: usize,
    batches: &'static [usize],
    /// Steps of the sequences to learn from, updates, and multiples of the steps to measure at.
    steps: usize,
    updates: usize,
    longer: &'static [usize],
}

const FULL: Size = Size {
    examples: 2048,
    passes: 4,
    batches: &[1, 2, 4, 8, 16, 32, 64],
    steps: 20,
    updates: 600,
    longer: &[1, 2, 4, 8, 16],
};
const QUICK: Size =
    Size { examples: 256, passes: 4, batches: &[2, 32], steps: 6, updates: 20, longer: &[1, 4] };

/// A curve: its name, and a value at each place.
type Curve = (&'static str, Vec<f64>);

struct Study {
    /// Updates at which the sums of the last hidden layer were looked at, and what was seen under each norm.
    looks: Vec<usize>,
    shifts: Vec<(&'static str, Vec<Look>)>,
    /// Accuracy at each size of a batch.
    batches: Vec<Curve>,
    /// Accuracy at each length.
    lengths: Vec<Curve>,
}

/// What the last hidden layer's non-linearity is given.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Of the first unit, over the examples.
    mean: f64,
    deviation: f64,
    /// The mean over all units.
    variance: f64,
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "quick");
    let size = if quick { QUICK } else { FULL };
    let study = Study::run(&size);
    println!("{}", study.tables(&size));
    match arguments.iter().find(|argument| *argument != "quick") {
        Some(path) => std::fs::write(path, study.picture(&size)),
        None => Ok(()),
    }
}

impl Study {
    fn run(size: &Size) -> Study {
        let (train, test) = (Examples::new(size.examples, 1), Examples::new(size.examples, 2));
        let looks: Vec<usize> =
            std::iter::successors(Some(1), |at| Some(at * 2)).take_while(|&at| at <= 256).collect();
        let shifts = NORMS.map(|(name, norm)| (name, shift(norm, &train, &test, &looks)));
        let batches = NORMS.map(|(name, norm)| {
            let accuracy = |&batch: &usize| {
                let mut net = Net::new(dense(norm));
                (0..size.passes).for_each(|pass| net.learn(&train, batch, pass));
                net.accuracy(&test)
            };
            (name, size.batches.iter().map(accuracy).collect())
        });
        let lengths = recurrences(size.steps).map(|(name, recurrence)| {
            let mut net = Net::new(ClassifierConfig::new(StepKind::Numbers(1), recurrence, 2));
            (0..size.updates).for_each(|update| net.step(&Examples::sums(32, size.steps, update as u64)));
            let accuracy = |times: &usize| net.accuracy(&Examples::sums(500, size.steps * times, 1 << 40));
            (name, size.longer.iter().map(accuracy).collect())
        });
        Study { looks, shifts: shifts.into(), batches: batches.into(), lengths: lengths.into() }
    }
}

fn dense(norm: Norm) -> ClassifierConfig {
    let (input, hidden, layers, activation) = (INPUT, HIDDEN, LAYERS, DenseActivation::Tanh);
    let body = Body::Dense(DenseConfig { input, hidden, layers, activation, norm });
    ClassifierConfig { seed: 3, ..ClassifierConfig::new(StepKind::Numbers(INPUT), body, CLASSES) }
}

/// The recurrent nets that are compared.
fn recurrences(steps: usize) -> [(&'static str, RecurrenceConfig); 4] {
    let plain = RecurrenceConfig::new(Cell::Lstm, 16);
    let options = CellOptions { norm: true, ..CellOptions::PLAIN };
    [
        ("none", plain),
        ("batch-input", RecurrenceConfig { cell: BatchNorm::Input.of(Cell::Lstm), ..plain }),
        (
            "batch-recurrent",
            RecurrenceConfig { cell: BatchNorm::Recurrent { steps }.of(Cell::Lstm), ..plain },
        ),
        ("layer", RecurrenceConfig { options, ..plain }),
    ]
}

/// Sequences of equal length, all their first steps first, and their classes.
struct Examples {
    x: Vec<f32>,
    classes: Vec<u32>,
    steps: usize,
}

impl Examples {
    /// One step of [`INPUT`] numbers each. Their scales differ a hundredfold, and what class they are a small random
    /// net has said.
    fn new(count: usize, seed: u64) -> Examples {
        let teacher = &mut Initializer::new(7);
        let scales: Vec<f32> = teacher.uniform(INPUT, 1.0).iter().map(|power| 10f32.powf(*power)).collect();
        let centres = teacher.normal(INPUT);
        let (inner, outer) = (teacher.normal(INPUT * INPUT), teacher.normal(CLASSES * INPUT));
        let random = &mut Initializer::new(seed);
        let (mut x, mut classes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let numbers = random.normal(INPUT);
            let hidden = product(&inner, &numbers).map(|sum| (0.5 * sum).tanh()).collect::<Vec<_>>();
            let scores = product(&outer, &hidden).enumerate();
            classes.push(scores.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(class, _)| class as u32));
            let placed = numbers.iter().zip(&scales).zip(&centres);
            x.extend(placed.map(|((number, scale), centre)| (number + centre) * scale));
        }
        Examples { x, classes, steps: 1 }
    }

    /// Noise, and whether its sum is above zero.
    fn sums(count: usize, steps: usize, seed: u64) -> Examples {
        let x = Initializer::new(seed).normal(count * steps);
        let sum = |sequence: usize| x.iter().skip(sequence).step_by(count).sum::<f32>();
        let classes = (0..count).map(|sequence| u32::from(sum(sequence) > 0.0)).collect();
        Examples { x, classes, steps }
    }

    /// Of one step: those from a place on.
    fn part(&self, from: usize, count: usize) -> Examples {
        let x = self.x[from * INPUT..(from + count) * INPUT].to_vec();
        Examples { x, classes: self.classes[from..from + count].to_vec(), steps: 1 }
    }
}

/// `W x`.
fn product<'a>(weight: &'a [f32], x: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    weight.chunks_exact(x.len()).map(move |row| row.iter().zip(x).map(|(weight, x)| weight * x).sum())
}

/// A classifier and how it learns.
struct Net {
    model: Classifier,
    optimizer: Optimizer,
    updates: u64,
}

impl Net {
    fn new(config: ClassifierConfig) -> Net {
        let model = config.init(&Device::default().autodiff()).expect("no size is zero");
        let optimizer = Optimizer::new(&Recipe::default_for(Task::Classify).train, &model);
        Net { model, optimizer, updates: 0 }
    }

    /// One update.
    fn step(&mut self, examples: &Examples) {
        let batch = Arc::new(Batch::full(examples.classes.len(), examples.steps));
        let noise = Noise::new(&[self.updates]);
        let steps = Steps::Numbers(&examples.x);
        let loss = self.model.loss(steps, &batch, &examples.classes, None, Some(noise));
        let gradients = self.model.take_gradients(&mut loss.backward());
        self.optimizer.update(&mut self.model, &gradients, 0.005);
        self.updates += 1;
    }

    /// A pass over examples of one step, which begins elsewhere each time.
    fn learn(&mut self, examples: &Examples, batch: usize, pass: usize) {
        let starts = examples.classes.len() / batch;
        (0..starts).for_each(|k| self.step(&examples.part((k + pass) % starts * batch, batch)));
    }

    fn accuracy(&self, examples: &Examples) -> f64 {
        let batch = Arc::new(Batch::full(examples.classes.len(), examples.steps));
        let rows = self.model.valid().probabilities(Steps::Numbers(&examples.x), &batch);
        let classes = rows.dims()[1];
        let right = with_slice(&rows, |rows| {
            let own = rows.chunks_exact(classes).zip(&examples.classes);
            own.filter(|(row, class)| row.iter().all(|other| *other <= row[**class as usize])).count()
        });
        right as f64 / examples.classes.len() as f64
    }
}

/// Trains feed-forward layers, and looks at what their last non-linearity is given on the same examples again and
/// again.
fn shift(norm: Norm, train: &Examples, probe: &Examples, looks: &[usize]) -> Vec<Look> {
    let mut net = Net::new(dense(norm));
    let starts = train.classes.len() / 32;
    let mut found = Vec::new();
    for update in 1..=looks.iter().copied().max().unwrap_or(0) {
        net.step(&train.part(update % starts * 32, 32));
        if !looks.contains(&update) {
            continue;
        }
        let sums = given(&net.model, norm, &probe.x);
        let count = (sums.len() / HIDDEN) as f64;
        let of_unit = |unit: usize| sums.iter().skip(unit).step_by(HIDDEN).map(|&sum| f64::from(sum));
        let means: Vec<f64> = (0..HIDDEN).map(|unit| of_unit(unit).sum::<f64>() / count).collect();
        let variance =
            |unit: usize| of_unit(unit).map(|sum| (sum - means[unit]).powi(2)).sum::<f64>() / count;
        found.push(Look {
            mean: means[0],
            deviation: variance(0).sqrt(),
            variance: (0..HIDDEN).map(variance).sum::<f64>() / HIDDEN as f64,
        });
    }
    found
}

/// What the last hidden layer's non-linearity is given, `[N, H]`, by the formulas: a net in use, with running
/// statistics.
fn given(model: &Classifier, norm: Norm, x: &[f32]) -> Vec<f32> {
    let tensors = model.named_tensors();
    let of = |layer: usize, name: &str| -> &[f32] {
        let own = |tensor: &&NamedTensor| tensor.name == format!("dense.{layer}.{name}");
        tensors.iter().find(own).map_or(&[], |tensor| &tensor.values)
    };
    let row = |x: &[f32]| {
        (0..LAYERS).fold(x.to_vec(), |x, layer| {
            let x: Vec<f32> = if layer == 0 { x } else { x.into_iter().map(f32::tanh).collect() };
            let biased =
                product(of(layer, "weight"), &x).zip(of(layer, "bias")).map(|(sum, bias)| sum + bias);
            let sums: Vec<f32> = biased.collect();
            let mean = sums.iter().sum::<f32>() / HIDDEN as f32;
            let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f32>() / HIDDEN as f32;
            let unit = |unit: usize| {
                let (mean, variance) = match norm {
                    Norm::None => return sums[unit],
                    Norm::Layer => (mean, variance),
                    Norm::Batch => (of(layer, "running_mean")[unit], of(layer, "running_var")[unit]),
                };
                let normal = (sums[unit] - mean) / (variance + EPSILON).sqrt();
                normal * of(layer, "scale")[unit] + of(layer, "shift")[unit]
            };
            (0..HIDDEN).map(unit).collect()
        })
    };
    x.chunks_exact(INPUT).flat_map(row).collect()
}

impl Study {
    fn tables(&self, size: &Size) -> String {
        let mut text =
            format!("What unit 0 of layer {LAYERS} is given, mean ± deviation, by update\n{:<12}", "");
        // Every other look, so that a line has eighty columns.
        let shown: Vec<usize> = (0..self.looks.len()).step_by(2).collect();
        shown.iter().for_each(|&at| _ = write!(text, "{:>13}", self.looks[at]));
        for (name, looks) in &self.shifts {
            _ = write!(text, "\n  {name:<10}");
            for Look { mean, deviation, .. } in shown.iter().map(|&at| looks[at]) {
                _ = write!(text, "{:>13}", format!("{mean:.2} ± {deviation:.2}"));
            }
        }
        text += "\nall units: mean variance";
        for (name, looks) in &self.shifts {
            _ = write!(text, "\n  {name:<10}");
            shown.iter().for_each(|&at| _ = write!(text, "{:>13.2}", looks[at].variance));
        }
        let mut table = |title: String, heads: Vec<usize>, curves: &[Curve]| {
            _ = write!(text, "\n\n{title}\n{:<17}", "");
            heads.iter().for_each(|head| _ = write!(text, "{head:>8}"));
            for (name, values) in curves {
                _ = write!(text, "\n  {name:<15}");
                values.iter().for_each(|value| _ = write!(text, "{:>8}", format!("{:.1}", 100.0 * value)));
            }
        };
        let passes = size.passes;
        table(
            format!("Accuracy in % after {passes} passes, by examples in a batch"),
            size.batches.to_vec(),
            &self.batches,
        );
        let lengths = size.longer.iter().map(|times| times * size.steps).collect();
        let steps = size.steps;
        table(
            format!("Accuracy in % of an LSTM that learned {steps} steps, by steps"),
            lengths,
            &self.lengths,
        );
        text
    }

    /// Five cards: a unit's sums under each norm, accuracy by batch, accuracy by length.
    fn picture(&self, size: &Size) -> String {
        let mut svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 560\" \
                       font-family=\"sans-serif\" font-size=\"12\">\n\
                       <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
            .to_owned();
        let most = self.shifts.iter().flat_map(|(_, looks)| looks);
        let most = most.map(|look| look.mean.abs() + look.deviation).fold(1.0, f64::max).ceil();
        let updates: Vec<String> = self.looks.iter().map(usize::to_string).collect();
        for (place, (name, looks)) in self.shifts.iter().enumerate() {
            let card = Card::new((place as f64 * 290.0 + 50.0, 40.0), (225.0, 180.0), (-most, most));
            card.frame(&mut svg, &format!("{name}: what a unit is given"), "update", &updates);
            let edge = |sign: f64| looks.iter().map(move |look| look.mean + sign * look.deviation);
            let there = card.path(&edge(1.0).collect::<Vec<_>>());
            let back: Vec<String> = card.points(&edge(-1.0).collect::<Vec<_>>()).into_iter().rev().collect();
            let (fill, line) = (COLOURS[place].0, card.path(&edge(0.0).collect::<Vec<_>>()));
            _ = writeln!(
                svg,
                "<path d=\"{there}L{}Z\" fill=\"{fill}\" opacity=\"0.25\"/>\n\
                 <path d=\"{line}\" fill=\"none\" stroke=\"{fill}\" stroke-width=\"2.5\"/>",
                back.join("L")
            );
        }
        let batches: Vec<String> = size.batches.iter().map(usize::to_string).collect();
        let lengths: Vec<String> = size.longer.iter().map(|times| (times * size.steps).to_string()).collect();
        for (left, title, axis, heads, curves) in [
            (50.0, "accuracy by batch size", "examples in a batch", batches, &self.batches),
            (500.0, "accuracy beyond the trained length", "steps", lengths, &self.lengths),
        ] {
            let least = curves.iter().flat_map(|(_, values)| values).copied().fold(1.0, f64::min);
            let card = Card::new((left, 310.0), (260.0, 180.0), ((least * 10.0).floor() / 10.0, 1.0));
            card.frame(&mut svg, title, axis, &heads);
            let mut labels: Vec<(f64, &str, &str)> = Vec::new();
            for (name, values) in curves {
                let of_norm = |(known, _): &(&str, Norm)| known == name;
                // The norms of cells follow those of layers.
                let place =
                    NORMS.iter().position(of_norm).unwrap_or(if *name == "batch-input" { 3 } else { 1 });
                let (colour, dash) = COLOURS[place];
                let path = card.path(values);
                _ = writeln!(
                    svg,
                    "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
                     stroke-dasharray=\"{dash}\"/>"
                );
                labels.push((card.height(values.last().copied().unwrap_or_default()), name, colour));
            }
            labels.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut free = 0.0;
            for (y, name, colour) in labels {
                // Beside its line's end, but not on another label.
                let y = y.max(free);
                free = y + 14.0;
                let (x, y) = (left + card.size.0 + 6.0, y + 4.0);
                _ = writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>");
            }
        }
        svg + "</svg>\n"
    }
}

/// Line colours that the colour-blind tell apart, and dashes.
const COLOURS: [(&str, &str); 4] =
    [("#555", "2 3"), ("#d55e00", "none"), ("#0072b2", "7 3"), ("#009e73", "4 2")];

/// A part of the picture with axes of its own.
struct Card {
    corner: (f64, f64),
    size: (f64, f64),
    range: (f64, f64),
}

impl Card {
    fn new(corner: (f64, f64), size: (f64, f64), range: (f64, f64)) -> Card {
        Card { corner, size, range }
    }

    /// Equally far apart, from edge to edge.
    fn points(&self, values: &[f64]) -> Vec<String> {
        let x = |at: usize| self.corner.0 + self.size.0 * at as f64 / (values.len() - 1).max(1) as f64;
        values
            .iter()
            .enumerate()
            .map(|(at, &value)| format!("{:.1} {:.1}", x(at), self.height(value)))
            .collect()
    }

    fn height(&self, value: f64) -> f64 {
        let (from, to) = self.range;
        self.corner.1 + self.size.1 * (to - value) / (to - from)
    }

    fn path(&self, values: &[f64]) -> String {
        format!("M{}", self.points(values).join("L"))
    }

    fn frame(&self, svg: &mut String, title: &str, axis: &str, heads: &[String]) {
        let ((left, top), (width, height), (from, to)) = (self.corner, self.size, self.range);
        let below = top + height;
        _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" font-size=\"14\">{title}</text>\n\
             <path d=\"M{left} {top}V{below}H{}\" fill=\"none\" stroke=\"#888\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{axis}</text>",
            top - 12.0,
            left + width,
            left + width / 2.0,
            below + 34.0
        );
        for value in [from, (from + to) / 2.0, to] {
            let y = self.height(value) + 4.0;
            _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{value}</text>", left - 6.0);
        }
        for (at, head) in heads.iter().enumerate() {
            let x = left + width * at as f64 / (heads.len() - 1).max(1) as f64;
            _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{head}</text>",
                below + 16.0
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formulas are the model's: what they give, tanh and the output layer make its probabilities of.
    #[test]
    fn what_is_looked_at_is_what_the_net_computes() {
        let examples = Examples::new(64, 1);
        for (name, norm) in NORMS {
            let mut net = Net::new(dense(norm));
            (0..3).for_each(|pass| net.learn(&examples, 16, pass));
            let tensors = net.model.named_tensors();
            let of =
                |name: &str| &tensors.iter().find(|own| own.name == name).expect("it is there").values[..];
            let batch = Arc::new(Batch::full(64, 1));
            let found = net.model.valid().probabilities(Steps::Numbers(&examples.x), &batch);
            let found = with_slice(&found, <[f32]>::to_vec);
            for (sums, found) in
                given(&net.model, norm, &examples.x).chunks(HIDDEN).zip(found.chunks(CLASSES))
            {
                let hidden: Vec<f32> = sums.iter().map(|sum| sum.tanh()).collect();
                let scores = product(of("output.weight"), &hidden).zip(of("output.bias"));
                let raised: Vec<f32> = scores.map(|(score, bias)| (score + bias).exp()).collect();
                let sum: f32 = raised.iter().sum();
                for (found, raised) in found.iter().zip(raised) {
                    assert!((found - raised / sum).abs() < 1e-4, "{name}: {found}, not {}", raised / sum);
                }
            }
        }
    }

    #[test]
    fn the_study_says_what_the_course_says() {
        let study = Study::run(&QUICK);
        let growth = |name: &str| {
            let (_, looks) = study.shifts.iter().find(|(known, _)| *known == name).expect("it was looked at");
            looks[looks.len() - 1].variance / looks[0].variance
        };
        let (none, batch) = (growth("none"), growth("batch"));
        assert!(none > 10.0 * batch, "sums of a plain net spread: {none}, {batch} where they are normalised");
        let curve = |curves: &[Curve], name| {
            curves.iter().find(|(known, _)| *known == name).expect("it was measured").1.clone()
        };
        let batch = curve(&study.batches, "batch");
        assert!(batch[1] > batch[0], "two examples are few: {batch:?}");
        let all = [&study.batches[..], &study.lengths].concat();
        assert!(all.iter().flat_map(|(_, values)| values).all(|value| (0.0..=1.0).contains(value)));
        let tables = study.tables(&QUICK);
        assert!(tables.lines().all(|line| line.chars().count() <= 80), "{tables}");
        assert_eq!(study.picture(&QUICK).matches("<path").count(), 3 * 3 + 2 + 3 + 4);
    }
}
