//! `carousel prepare`: turns files of pairs into a set that is ready to be learned from, and shows what is in one.

use std::path::{Path, PathBuf};

use carousel::data::PairCounts;
use carousel::recipe::{Recipe, Task};
use carousel::report::thousands;
use carousel::train::{Prepared, prepare};
use clap::Args;
use serde_json::json;

use crate::machine::MachineArgs;
use crate::output::{self, Form, visible};
use crate::recipes::read_recipe;
use crate::sources::{Held, SourceList};
use crate::usage::BadUsage;
use crate::wording::told;

/// Bars of the picture of lengths, and columns of the longest.
const BARS: (usize, usize) = (12, 40);

const EXAMPLES: &str = "\
Examples:
  carousel prepare --data train.tsv --out sets/mine --show 5
  carousel prepare recipes/multi30k.toml --data train.de train.en \\
      --valid val.de val.en --test test.de test.en --out sets/multi30k
  carousel prepare --show 5 sets/mine
  carousel train translate --data sets/mine

Pairs stand in columns with tabs between, in tables whose columns have names
(CSV, JSON lines; data.source_column, data.target_column), in two files side by
side, or in a pronouncing dictionary. A set is a folder: vocabularies, a pair a
line with its ids, the recipe it was made with and what was left out. A sentence
of n tokens takes n + 2 places, for <sos> and <eos> count in data.max_len.";

/// Turn pairs of texts into ids, ready to be learned from
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PrepareArgs {
    /// A recipe of the task translate, or a prepared set to show
    #[arg(value_name = "RECIPE.toml|SET")]
    recipe: Option<PathBuf>,

    /// Pairs to learn from
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,

    /// Pairs to validate on [default: a part of --data]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    valid: Vec<PathBuf>,

    /// Pairs to test on [default: a part of --data]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    test: Vec<PathBuf>,

    /// Folder of the set
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Change one key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Show so many sentences, their ids, and a packed batch
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true)]
    show: Option<usize>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &PrepareArgs) -> anyhow::Result<()> {
    args.machine.apply();
    if args.json && args.show.is_some() {
        return Err(BadUsage("--show has no effect beside --json".to_owned()).into());
    }
    let is_set = args.recipe.as_ref().is_some_and(|path| path.is_dir());
    let (recipe, prepared, path) = match (&args.recipe, args.data.is_empty()) {
        (Some(path), true) if is_set => {
            let parts = [&args.valid, &args.test];
            if !args.set.is_empty() || args.out.is_some() || parts.iter().any(|part| !part.is_empty()) {
                let message =
                    "a prepared set is shown as it is: --set, --out, --valid and --test have no effect"
                        .to_owned();
                return Err(BadUsage(message).into());
            }
            let (recipe, prepared) = Prepared::open(path)?;
            (recipe, prepared, path.clone())
        }
        (_, true) => {
            let message = "prepare needs --data: files of pairs; see `carousel prepare --help`".to_owned();
            return Err(BadUsage(message).into());
        }
        (Some(path), false) if is_set => {
            return Err(
                BadUsage(format!("{} is a folder, expected a recipe beside --data", path.display())).into()
            );
        }
        (named, false) => {
            let Some(out) = &args.out else {
                return Err(BadUsage("prepare needs --out: the folder of the set".to_owned()).into());
            };
            let named = named.as_deref().unwrap_or(Path::new("translate"));
            let recipe = read_recipe(Some(named), &args.set)?;
            if recipe.task != Task::Translate {
                return Err(BadUsage("prepare takes a recipe of the task translate".to_owned()).into());
            }
            if out.exists() {
                let message = format!("{} exists; choose another folder, or remove it", out.display());
                return Err(BadUsage(message).into());
            }
            let (_, sources) = SourceList::read(&args.data, &args.valid, &args.test, Held::All)?;
            let prepared = prepare(&recipe, &sources)?;
            prepared.save(out, &recipe)?;
            (recipe, prepared, out.clone())
        }
    };
    match Form::from_flag(args.json) {
        Form::Json => output::json(&json!({
            "set": path,
            "max_len": prepared.max_len,
            "source_vocabulary": prepared.sides[0].len(),
            "target_vocabulary": prepared.sides[1].len(),
            "train": prepared.counts[0],
            "valid": prepared.counts[1],
            "test": prepared.counts[2],
        })),
        Form::Text => {
            let mut text = summary(&prepared);
            if let Some(count) = args.show {
                text.push_str(&examples(&prepared, count));
                text.push_str(&batch(&prepared, &recipe));
            }
            output::result(&visible(&text))
        }
    }
}

