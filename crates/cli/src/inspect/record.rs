//! `carousel inspect record`: states and gates as a NumPy archive.

use std::path::PathBuf;

use carousel::lens::{Reading, write_npz};
use carousel::record::Keep;
use clap::Args;
use serde_json::json;

use super::{ReadingArgs, SubjectArgs, Working};
use crate::output::{self, Form};
use crate::usage::BadUsage;

const EXAMPLES: &str = "\
Examples:
  carousel inspect record runs/lm-001 --data code.c --out states.npz
  carousel inspect record runs/lm-001 --data code.c --out c.npz --signals c f \\
      --layers 1 --tokens 10000

In Python: np.load('states.npz')['c_l1'] is an array [tokens, units], and
['tokens'] has the ids of what was read. The file takes 4 bytes for each value
that is kept; memory does not grow with the text.";

/// Write states and gates to a file for notebooks
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    subject: SubjectArgs,

    /// The .npz file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Signals to keep [default: all the cell has]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    signals: Vec<String>,

    /// Layers to keep, from 0 [default: all]
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true, num_args = 1..)]
    layers: Vec<usize>,

    #[command(flatten)]
    reading: ReadingArgs,
}

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<()> {
    let (saved, text) = args.subject.open(|_| usize::MAX)?;
    if args.out.exists() {
        return Err(BadUsage(format!("{} exists; choose another --out", args.out.display())).into());
    }
    super::check_signals(&saved, &args.signals)?;
    let layers = saved.recipe.model.layers;
    if let Some(layer) = args.layers.iter().find(|&&layer| layer >= layers) {
        return Err(BadUsage(format!("--layers {layer}: the run has layers 0 to {}", layers - 1)).into());
    }
    let keep =
        if args.signals.is_empty() { Keep::all() } else { Keep::signals(args.signals.iter().cloned()) };
    let keep = if args.layers.is_empty() { keep } else { keep.with_layers(args.layers.iter().copied()) };
    let mut working = Working::new();
    let how = Reading { keep, ..args.reading.reading() };
    let arrays = write_npz(&saved.model, &text, &how, &args.out, |share| working.draw("recording", share))?;
    drop(working);
    match Form::from_flag(args.subject.json) {
        Form::Json => output::json(&json!({
            "run": args.subject.run,
            "file": args.out,
            "arrays": arrays.iter().map(|array| json!({"name": array.name, "shape": array.shape})).collect::<Vec<_>>(),
        })),
        Form::Text => {
            let lines: Vec<String> =
                arrays.iter().map(|array| format!("{:<10} {:?}\n", array.name, array.shape)).collect();
            output::result(&lines.concat())
        }
    }
}
