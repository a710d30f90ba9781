//! `carousel inspect errors`: where a language model errs, beside n-grams.

use std::fmt::Write;
use std::path::PathBuf;

use carousel::data::{Document, Documents};
use carousel::lens::{ErrorReport, Ngrams, Row, Text, compare_errors, losses};
use carousel::report::{ErrorBar, ErrorsPage, KnownAhead, thousands};
use carousel::run::RunFolder;
use carousel::train::{learned_lines, shares};
use clap::Args;
use serde_json::json;

use super::{ReadingArgs, SubjectArgs, Working};
use crate::output::{self, Form, aligned_right, message, shortened, tail};
use crate::sources::{Held, SourceList};

/// Columns shown of what stands before a predicted token.
const CONTEXT: usize = 46;

const EXAMPLES: &str = "\
Examples:
  carousel inspect errors runs/lm-001 --data test.c
  carousel inspect errors runs/lm-001 --data test.c --train train.c --json

Losses are in nats per token. The n-grams of order 1 to 6 have Kneser-Ney
smoothing and are counted on what the run learned from, or on --train; 2, 4 and
6 are shown. `only net` is the share of tokens that the net gives more than half
of the probability and no n-gram does; `only n` is the opposite.";

/// See where a language model errs, beside n-grams
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ErrorsArgs {
    #[command(flatten)]
    subject: SubjectArgs,

    /// Text to count n-grams on [default: the run's text]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    train: Vec<PathBuf>,

    #[command(flatten)]
    reading: ReadingArgs,

    /// Write the comparison as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &ErrorsArgs) -> anyhow::Result<()> {
    super::check_page(args.html.as_ref())?;
    let (saved, text) = args.subject.open(|_| usize::MAX)?;
    if text.len() < 2 {
        anyhow::bail!("the text has {} tokens, expected at least 2", text.len());
    }
    let documents = saved.recipe.data.documents;
    let read = |files: &[Document]| Text::new(&saved.tokenizer, files, documents, usize::MAX);
    let counted = if args.train.is_empty() {
        let (_, sources) = SourceList::reread(&RunFolder::open(&args.subject.run)?, Held::All)?;
        match documents {
            Documents::Lines => read(&[learned_lines(&saved.recipe, &sources)?])?,
            Documents::Files => {
                let all = read(&sources.train)?;
                // What was held out for validation and test was not learned from.
                let [share, ..] = shares(&saved.recipe, &sources);
                let learned = ((all.len() as f64 * share + 1e-6) as usize).min(all.len());
                all.part(0..learned)
            }
        }
    } else {
        read(&carousel::data::read_documents(&args.train)?)?
    };
    let mut working = Working::new();
    working.draw("counting n-grams", 0.0);
    let ngrams = Ngrams::count(counted.tokens(), counted.document_starts(), saved.tokenizer.vocab().len());
    working.draw("measuring", 0.5);
    let measured = losses(&saved.model, &text, &args.reading.reading());
    let report = compare_errors(&text, &measured, &ngrams, 12);
    drop(working);
    message(format_args!("n-grams counted on {} tokens", thousands(counted.len() as u64)));
    if let Some(path) = &args.html {
        super::write_page(path, &page(args, &report, &text).to_html())?;
    }
    match Form::from_flag(args.subject.json) {
        Form::Json => {
            let mut line = json!({"run": args.subject.run, "counted": counted.len()});
            super::extend(&mut line, &report)?;
            output::json(&line)
        }
        Form::Text => output::result(&tables(&report, &text)),
    }
}

fn page(args: &ErrorsArgs, report: &ErrorReport, text: &Text) -> ErrorsPage {
    let bar = |row: &Row| ErrorBar {
        name: row.name.clone(),
        tokens: row.tokens,
        net: row.loss,
        ngrams: row.ngrams[5],
        only: [row.only_model, row.only_ngrams],
    };
    let group = |heading: &str, rows: &[Row]| (heading.to_owned(), rows.iter().map(bar).collect());
    let known = report.ahead.iter().map(|ahead| KnownAhead {
        before: before(text, ahead.token),
        token: one_line(&text.shown(ahead.token..ahead.token + 1)),
        net: ahead.probability,
        ngrams: ahead.best_ngram,
    });
    ErrorsPage {
        title: super::run_name(&args.subject.run),
        subtitle: format!("The net beside Kneser-Ney n-grams over {} tokens.", thousands(text.len() as u64)),
        groups: vec![
            group("All tokens", std::slice::from_ref(&report.all)),
            group("By what comes", &report.classes),
            group("By place in the line", &report.positions),
            group("Closing brackets, by tokens since the opening one", &report.brackets),
        ],
        ahead: known.collect(),
    }
}

/// The end of what stands before a token.
fn before(text: &Text, token: usize) -> String {
    tail(&one_line(&text.shown(token.saturating_sub(CONTEXT)..token)), CONTEXT).to_owned()
}

fn tables(report: &ErrorReport, text: &Text) -> String {
    let mut shown = String::new();
    let mut table = |heading: &str, rows: &[Row]| {
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(
            shown,
            "{heading:<18} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9} {:>7}",
            "tokens", "net", "2-gram", "4-gram", "6-gram", "only net", "only n"
        );
        for row in rows {
            let _ = writeln!(
                shown,
                "{:<18} {:>8} {:>7.3} {:>7.3} {:>7.3} {:>7.3} {:>7.1} % {:>5.1} %",
                row.name,
                thousands(row.tokens as u64),
                row.loss,
                row.ngrams[1],
                row.ngrams[3],
                row.ngrams[5],
                row.only_model * 100.0,
                row.only_ngrams * 100.0
            );
        }
        shown.push('\n');
    };
    table("loss", std::slice::from_ref(&report.all));
    table("by what comes", &report.classes);
    table("by place in line", &report.positions);
    table("closing, after", &report.brackets);
    if report.ahead.is_empty() {
        shown.push_str("the net is nowhere ahead of the best n-gram\n");
        return shown;
    }
    shown.push_str("what the net knew better                                 net  n-grams  it was\n");
    for ahead in &report.ahead {
        let _ = writeln!(
            shown,
            "  {}    {:>7.1} % {:>6.2} %  {}",
            aligned_right(&before(text, ahead.token), CONTEXT),
            ahead.probability * 100.0,
            ahead.best_ngram * 100.0,
            shortened(one_line(&text.shown(ahead.token..ahead.token + 1)).trim_start(), 9)
        );
    }
    shown
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' => '⏎',
            '\t' => '→',
            _ if character.is_control() => '\u{fffd}',
            _ => character,
        })
        .collect()
}
