//! `carousel bench`: times layers, single steps, whole training steps and beam search on this machine.

mod layer;
mod model;
mod step;
mod timing;
mod translate;

use carousel::cell::{Activation, Cell, Reset};
use carousel::recipe::Recipe;
use carousel_kernels::Level;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::machine::MachineArgs;
use crate::output::{self, Form};
use crate::system;
use crate::usage::BadUsage;
use timing::{Timing, timed};

const EXAMPLES: &str = "\
Examples:
  carousel bench layer --cell lstm --shape 64,32,256 --mode train
  carousel bench layer --cell gru --shape 500,32,64 --lengths uniform
  carousel bench step --hidden 512
  carousel bench model recipes/ptb-small.toml --set model.hidden=650
  carousel bench translate --mode decode

A shape is T,B,H: time steps, batch, hidden units. The share of peak compares
with what the processor's multiply-add units reach here and now, with as many
threads and at the same instruction level; it is measured first. bench/README.md
says how to put other libraries beside it.";

/// Time layers, steps and training on this machine
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Layer(layer::LayerArgs),
    Step(step::StepArgs),
    Model(model::ModelArgs),
    Translate(translate::TranslateArgs),
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Layer(args) => layer::run(args),
        What::Step(args) => step::run(args),
        What::Model(args) => model::run(args),
        What::Translate(args) => translate::run(args),
    }
}

/// How every bench measures.
#[derive(Args)]
struct MeasureArgs {
    /// Seconds to measure for
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds, allow_negative_numbers = true)]
    seconds: f64,

    /// Where the random values start [default: 1]
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<u64>, allow_negative_numbers = true)]
    seed: Option<u64>,

    /// scalar, avx2 or avx512 [default: the best]
    #[arg(long, value_enum, hide_possible_values = true, help_heading = "Machine")]
    #[arg(value_name = "LEVEL")]
    level: Option<LevelName>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| *seconds >= 0.0 && *seconds <= 3600.0)
        .ok_or("expected a number of seconds from 0 to 3600".into())
}

/// A whole number from 1 to 65536, as recipes take them.
fn size(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size| (1..=65536).contains(size))
        .ok_or("expected a whole number from 1 to 65536".into())
}

impl MeasureArgs {
    fn seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }

    /// Sets threads and level for the whole process.
    fn apply(&self) -> anyhow::Result<()> {
        self.machine.apply();
        if let Some(level) = self.level
            && !level.level().force()
        {
            let available: Vec<&str> = Level::available().iter().map(|level| name(*level)).collect();
            let message = format!(
                "--level {} is not on this processor; it has {}",
                name(level.level()),
                available.join(", ")
            );
            return Err(BadUsage(message).into());
        }
        Ok(())
    }
}

/// An instruction level as it is written.
#[derive(Clone, Copy, ValueEnum)]
enum LevelName {
    Scalar,
    Avx2,
    Avx512,
}

impl LevelName {
    fn level(self) -> Level {
        match self {
            LevelName::Scalar => Level::Scalar,
            LevelName::Avx2 => Level::Avx2,
            LevelName::Avx512 => Level::Avx512,
        }
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Scalar => "scalar",
        Level::Avx2 => "avx2",
        Level::Avx512 => "avx512",
    }
}

/// A cell with its variant.
#[derive(Clone, Copy, ValueEnum)]
enum CellName {
    Lstm,
    /// Reset gate after the recurrent product, as PyTorch
    Gru,
    /// Reset gate before the recurrent product
    GruBefore,
    /// tanh
    Rnn,
    /// ReLU
    RnnRelu,
}

impl CellName {
    fn cell(self) -> Cell {
        match self {
            CellName::Lstm => Cell::Lstm,
            CellName::Gru => Cell::Gru(Reset::After),
            CellName::GruBefore => Cell::Gru(Reset::Before),
            CellName::Rnn => Cell::Rnn(Activation::Tanh),
            CellName::RnnRelu => Cell::Rnn(Activation::Relu),
        }
    }

    /// As it is given.
    fn name(self) -> &'static str {
        match self {
            CellName::Lstm => "lstm",
            CellName::Gru => "gru",
            CellName::GruBefore => "gru-before",
            CellName::Rnn => "rnn",
            CellName::RnnRelu => "rnn-relu",
        }
    }
}

/// Multiply-adds of a stack's weights at one step of one sequence, as many as there are weights: `G·H·(I + H)` a layer
/// and direction.
pub(crate) fn multiply_adds(
    cell: Cell,
    input: usize,
    hidden: usize,
    layers: usize,
    directions: usize,
) -> f64 {
    let width = |layer: usize| if layer == 0 { input } else { hidden * directions };
    let rows = (cell.gates() * hidden * directions) as f64;
    (0..layers).map(|layer| rows * (width(layer) + hidden) as f64).sum()
}

