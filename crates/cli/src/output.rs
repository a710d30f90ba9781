//! Writing to stdout and stderr without a panic when nobody reads.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Context;

/// Whether a verb prints for people or for programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

impl Form {
    pub(crate) fn from_flag(json: bool) -> Form {
        if json { Form::Json } else { Form::Text }
    }
}

/// One line for people, on stderr. A closed stderr is no reason to fail.
pub(crate) fn message(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a result to stdout at once. A reader that went away (`| head`) ends the program, successfully.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.context("could not write to stdout"),
    }
}

/// Writes one JSON object as a line of its own.
pub(crate) fn json(object: &serde_json::Value) -> anyhow::Result<()> {
    result(&format!("{object}\n"))
}

/// Writes generated text to stdout. A model may produce escape sequences: on a terminal they are made visible,
/// in a file or a pipe the text stays as it is.
pub(crate) fn generated(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { result(&visible(text)) } else { result(text) }
}

/// The text with its control characters, line ends and tabs apart, replaced by a mark.
pub(crate) fn visible(text: &str) -> String {
    let mark = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => '\u{fffd}',
        _ => character,
    };
    text.chars().map(mark).collect()
}

/// The text in at most `width` characters; where some are left out, the last one says so.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