fn summary(prepared: &Prepared) -> String {
    let mut text = String::new();
    for (name, counts) in ["training", "validation", "test"].iter().zip(&prepared.counts) {
        text.push_str(&format!("{name:<11} {}\n", told(counts)));
    }
    let number = |count: usize| thousands(count as u64);
    text.push_str(&format!(
        "vocabulary  {} source, {} target, with <pad> <unk> <sos> <eos>\n\
         max_len     {} source, {} target places, with <sos> and <eos>\n",
        number(prepared.sides[0].len()),
        number(prepared.sides[1].len()),
        number(prepared.max_len[0]),
        number(prepared.max_len[1])
    ));
    text + &lengths(&prepared.counts[0])
}

/// How long the sources are, as bars.
fn lengths(counts: &PairCounts) -> String {
    let (Some((&first, _)), Some((&last, _))) =
        (counts.source_places.first_key_value(), counts.source_places.last_key_value())
    else {
        return String::new();
    };
    let width = (last - first + 1).div_ceil(BARS.0);
    let mut bars = vec![0; (last - first) / width + 1];
    counts.source_places.iter().for_each(|(&places, &count)| bars[(places - first) / width] += count);
    let most = bars.iter().copied().max().unwrap_or(1).max(1);
    let mut text = "\nplaces of a source, training part\n".to_owned();
    for (bar, &count) in bars.iter().enumerate() {
        let from = first + bar * width;
        let range = if width == 1 { from.to_string() } else { format!("{from} to {}", from + width - 1) };
        let drawn = "█".repeat((count * BARS.1).div_ceil(most));
        text.push_str(format!("{range:>12}  {drawn:<40} {:>9}\n", thousands(count as u64)).as_str());
    }
    text
}

fn examples(prepared: &Prepared, count: usize) -> String {
    let mut text = String::new();
    for pair in prepared.parts[0].iter().take(count) {
        text.push_str(&format!("\n{}\n", pair.text.place));
        let sides =
            [("source", &pair.text.source, &pair.source), ("target", &pair.text.target, &pair.target)];
        for ((name, written, ids), side) in sides.into_iter().zip(&prepared.sides) {
            let shown: Vec<String> = ids.iter().map(|&id| side.shown(id)).collect();
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            text.push_str(&format!(
                "  {name}  {written}\n  tokens  {}\n  ids     {}\n  length  {} tokens, {} places\n",
                shown.join(" "),
                ids.join(" "),
                ids.len() - 2,
                ids.len()
            ));
        }
    }
    text
}

/// Rows of the first batch that are drawn.
const ROWS: usize = 8;

fn batch(prepared: &Prepared, recipe: &Recipe) -> String {
    let (chosen, [source, target]) = prepared.first_batch(recipe);
    let train = &prepared.parts[0];
    let share = |[full, real]: [usize; 2]| (full - real) as f64 * 100.0 / full.max(1) as f64;
    let mut text = format!(
        "\nthe first batch: {} pairs, {} source and {} target places\n\
         filled up to rectangles it would have {} and {}: {:.0} % and {:.0} % padding\n\
         packed, longest first, a column is a step and has only what is there:\n",
        chosen.len(),
        source[1],
        target[1],
        source[0],
        target[0],
        share(source),
        share(target)
    );
    let mut lengths: Vec<usize> = chosen.iter().map(|&place| train[place].source.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    for length in lengths.iter().take(ROWS) {
        text.push_str(&format!("  {}\n", "■ ".repeat((*length).min(36)).trim_end()));
    }
    if lengths.len() > ROWS {
        text.push_str(&format!("  … {} more rows\n", lengths.len() - ROWS));
    }
    text
}
