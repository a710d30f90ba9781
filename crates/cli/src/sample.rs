//! `carousel sample`: lets a saved run write.

use std::path::PathBuf;

use carousel::decode::sampling::{Sampling, sample_many};
use clap::Args;
use serde_json::json;

use crate::machine::{MachineArgs, Precision};
use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  carousel sample runs/lm-001
  carousel sample runs/lm-001 --prompt 'pub fn ' --length 1000 --temperature 0.7
  carousel sample runs/lm-001 --top-p 0.9 --seed 7 --json
  carousel sample runs/names --prompt Ma --count 20

A token is a byte, a character or a word, as the run was trained. A run whose
documents are lines (data.documents=lines) writes whole ones. The same seed
gives the same text. The run's best checkpoint writes.";

/// Let a saved run write text
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SampleArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Text to continue; it is printed first
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prompt: String,

    /// Tokens to write, at most
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, default_value_t = 500, allow_negative_numbers = true)]
    length: usize,

    /// Write so many texts, each with a seed of its own
    #[arg(long, value_name = "N", value_parser = top_k, allow_negative_numbers = true)]
    count: Option<usize>,

    /// Low is safe, high wild, 0 the likeliest
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true, value_parser = temperature)]
    temperature: f64,

    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = top_k)]
    top_k: Option<usize>,

    /// Choose among the likeliest that reach probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = top_p)]
    top_p: Option<f64>,

    /// Where the random choices start
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<u64>, allow_negative_numbers = true, default_value_t = 1)]
    seed: u64,

    /// Recurrent weights in f32 or int8
    #[arg(long, value_enum, default_value_t = Precision::F32, hide_possible_values = true)]
    #[arg(value_name = "P")]
    precision: Precision,

    /// Print one JSON object, with the text in it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

fn temperature(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
        .ok_or("expected a number from 0".into())
}

fn top_k(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or("expected a whole number from 1".into())
}

fn top_p(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share: &f64| *share > 0.0 && *share <= 1.0)
        .ok_or("expected a number above 0, up to 1".into())
}

pub(crate) fn run(args: &SampleArgs) -> anyhow::Result<()> {
    args.machine.apply();
    let form = Form::from_flag(args.json);
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut written = Ok(());
    // The prompt is printed with the first piece of a text, once the run has turned out to be readable.
    let mut begun = 0;
    let mut ends = true;
    let mut show = |number: usize, text: &str| {
        if form == Form::Json || written.is_err() {
            return;
        }
        if number >= begun {
            let between = if number > 0 && !ends { "\n" } else { "" };
            written = output::generated(&format!("{between}{}", args.prompt));
            begun = number + 1;
        }
        if written.is_ok() {
            written = output::generated(text);
        }
        ends = text.ends_with('\n');
    };
    let extent = [args.count.unwrap_or(1), args.length];
    let texts = sample_many(&args.run, args.precision.step(), &args.prompt, extent, &sampling, &mut show)?;
    written?;
    match form {
        Form::Json => {
            let mut line = json!({"run": args.run, "prompt": args.prompt, "seed": args.seed});
            match args.count {
                Some(_) => line["texts"] = json!(texts),
                None => line["text"] = json!(texts.first()),
            }
            output::json(&line)
        }
        Form::Text if ends && begun > 0 => Ok(()),
        Form::Text => output::result("\n"),
    }
}