/// What was measured, and how it is told.
struct Measured<'a> {
    args: &'a MeasureArgs,
    /// One line that says what ran.
    title: String,
    /// Lines between the title and the times: name and value.
    facts: Vec<(&'static str, String)>,
    /// What the JSON line says about what ran.
    fields: Value,
    timing: Timing,
    /// Floating point operations of one repetition.
    operations: f64,
    /// What a repetition yields a second: name, unit, how many one repetition has.
    rates: Vec<(&'static str, &'static str, f64)>,
    /// A piece of the repetition that was timed by itself: name, seconds.
    part: Option<(&'static str, f64)>,
}

impl Measured<'_> {
    /// A table, or one JSON line.
    fn print(self, peak: f64) -> anyhow::Result<()> {
        let Timing { median, fastest, slowest, repetitions } = self.timing;
        let gflops = self.operations / median / 1e9;
        let share = gflops / peak;
        let (threads, level) = (carousel_kernels::threads(), name(Level::current()));
        let processor = system::processor();
        if Form::from_flag(self.args.json) == Form::Json {
            let mut line = Map::new();
            line.extend(self.fields.as_object().cloned().unwrap_or_default());
            let measured = json!({
                "milliseconds": median * 1e3,
                "min_milliseconds": fastest * 1e3,
                "max_milliseconds": slowest * 1e3,
                "repetitions": repetitions,
                "gflops": gflops,
                "peak_gflops": peak,
                "share_of_peak": share,
                "threads": threads,
                "level": level,
                "processor": processor,
                "peak_memory_bytes": system::peak_memory(),
                "version": env!("CARGO_PKG_VERSION"),
            });
            line.extend(measured.as_object().cloned().unwrap_or_default());
            for (name, _, count) in &self.rates {
                line.insert(format!("{name}_per_second"), json!(count / median));
            }
            if let Some((name, seconds)) = self.part {
                line.insert(format!("{name}_milliseconds"), json!(seconds * 1e3));
                line.insert(format!("{name}_share"), json!(seconds / median));
            }
            return output::json(&Value::Object(line));
        }
        let mut facts = self.facts;
        facts.push(("machine", format!("{processor}, {} of {level}", counted(threads, "thread"))));
        facts.push((
            "time",
            format!(
                "{} ms, the median of {} ({} to {})",
                figures(median * 1e3),
                counted(repetitions, "repetition"),
                figures(fastest * 1e3),
                figures(slowest * 1e3)
            ),
        ));
        facts.push((
            "speed",
            format!(
                "{} GFLOP/s, {:.1} % of the FMA peak of {}",
                figures(gflops),
                share * 100.0,
                figures(peak)
            ),
        ));
        for (_, unit, count) in &self.rates {
            facts.push(("", format!("{} {unit}", figures(count / median))));
        }
        if let Some((name, seconds)) = self.part {
            facts.push((name, format!("{} ms, {:.1} %", figures(seconds * 1e3), seconds / median * 100.0)));
        }
        let lines = facts.iter().map(|(name, value)| format!("  {name:<9} {value}\n"));
        output::result(&format!("{}\n{}", self.title, lines.collect::<String>()))
    }
}

/// `1 thread`, `2 threads`.
fn counted(count: usize, what: &str) -> String {
    format!("{} {what}{}", carousel::report::thousands(count as u64), if count == 1 { "" } else { "s" })
}

/// Four figures, enough for any timing: `0.1234`, `12.34`, `1234`, `12,345`.
fn figures(number: f64) -> String {
    match number {
        n if n >= 1e3 => carousel::report::thousands(n.round() as u64),
        n if n >= 100.0 => format!("{n:.1}"),
        n if n >= 10.0 => format!("{n:.2}"),
        n if n >= 1.0 => format!("{n:.3}"),
        n => format!("{n:.4}"),
    }
}

/// Refuses cells that project: how much work they are is not counted. `what` is measured.
fn check_counted(recipe: &Recipe, what: &str) -> anyhow::Result<()> {
    if recipe.model.values() != recipe.model.hidden {
        let message =
            format!("bench {what} counts the work of cells that do not project; leave model.projection out");
        return Err(BadUsage(message).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_four() {
        let check = |number: f64, expected: &str| assert_eq!(figures(number), expected);
        check(0.123_44, "0.1234");
        check(2.5, "2.500");
        check(12.346, "12.35");
        check(233.44, "233.4");
        check(123_456.7, "123,457");
    }

    #[test]
    fn multiply_adds_follow_the_sizes() {
        // Weights of two layers: 4·3·(2 + 3) + 4·3·(3 + 3).
        assert_eq!(multiply_adds(Cell::Lstm, 2, 3, 2, 1), 132.0);
        // Both directions: twice 3·3·(2 + 3), then twice 3·3·(6 + 3).
        assert_eq!(multiply_adds(Cell::Gru(Reset::After), 2, 3, 2, 2), 252.0);
    }
}
