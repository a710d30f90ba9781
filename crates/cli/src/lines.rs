//! Lines from files or from a pipe, handed on as they come.

use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, bail};
use carousel::data::{open, unmarked};

/// Lines that are handed on together where they are there already.
pub(crate) const TOGETHER: usize = 64;

/// Hands on the lines of files, or of stdin: those that have come, at most so many at once, none kept waiting.
pub(crate) fn each_lines(
    files: &[PathBuf],
    mut answer: impl FnMut(&[String]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if files.is_empty() {
        return read_lines(&mut BufReader::new(io::stdin().lock()), "stdin", &mut answer);
    }
    for path in files {
        let name = path.display().to_string();
        let file = open(path).with_context(|| format!("could not read {name}"))?;
        read_lines(&mut BufReader::new(file), &name, &mut answer)?;
    }
    Ok(())
}

fn read_lines<R: io::Read>(
    reader: &mut BufReader<R>,
    name: &str,
    answer: &mut impl FnMut(&[String]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut number = 0;
    let mut lines = Vec::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes).with_context(|| format!("could not read {name}"))?;
        if read == 0 {
            return if lines.is_empty() { Ok(()) } else { answer(&lines) };
        }
        number += 1;
        let line = std::mem::take(&mut bytes);
        let Ok(mut line) = String::from_utf8(line) else {
            // What came before is answered all the same.
            answer(&lines)?;
            bail!("{name}:{number}: the line is not UTF-8; convert it to UTF-8");
        };
        line.truncate(line.trim_end_matches(['\n', '\r']).len());
        if number == 1 {
            line.drain(..line.len() - unmarked(&line).len());
        }
        lines.push(line);
        // A line that is not complete yet may take for ever; those that are here are answered first.
        if lines.len() == TOGETHER || !reader.buffer().contains(&b'\n') {
            answer(&lines)?;
            lines.clear();
        }
    }
}
