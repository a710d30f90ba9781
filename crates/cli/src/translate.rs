//! `carousel translate`: lines in, their translations out, in order.

use std::path::PathBuf;

use carousel::saved::{SavedTranslator, Translated, Translation, Wanted};
use clap::Args;
use serde_json::json;

use crate::lines::each_lines;
use crate::output::{self, message};
use crate::search::{TranslatorArgs, beam};

const EXAMPLES: &str = "\
Examples:
  carousel translate runs/translate-001 < in.txt > out.txt
  echo 'il fait froid' | carousel translate runs/translate-001 --best 3
  carousel translate runs/translate-001 in.txt --beam 1
  carousel translate runs/translate-001 in.txt --json | jq .text

A line in, a line out, in order; an empty line has an empty translation. With
--best a line in gives that many lines: score, tab, translation; an empty one
gives one. A word that the model does not know is copied from where it looked
when it wrote <unk>.";

/// Translate lines with a saved run
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TranslateArgs {
    #[command(flatten)]
    translator: TranslatorArgs,

    /// Files of lines [default: stdin]
    files: Vec<PathBuf>,

    /// Translations of each line, with their scores
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = beam)]
    best: Option<usize>,

    /// What translations must begin with; it is trimmed
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Leave <unk> where the model wrote it
    #[arg(long)]
    keep_unknown: bool,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TranslateArgs) -> anyhow::Result<()> {
    let search = args.translator.search(args.best.unwrap_or(1))?;
    let wanted = Wanted { search, prefix: args.prefix.clone(), keep_unknown: args.keep_unknown };
    let saved = args.translator.open()?;
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
    let best = translated.best.iter();
    match (args.json, args.best) {
        (true, _) => object(translated),
        (false, Some(_)) => best.map(|one| format!("{:.4}\t{}\n", one.score, one.text)).collect(),
        (false, None) => best.map(|one| format!("{}\n", one.text)).collect(),
    }
}

/// A line's translations as a line of JSON.
pub(crate) fn object(translated: &Translated) -> String {
    let probability = |one: &Translation| one.log_probabilities.iter().sum::<f32>().exp();
    let one = |one: &Translation| {
        json!({
            "text": one.text,
            "probability": probability(one),
            "score": one.score,
            "tokens": one.tokens,
            "log_probabilities": one.log_probabilities,
        })
    };
    let Translated { unknown, cut, best, .. } = translated;
    let line = json!({
        "text": best.first().map_or("", |one| &one.text),
        "probability": best.first().map(probability),
        "unknown": unknown,
        "cut": cut,
        "best": best.iter().map(one).collect::<Vec<_>>(),
    });
    format!("{line}\n")
}
