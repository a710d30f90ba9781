//! `carousel eval`: measures a saved run on text.

use std::path::PathBuf;

use carousel::report::thousands;
use clap::Args;
use serde_json::json;

use crate::MachineArgs;
use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  carousel eval runs/lm-001 --data test.txt
  carousel eval runs/lm-001 --data test.txt --json | jq .perplexity

The run's best checkpoint is measured, over every token of the text.";

/// Measure a saved run on text
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Files and folders to measure on
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    args.machine.apply();
    let documents = carousel::data::read_documents(&args.data)?;
    let measured = carousel::train::evaluate(&args.run, &documents)?;
    match Form::from_flag(args.json) {
        Form::Json => output::json(&json!({
            "run": args.run,
            "tokens": measured.tokens,
            "loss": measured.loss,
            "perplexity": measured.perplexity,
            "bits_per_char": measured.bits_per_char,
            "accuracy": measured.accuracy,
        })),
        Form::Text => {
            let bits =
                measured.bits_per_char.map(|bits| format!("bits/char   {bits:.4}\n")).unwrap_or_default();
            output::result(&format!(
                "tokens      {}\nloss        {:.4} nats/token\nperplexity  {:.4}\n{bits}accuracy    {:.2} %\n",
                thousands(measured.tokens as u64),
                measured.loss,
                measured.perplexity,
                measured.accuracy * 100.0,
            ))
        }
    }
}
