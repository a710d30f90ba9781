//! How translations are looked for: the options that several verbs share.

use std::path::PathBuf;

use carousel::decode::beam::{LengthPenalty, Search};
use carousel::recipe::{Named, Task};
use carousel::saved::{OpenError, SavedTranslator};
use clap::Args;

use crate::machine::MachineArgs;
use crate::usage::BadUsage;

/// The exponent that Wu et al. (2016) found best.
const ALPHA: f64 = 0.6;

/// What verbs have in common that translate with a run.
#[derive(Args)]
pub(crate) struct TranslatorArgs {
    /// Folder of the run, as `train translate` made it
    run: PathBuf,

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

impl TranslatorArgs {
    /// The run, ready to translate on as many threads as was asked for.
    pub(crate) fn open(&self) -> Result<SavedTranslator, OpenError> {
        self.machine.apply();
        SavedTranslator::open(&self.run)
    }

    /// The search for so many translations of each text.
    ///
    /// # Errors
    /// [`BadUsage`] when fewer hypotheses were asked for than translations.
    pub(crate) fn search(&self, best: usize) -> Result<Search, BadUsage> {
        let search = self.search.search();
        match self.search.beam {
            Some(beam) if beam < best => Err(BadUsage(format!(
                "--best {best} needs a beam of as many hypotheses, found --beam {beam}; raise it or leave it out"
            ))),
            _ => Ok(Search { beam: search.beam.max(best), best, ..search }),
        }
    }
}

#[derive(Args)]
pub(crate) struct SearchArgs {
    /// Hypotheses followed at a time; 1 is greedy [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = beam, help_heading = "Search")]
    beam: Option<usize>,

    /// Of length: average, none, or wu:0.6 [default: average]
    #[arg(long, value_name = "P", value_parser = penalty, help_heading = "Search")]
    penalty: Option<LengthPenalty>,

    /// Let no N tokens in a row occur twice [default: 0]
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true, help_heading = "Search")]
    no_repeat: Option<usize>,

    /// Most tokens for each token of the source … [default: 2]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = ratio, help_heading = "Search")]
    max_ratio: Option<f64>,

    /// … and so many more [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = extra, help_heading = "Search")]
    max_extra: Option<usize>,
}

impl SearchArgs {
    /// The search for one text of each.
    pub(crate) fn search(&self) -> Search {
        let usual = Search::default();
        Search {
            beam: self.beam.unwrap_or(usual.beam),
            penalty: self.penalty.unwrap_or(usual.penalty),
            no_repeat: self.no_repeat.unwrap_or(usual.no_repeat),
            best: 1,
            ratio: self.max_ratio.unwrap_or(usual.ratio),
            extra: self.max_extra.unwrap_or(usual.extra),
        }
    }

    /// Refuses options that have no effect with a run of `task`.
    pub(crate) fn refuse_idle(&self, task: Task) -> Result<(), BadUsage> {
        let searches = matches!(task, Task::Translate | Task::Caption);
        // A caption is at most as long as those that were learned.
        let stretches = task == Task::Translate;
        let idle = [
            ("--beam", !searches && self.beam.is_some()),
            ("--penalty", !searches && self.penalty.is_some()),
            ("--no-repeat", !searches && self.no_repeat.is_some()),
            ("--max-ratio", !stretches && self.max_ratio.is_some()),
            ("--max-extra", !stretches && self.max_extra.is_some()),
        ];
        refuse_idle(task, &idle)
    }
}

/// Refuses those of some options that were given, for a run of `task` has no use for them.
pub(crate) fn refuse_idle(task: Task, options: &[(&str, bool)]) -> Result<(), BadUsage> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            Err(BadUsage(format!("{option} has no effect with a run of the task {}", task.name())))
        }
        None => Ok(()),
    }
}

pub(crate) fn beam(text: &str) -> Result<usize, String> {
    let wanted = "expected a whole number from 1 to 1000";
    text.parse().ok().filter(|beam| (1..=1000).contains(beam)).ok_or(wanted.to_owned())
}

fn extra(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|extra| *extra <= 10_000).ok_or("expected a whole number up to 10000".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let wanted = "expected a number from 0 to 1000";
    text.parse().ok().filter(|ratio| (0.0..=1000.0).contains(ratio)).ok_or(wanted.to_owned())
}

fn penalty(text: &str) -> Result<LengthPenalty, String> {
    let wu = |alpha: f64| LengthPenalty::Wu(alpha);
    match text.split_once(':') {
        None if text == "average" => Ok(LengthPenalty::Average),
        None if text == "none" => Ok(LengthPenalty::None),
        None if text == "wu" => Ok(wu(ALPHA)),
        Some(("wu", alpha)) if alpha.parse().is_ok_and(|alpha: f64| (0.0..=10.0).contains(&alpha)) => {
            Ok(wu(alpha.parse().unwrap_or(ALPHA)))
        }
        _ => Err("expected average, none, wu, or wu:0.6 with an exponent from 0 to 10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_are_read() {
        let check = |text: &str, expected: Option<LengthPenalty>| assert_eq!(penalty(text).ok(), expected);
        check("average", Some(LengthPenalty::Average));
        check("none", Some(LengthPenalty::None));
        check("wu", Some(LengthPenalty::Wu(0.6)));
        check("wu:1", Some(LengthPenalty::Wu(1.0)));
        check("wu:x", None);
        check("wu:-1", None);
        check("mean", None);
    }
}
