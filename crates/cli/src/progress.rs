//! Draws training events on stderr: in place on a terminal, as plain lines in a pipe.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use carousel::report::{Reading, thousands};
use carousel::train::{Event, Notice, PartStatistics};

use crate::measure::Measure;
use crate::output::{shortened, visible};
use crate::wording::{duration, rounded, score_line, told};

/// Between two lines about steps in a pipe.
const QUIET: Duration = Duration::from_secs(20);
/// Between two drawings on a terminal.
const FRAME: Duration = Duration::from_millis(100);
/// Characters of the bar. With it, the longest line stays within 80 columns.
const BAR: usize = 24;
/// Columns of a terminal.
pub(crate) const WIDTH: usize = 80;
/// Classes whose shares are shown.
const MOST_CLASSES: usize = 12;
/// Lines and characters shown of a sample.
const SAMPLE: (usize, usize) = (6, 72);

const ERASE_BELOW: &str = "\x1b[J";
/// A terminal narrower than the lines cuts them instead of breaking them, so that "two lines up" stays true.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// What training looks like while it runs.
pub(crate) struct Progress {
    measure: Measure,
    style: Style,
    /// When the last step was shown.
    shown: Option<Instant>,
    /// Lines on the terminal that the next drawing replaces.
    live: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// Moves the cursor, and dims what is secondary.
    Terminal,
    /// Moves the cursor; `NO_COLOR` is set.
    Monochrome,
    /// Lines, one after the other.
    Plain,
}

impl Progress {
    pub(crate) fn new(measure: Measure) -> Progress {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match io::stderr().is_terminal() && !dumb {
            true if set("NO_COLOR") => Style::Monochrome,
            true => Style::Terminal,
            false => Style::Plain,
        };
        Progress { measure, style, shown: None, live: 0 }
    }

    pub(crate) fn draw(&mut self, event: &Event<'_>) {
        match event {
            Event::Examples { parts } => parts.iter().for_each(|part| self.describe(part)),
            Event::Pairs { parts, max_len, vocabularies } => {
                for (name, counts) in ["training", "validation", "test"].iter().zip(*parts) {
                    if counts.pairs > 0 {
                        self.line(&format!("{name:<10} {}", told(counts)));
                    }
                }
                let number = |count: usize| thousands(count as u64);
                self.line(&format!(
                    "vocabulary {} source, {} target; up to {} and {} places",
                    number(vocabularies[0]),
                    number(vocabularies[1]),
                    number(max_len[0]),
                    number(max_len[1])
                ));
            }
            Event::Unknown { part, unknown, tokens } => {
                let share = *unknown as f64 * 100.0 / *tokens as f64;
                let unknown = thousands(*unknown as u64);
                self.line(&format!("{part:<10} {unknown:>9} tokens are not in the vocabulary, {share:.2} %"));
            }
            Event::Started {
                parameters,
                vocabulary,
                train_tokens,
                valid_tokens,
                steps,
                resumed_at,
                note,
            } => {
                if let Some(note) = note {
                    self.line(&format!("warning: {note}"));
                }
                let number = |count: usize| thousands(count as u64);
                let known = vocabulary.map(|size| format!(", vocabulary of {}", number(size)));
                self.line(&format!("{} parameters{}", number(*parameters), known.unwrap_or_default()));
                let read = train_tokens.zip(*valid_tokens).map(|(train, valid)| {
                    format!("{} tokens to learn from, {} to validate on, ", number(train), number(valid))
                });
                self.line(&format!("{}{} steps", read.unwrap_or_default(), thousands(*steps)));
                if let Some(step) = resumed_at {
                    self.line(&format!("resumed after step {}", thousands(*step)));
                }
            }
            Event::Step {
                step, steps, epoch, loss, gradient_norm, tokens_per_second, seconds_left, ..
            } => {
                let wait = if self.style == Style::Plain { QUIET } else { FRAME };
                if step < steps && self.shown.is_some_and(|shown| shown.elapsed() < wait) {
                    return;
                }
                self.shown = Some(Instant::now());
                let place = format!("step {}/{}{}", thousands(*step), thousands(*steps), epochs(*epoch));
                let values = format!(
                    "{}  gradient norm {gradient_norm:.2}  {} {}/s",
                    self.loss(*loss),
                    rounded(*tokens_per_second),
                    self.measure.unit()
                );
                let left = format!("{} left", duration(*seconds_left));
                if self.style == Style::Plain {
                    self.line(&format!("{place}  {values}  {left}"));
                } else {
                    let share = *step as f64 / (*steps).max(1) as f64;
                    let done = ((share * BAR as f64) as usize).min(BAR);
                    let bar = format!("{}{}", "━".repeat(done), self.dim(&"─".repeat(BAR - done)));
                    self.replace(&[format!("{bar} {:3.0} %  {place}  {left}", share * 100.0), values]);
                }
            }
            Event::Validated { step, epoch, loss, accuracy, scores, best } => {
                let best = if *best { "  best so far" } else { "" };
                let recalled = accuracy.filter(|_| self.measure == Measure::Recall);
                let recalled = recalled.map(|share| format!("  recalled {:.1} %", share * 100.0));
                let mut line = format!(
                    "step {}{}  validation {}{}",
                    thousands(*step),
                    epochs(*epoch),
                    self.loss(*loss),
                    recalled.unwrap_or_default()
                );
                for score in *scores {
                    let more = format!("  {}", score_line(score));
                    if line.len() + more.len() + "  best so far".len() <= WIDTH {
                        line.push_str(&more);
                    }
                }
                self.line(&format!("{line}{best}"));
            }
            Event::Noticed { step, what } => {
                let what = match what {
                    Notice::Plateau { learning_rate } => {
                        format!(
                            "validation loss stands still: learning rate {learning_rate:.2e} from here on"
                        )
                    }
                    Notice::Averaging => {
                        "validation loss stands still: weights are averaged from here on".to_owned()
                    }
                    Notice::EarlyStop { validations } => {
                        format!("nothing better in {validations} validations: the run ends")
                    }
                };
                self.line(&format!("step {}  {what}", thousands(*step)));
            }
            Event::Sampled { text, .. } => {
                for line in visible(text).trim().lines().take(SAMPLE.0) {
                    let shown = shortened(&line.replace('\t', "    "), SAMPLE.1);
                    self.line(&self.dim(format!("  │ {shown}").trim_end()));
                }
            }
            // On a terminal the two lines in place are worth more than a list of saves.
            Event::Saved { path, .. } if self.style == Style::Plain => {
                self.line(&format!("saved {}", path.display()));
            }
            Event::Saved { .. } | Event::Stepped { .. } => {}
        }
    }

