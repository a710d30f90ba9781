//! Writing to stdout and stderr without a panic when nobody reads.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Context;
use unicode_width::UnicodeWidthChar;

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

/// Columns that a text takes on a terminal: two for a character of Chinese or Korean, none for an accent.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Columns that a character takes.
pub(crate) fn columns_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// The text in at most `width` columns; where some of it is left out, the last character says so.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |character: &char| {
        let columns = columns_of(*character);
        let fits = columns <= room;
        room -= columns.min(room);
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// The end of a text in at most `width` columns.
pub(crate) fn tail(text: &str, width: usize) -> &str {
    let mut room = width;
    let kept = text.char_indices().rev().take_while(|(_, character)| {
        let columns = columns_of(*character);
        let fits = columns <= room;
        room -= columns.min(room);
        fits
    });
    let end = kept.last().map_or("", |(at, _)| &text[at..]);
    // An accent whose letter is out would stand alone.
    end.trim_start_matches(|character| columns_of(character) == 0)
}

/// The text and blanks behind it, `width` columns together.
pub(crate) fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// Blanks and the text behind them, `width` columns together.
pub(crate) fn aligned_right(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(columns(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_and_accents_take_their_columns() {
        assert_eq!((columns("abc"), columns("한국"), columns("e\u{301}"), columns("👩")), (3, 4, 1, 2));
        let check = |text: &str, short: &str, end: &str| {
            assert_eq!((shortened(text, 4).as_str(), tail(text, 4)), (short, end));
        };
        check("abcd", "abcd", "abcd");
        check("abcde", "abc…", "bcde");
        check("한국어", "한…", "국어");
        check("e\u{301}e\u{301}xyz", "e\u{301}e\u{301}x…", "e\u{301}xyz");
        check("", "", "");
        assert_eq!((padded("한", 4).as_str(), aligned_right("한", 4).as_str()), ("한  ", "  한"));
    }
}
