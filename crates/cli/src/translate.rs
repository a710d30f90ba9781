//! `carousel translate`: lines in, their translations out, in order.

use std::path::PathBuf;

use carousel::saved::{SavedTranslator, Translated, Wanted};
use clap::Args;
use serde_json::json;

use crate::MachineArgs;
use crate::output::{self, message};
use crate::predict::each_lines;
use crate::search::{SearchArgs, beam};

const EXAMPLES: &str = "\
Examples:
  carousel translate runs/translate-001 < in.txt > out.txt
  echo 'il fait froid' | carousel translate runs/translate-001 --best 3
  carousel translate runs/translate-001 in.txt --beam 1
  carousel translate runs/translate-001 in.txt --json | jq .text

A line in, a line out, in order; an empty line has an empty translation. With
--best a line in gives that many lines: score, tab, translation. A word that
the model does not know is copied from where it looked when it wrote <unk>.";

/// Translate lines with a saved run
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TranslateArgs {
    /// Folder of the run, as `train translate` made it
    run: PathBuf,

    /// Files of lines [default: stdin]
    files: Vec<PathBuf>,

    /// Translations of each line, with their scores
    #[arg(long, value_name = "N", value_parser = beam)]
    best: Option<usize>,

    /// What every translation must begin with
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Leave <unk> where the model wrote it
    #[arg(long)]
    keep_unknown: bool,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &TranslateArgs) -> anyhow::Result<()> {
    args.machine.apply();
    let saved = SavedTranslator::open(&args.run)?;
    let wanted = Wanted {
        search: args.search.search(args.best.unwrap_or(1)),
        prefix: args.prefix.clone(),
        keep_unknown: args.keep_unknown,
    };
    answer_lines(&saved, &args.files, &wanted, &|translated| shown(args, translated))
}

/// Translates lines as they come, and tells in the end what a user should hear about them.
pub(crate) fn answer_lines(
    saved: &SavedTranslator,
    files: &[PathBuf],
    wanted: &Wanted,
    shown: &dyn Fn(&Translated) -> String,
) -> anyhow::Result<()> {
    let (mut cut, mut tokens, mut unknown) = (0, 0, 0);
    each_lines(files, |lines| {
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let all = saved.translate(&texts, wanted);
        for translated in &all {
            cut += usize::from(translated.cut);
            tokens += translated.source.len().saturating_sub(2);
            unknown += translated.unknown;
        }
        output::result(&all.iter().map(shown).collect::<String>())
    })?;
    if cut > 0 {
        message(format_args!("warning: {cut} lines were longer than the run reads (data.max_len), and cut"));
    }
    if unknown * 2 > tokens {
        message(format_args!(
            "warning: the run does not know {unknown} of {tokens} tokens; is this the language it reads?"
        ));
    }
    Ok(())
}

fn shown(args: &TranslateArgs, translated: &Translated) -> String {
    let best = || translated.best.iter();
    if args.json {
        let all: Vec<_> = best()
            .map(|one| {
                json!({
                    "text": one.text,
                    "score": one.score,
                    "tokens": one.tokens,
                    "log_probabilities": one.log_probabilities,
                })
            })
            .collect();
        let first = best().next().map(|one| one.text.clone()).unwrap_or_default();
        return format!(
            "{}\n",
            json!({"text": first, "unknown": translated.unknown, "cut": translated.cut, "best": all})
        );
    }
    match args.best {
        Some(_) => best().map(|one| format!("{:.4}\t{}\n", one.score, one.text)).collect(),
        None => best().map(|one| format!("{}\n", one.text)).collect(),
    }
}