    /// What a part of the data holds, before anything is learned from it.
    fn describe(&mut self, part: &PartStatistics) {
        let PartStatistics { part, lengths, classes } = part;
        let number = |count: usize| thousands(count as u64);
        let empty =
            if lengths.empty > 0 { format!(", {} empty", number(lengths.empty)) } else { String::new() };
        let sequences = if lengths.count == 1 { "sequence" } else { "sequences" };
        let steps = match lengths.shortest == lengths.longest {
            true => format!("{} steps", number(lengths.longest)),
            false => {
                let [shortest, longest, median] =
                    [lengths.shortest, lengths.longest, lengths.median].map(number);
                format!("{shortest} to {longest} steps, half up to {median}")
            }
        };
        self.line(&format!("{part:<10} {:>9} {sequences} of {steps}{empty}", number(lengths.count)));
        let all: usize = classes.by_class.iter().map(|(_, count)| count).sum();
        let shown = classes.by_class.iter().take(MOST_CLASSES).map(|(name, count)| {
            let name = shortened(&visible(name), 24);
            format!("{name} {:.1} %", *count as f64 * 100.0 / all.max(1) as f64)
        });
        let mut line = String::new();
        let mut lines = Vec::new();
        for class in shown {
            if !line.is_empty() && line.chars().count() + class.chars().count() > 60 {
                lines.push(std::mem::take(&mut line));
            }
            line.push_str(if line.is_empty() { "" } else { ", " });
            line.push_str(&class);
        }
        lines.push(line);
        if let (Some(last), more @ 1..) =
            (lines.last_mut(), classes.by_class.len().saturating_sub(MOST_CLASSES))
        {
            last.push_str(&format!(", {more} more"));
        }
        let lines = lines.iter().filter(|line| !line.is_empty());
        lines.for_each(|line| self.line(&format!("           {line}")));
    }

    /// Takes the lines in place away, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        self.replace(&[]);
    }

    fn loss(&self, loss: f64) -> String {
        match self.measure {
            Measure::Text(reading) => {
                let value = reading.of(loss);
                match reading {
                    Reading::Perplexity => format!("loss {loss:.3}  perplexity {value:.1}"),
                    _ => format!("loss {loss:.3}  {value:.2} {}", reading.unit()),
                }
            }
            Measure::SquaredError => format!("mean squared error {loss:.4}"),
            Measure::Recall | Measure::Scores { .. } => format!("loss {loss:.4}"),
        }
    }

    fn dim(&self, text: &str) -> String {
        if self.style == Style::Terminal { format!("\x1b[2m{text}\x1b[22m") } else { text.to_owned() }
    }

    /// Prints a line that stays.
    fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Draws lines over the ones drawn last.
    fn replace(&mut self, lines: &[String]) {
        let mut drawing = String::new();
        if self.live > 0 {
            drawing.push_str(&format!("\r\x1b[{}A{ERASE_BELOW}", self.live));
        }
        for line in lines {
            drawing.push_str(&format!("{NO_WRAP}{line}{WRAP}\n"));
        }
        self.live = lines.len();
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(drawing.as_bytes()).and_then(|()| stderr.flush());
    }
}

/// Where there are passes over the data, how many.
fn epochs(passes: Option<f64>) -> String {
    passes.map(|passes| format!("  epoch {passes:.1}")).unwrap_or_default()
}
