//! `carousel sample`: lets a saved run write.

use std::path::PathBuf;

use carousel::decode::sampling::{Sampling, sample_with};
use clap::Args;
use serde_json::json;

use crate::output::{self, Form};
use crate::{MachineArgs, Precision};

const EXAMPLES: &str = "\
Examples:
  carousel sample runs/lm-001
  carousel sample runs/lm-001 --prompt 'pub fn ' --length 1000 --temperature 0.7
  carousel sample runs/lm-001 --top-p 0.9 --seed 7 --json

A token is a byte, a character or a word, as the run was trained. The same
seed gives the same text. The run's best checkpoint writes.";

/// Let a saved run write text
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SampleArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Text to continue; it is printed first
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prompt: String,

    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 500, allow_negative_numbers = true)]
    length: usize,

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
    #[arg(long, value_name = "N", default_value_t = 1)]
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
    let mut prompt = Some(args.prompt.as_str()).filter(|prompt| !prompt.is_empty());
    let mut written = Ok(());
    // The prompt is printed with the first piece of text, once the run has turned out to be readable.
    let mut show = |text: &str| {
        if form == Form::Text && written.is_ok() {
            written = prompt.take().map_or(Ok(()), output::generated).and_then(|()| output::generated(text));
        }
    };
    let text =
        sample_with(&args.run, args.precision.step(), &args.prompt, args.length, &sampling, &mut show)?;
    written?;
    match form {
        Form::Json => output::json(&json!({
            "run": args.run,
            "prompt": args.prompt,
            "text": text,
            "seed": args.seed,
        })),
        Form::Text if text.ends_with('\n') => Ok(()),
        Form::Text => output::result("\n"),
    }
}
