//! The `carousel` command.
//!
//! Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 failed, 2 bad usage.

mod bench;
mod eval;
mod forecast;
mod inspect;
mod lines;
mod machine;
mod measure;
mod output;
mod predict;
mod prepare;
mod progress;
mod recipes;
mod report;
mod sample;
mod search;
mod sources;
mod system;
mod train;
mod translate;
mod usage;
mod wording;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::usage::BadUsage;

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
