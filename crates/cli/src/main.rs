//! The `carousel` command.
//!
//! Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 failed, 2 bad usage.

mod bench;
mod eval;
mod forecast;
mod inspect;
mod lines;
mod output;
mod predict;
mod prepare;
mod progress;
mod report;
mod sample;
mod search;
mod sources;
mod train;
mod translate;
mod wording;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::str::FromStr;

use carousel::stepper::StepPrecision;
use carousel_kernels::MAX_THREADS;
use clap::{Args, Parser, Subcommand, ValueEnum};

const OVERVIEW: &str = "\
Examples:
  carousel train                             a small model of built-in text
  carousel train --data my.txt               the same model of your own text
  carousel sample runs/lm-001 --prompt 'fn ' let it write
  carousel eval runs/lm-001 --data other.txt measure it
  carousel train classify --data reviews.tsv give texts one of several classes
  carousel train tag --data train.conll      a label for every word
  carousel predict runs/classify-001 < lines the classes of lines of text
  carousel train caption --data pictures.tsv write about images
  carousel train translate --data pairs.tsv  from one language into another
  carousel translate runs/translate-001 < in translate lines
  carousel train forecast --data load.csv    the next steps of series
  carousel inspect cells runs/lm-001 --data other.txt
                                             see what its units follow
  carousel bench layer --shape 64,32,256     time this machine

Results go to stdout, messages and progress to stderr. With --json the last
line of stdout is one JSON object. Exit status: 0 done, 1 failed, 2 bad usage.
`carousel help train` says more about training.";

/// Recurrent neural networks: train them, measure them, look inside
#[derive(Parser)]
#[command(name = "carousel", version, after_help = OVERVIEW)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Sample(sample::SampleArgs),
    Predict(predict::PredictArgs),
    Translate(translate::TranslateArgs),
    Prepare(prepare::PrepareArgs),
    Inspect(inspect::InspectArgs),
    Bench(bench::BenchArgs),
}

/// Where and how a verb computes.
#[derive(Args)]
struct MachineArgs {
    /// Threads to compute with [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true, help_heading = "Machine")]
    threads: Option<usize>,

    /// Device to compute on; only cpu so far
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "cpu",
        hide_possible_values = true,
        help_heading = "Machine"
    )]
    device: Device,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
}

fn threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX_THREADS}"))
}

/// A whole number from 0.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number from 0".to_owned())
}

/// What a verb that runs a model keeps the recurrent weights in.
#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    /// 32-bit floats, as they were trained
    F32,
    /// 8-bit integers with a scale a row: a quarter of the memory, nearly the same loss
    Int8,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }

    fn step(self) -> StepPrecision {
        match self {
            Precision::F32 => StepPrecision::F32,
            Precision::Int8 => StepPrecision::Int8,
        }
    }
}

impl MachineArgs {
    fn apply(&self) {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS);
        match self.device {
            Device::Cpu => carousel_kernels::set_threads(self.threads.unwrap_or_else(cores)),
        }
    }
}

/// What was asked for cannot be meant: exit status 2 instead of 1.
#[derive(Debug)]
struct BadUsage(String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsage {}

impl BadUsage {
    fn from(error: impl std::fmt::Display) -> BadUsage {
        BadUsage(error.to_string())
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Train(args) => train::run(&args),
        Verb::Eval(args) => eval::run(&args),
        Verb::Sample(args) => sample::run(&args),
        Verb::Predict(args) => predict::run(&args),
        Verb::Translate(args) => translate::run(&args),
        Verb::Prepare(args) => prepare::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::message(format_args!("error: {}", explain(&error)));
            ExitCode::from(if error.is::<BadUsage>() { 2 } else { 1 })
        }
    }
}

/// The error and its causes in one line. Library errors quote their cause already: it is not said twice.
fn explain(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
