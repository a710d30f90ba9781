//! `carousel inspect`: looks into a saved run.

mod attention;
mod cells;
mod errors;
mod gates;
mod gradients;
mod record;

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use carousel::lens::{Reading, Text};
use carousel::report::thousands;
use carousel::saved::SavedLanguageModel;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::machine::MachineArgs;
use crate::output::message;
use crate::usage::BadUsage;

/// Look inside a saved run: what its units follow, and how error flows
#[derive(Args)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Cells(cells::CellsArgs),
    Gates(gates::GatesArgs),
    Gradients(gradients::GradientsArgs),
    Errors(errors::ErrorsArgs),
    Record(record::RecordArgs),
    Attention(attention::AttentionArgs),
}

/// What every inspection reads.
#[derive(Args)]
struct SubjectArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Files and folders to read
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,

    /// Read at most so many tokens
    #[arg(long, value_name = "N", default_value_t = 500_000, allow_negative_numbers = true, value_parser = tokens)]
    tokens: usize,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

/// How views that read the whole text read it.
#[derive(Args)]
struct ReadingArgs {
    /// Parts read at a time; 1 is exact
    #[arg(long, value_name = "N", default_value_t = Reading::default().streams, allow_negative_numbers = true, value_parser = tokens)]
    streams: usize,
}

impl ReadingArgs {
    fn reading(&self) -> Reading {
        Reading::default().with_streams(self.streams)
    }
}

fn tokens(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or("expected a whole number from 1".into())
}

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Cells(args) => cells::run(args),
        What::Gates(args) => gates::run(args),
        What::Gradients(args) => gradients::run(args),
        What::Errors(args) => errors::run(args),
        What::Record(args) => record::run(args),
        What::Attention(args) => attention::run(args),
    }
}

impl SubjectArgs {
    /// Opens the run and reads the text, `most` tokens at most.
    fn open(
        &self,
        most: impl FnOnce(&SavedLanguageModel) -> usize,
    ) -> anyhow::Result<(SavedLanguageModel, Text)> {
        self.machine.apply();
        let documents = carousel::data::read_documents(&self.data)?;
        let saved = SavedLanguageModel::open(&self.run)?;
        let limit = self.tokens.min(most(&saved));
        let all: usize = documents.iter().map(|document| document.bytes.len()).sum();
        let text = Text::new(&saved.tokenizer, &documents, saved.recipe.data.documents, limit)?;
        if text.len() == limit && limit < all {
            message(format_args!("reading the first {} tokens", thousands(limit as u64)));
        }
        Ok((saved, text))
    }
}

/// Refuses a page that cannot be written, before there is work for it.
fn check_page(path: Option<&PathBuf>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let existed = path.exists();
    let failed = || format!("could not write {}", path.display());
    OpenOptions::new().create(true).append(true).open(path).with_context(failed)?;
    if !existed {
        fs::remove_file(path).with_context(failed)?;
    }
    Ok(())
}

/// Writes a page and says where it is.
fn write_page(path: &Path, html: &str) -> anyhow::Result<()> {
    fs::write(path, html).with_context(|| format!("could not write {}", path.display()))?;
    message(format_args!("page: {}", path.display()));
    Ok(())
}

/// The last part of a run's path.
fn run_name(run: &Path) -> String {
    run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned()
}

/// Adds a report's fields to a line of JSON.
fn extend(line: &mut Value, report: &impl Serialize) -> anyhow::Result<()> {
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), serde_json::to_value(report)?) {
        line.extend(fields);
    }
    Ok(())
}

/// Refuses names of signals that the run's cell does not expose.
fn check_signals(saved: &SavedLanguageModel, signals: &[String]) -> anyhow::Result<()> {
    let cell = saved.recipe.model.recurrence();
    let known: Vec<&str> = cell.signals().iter().map(|signal| signal.name).collect();
    match signals.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let message = format!("--signals {unknown}: this run's {} has {}", cell.name(), known.join(", "));
            Err(BadUsage(message).into())
        }
    }
}

/// A line that says what is being done and how far it is: in place on a terminal, silent in a pipe.
struct Working {
    began: Instant,
    drawn: Option<Instant>,
    live: bool,
}

impl Working {
    fn new() -> Working {
        Working { began: Instant::now(), drawn: None, live: io::stderr().is_terminal() }
    }

    fn draw(&mut self, what: &str, share: f64) {
        let wait = Duration::from_millis(100);
        if !self.live || self.drawn.is_some_and(|drawn| drawn.elapsed() < wait) {
            return;
        }
        self.drawn = Some(Instant::now());
        let seconds = self.began.elapsed().as_secs();
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{what} {:.0} %  {seconds}s", share * 100.0);
        let _ = stderr.flush();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
