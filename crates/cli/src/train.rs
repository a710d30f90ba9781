//! `carousel train`: learns a model, draws how it goes, and leaves a run folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use carousel::data::Documents;
use carousel::decode::sampling::{Sampling, sample, sample_many};
use carousel::own_cell::AnyCell;
use carousel::recipe::{Named, Optimizer, Recipe, Task};
use carousel::recurrent::Direction;
use carousel::report::thousands;
use carousel::run::{RunError, RunFolder};
use carousel::stepper::StepPrecision;
use carousel::train::{Control, Event, Sources, Start, Summary, train};
use clap::Args;
use serde_json::json;

use crate::bench::multiply_adds;
use crate::machine::MachineArgs;
use crate::measure::Measure;
use crate::output::{self, Form, message, visible};
use crate::progress::{Progress, WIDTH};
use crate::recipes::{is_toml, read_recipe};
use crate::sources::{Held, SourceList, note_parts};
use crate::system::check_memory;
use crate::usage::BadUsage;
use crate::wording::{cell_name, duration, rounded, score_line};
use crate::{forecast, report};

/// Documents that are written when training is done, where those are lines.
const LAST_LINES: usize = 10;

/// Tokens of the text that is printed when training is done.
const LAST_SAMPLE: usize = 400;

const EXAMPLES: &str = "\
Examples:
  carousel train                              this project's own sources
  carousel train --data my.txt --out runs/my  the same model on your own text
  carousel train --data my.txt --set model.cell=gru --set train.epochs=5
  carousel train recipes/NAME.toml --data train.txt --valid valid.txt
  carousel train lm --data names.txt --set data.documents=lines  a name a line
  carousel train classify --data reviews.tsv  texts and classes, by column
  carousel train classify --data texts/       a text a file, a folder a class
  carousel train tag --data train.conll       a label for every word
  carousel train tag --data sensors/ --set data.input=numbers   for every step
  carousel train caption --data pictures.tsv  images and sentences about them
  carousel train translate --data pairs.tsv   source, tab, target
  carousel train translate --data a.de a.en   two files side by side
  carousel train forecast --data load.csv     the next steps of series
  carousel train adding --set data.length=200 a test of memory, without data
  carousel train --resume --out runs/lm-001   continue where it stopped

A recipe is a TOML file, and its keys are the --set keys: docs/recipe.md lists
them. It names no data, and stands before --data. Data is files, or folders of
them, of UTF-8 text; of anything with data.tokens=byte. They may be compressed
as .gz. Without --valid and --test, parts of --data are held out, as data.split
says.

The run folder holds config.toml, metrics.jsonl, report.html, the best weights
as model.safetensors, and checkpoints: one every two minutes and one at the
end. Ctrl-C finishes the step, saves, and prints the command that resumes. To
train a run for longer, raise train.steps or train.epochs in its config.toml
and resume it.";

/// Train a model, on built-in text if no other is given
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// A task, such as lm or translate, or a recipe [default: lm]
    #[arg(value_name = "TASK|RECIPE.toml", conflicts_with = "resume")]
    recipe: Option<PathBuf>,

    /// Text to learn from [default: built in]
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "resume")]
    data: Vec<PathBuf>,

    /// Text to validate on [default: a part of --data]
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "resume")]
    valid: Vec<PathBuf>,

    /// Text to test on at the end [default: a part of --data]
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "resume")]
    test: Vec<PathBuf>,

    /// Folder of the run [default: next free runs/lm-NNN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Change one key of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "resume")]
    set: Vec<String>,

    /// Where the random choices start; short for --set seed=N
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<u64>, allow_negative_numbers = true, conflicts_with = "resume")]
    seed: Option<u64>,

    /// Products in f32 or bf16 [default: the recipe's]
    #[arg(long, value_name = "P", conflicts_with = "resume")]
    precision: Option<String>,

    /// Continue the run in --out with its own recipe and data
    #[arg(long, requires = "out")]
    resume: bool,

    /// Look again at a batch that broke a run
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["recipe", "data", "valid", "test", "out", "set", "seed", "precision", "resume"]
    )]
    replay: Option<PathBuf>,

    /// Print one JSON object instead of a sample
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

/// A run that is ready to be trained.
struct Prepared {
    folder: RunFolder,
    recipe: Recipe,
    sources: Sources,
    learned_from: String,
    start: Start,
}

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    args.machine.apply();
    if let Some(path) = &args.replay {
        return look_again(path, Form::from_flag(args.json));
    }
    let stop = stop_on_interrupt()?;
    let prepared = if args.resume { reopen(args)? } else { prepare(args)? };
    let Prepared { folder, recipe, sources, learned_from, start } = &prepared;
    let path = folder.path();
    let fresh = matches!(start, Start::New);

    let recurrence = cell_name(recipe);
    let model = match recipe.task {
        Task::Lm => format!("{} model", recipe.data.tokens.name()),
        task => format!("task {}", task.name()),
    };
    let verb = if fresh { "training" } else { "resuming" };
    message(format_args!("{verb} {}: {model}, {recurrence}, on {learned_from}", path.display()));

    let began = Instant::now();
    let mut started = false;
    let mut progress = Progress::new(Measure::of(recipe));
    let trained = train(folder, recipe, sources, *start, &mut |event: &Event<'_>| {
        started |= matches!(event, Event::Started { .. });
        progress.draw(event);
        if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
    });
    progress.clear();
    let summary = match trained {
        Ok(summary) => summary,
        Err(error) => {
            if fresh && !started {
                remove_unstarted(folder);
            }
            return Err(error.into());
        }
    };

    report::write(folder, recipe, &summary, learned_from)?;
    describe(args, path, recipe, &summary, began.elapsed().as_secs_f64());
    if recipe.task == Task::Forecast {
        message(format_args!("\n{}", forecast::beside(path)?.trim_end()));
    }
    match Form::from_flag(args.json) {
        Form::Json => output::json(&json_summary(path, recipe, &summary)),
        Form::Text if summary.stopped || recipe.task != Task::Lm => Ok(()),
        Form::Text if recipe.data.documents == Documents::Lines => print_lines(path, recipe.seed),
        Form::Text => print_sample(path, recipe.seed),
    }
}

/// What broke a step, from the batch that was saved then.
fn look_again(path: &Path, form: Form) -> anyhow::Result<()> {
    let (step, diagnosis) = carousel::train::replay(path)?;
    match form {
        Form::Text => output::result(&format!("step {step}:{diagnosis}\n")),
        Form::Json => output::json(&json!({
            "step": step,
            "origin": diagnosis.origin.to_string(),
            "largest_weight": {"name": diagnosis.largest_weight.0, "value": diagnosis.largest_weight.1},
            "largest_h": diagnosis.hidden,
            "saturated": diagnosis.saturated,
            "gradient_norm": diagnosis.gradient_norm,
            "advice": diagnosis.advice,
            "checkpoint": diagnosis.checkpoint,
        })),
    }
}

fn prepare(args: &TrainArgs) -> anyhow::Result<Prepared> {
    let recipe = recipe_of(args)?;
    check_size(&recipe)?;
    let path = args.out.clone().unwrap_or_else(|| next_free_run(recipe.task));
    if recipe.task.has_epochs() && recipe.task != Task::Lm && args.data.is_empty() {
        let task = recipe.task.name();
        let message =
            format!("the task {task} needs --data: files with examples; see `carousel train --help`");
        return Err(BadUsage(message).into());
    }
    if let ([folder], [], [], false) =
        (&args.data[..], &args.valid[..], &args.test[..], recipe.task == Task::Lm)
    {
        note_parts(folder)?;
    }
    let (list, sources) = if recipe.task.has_epochs() {
        let (list, sources) = SourceList::read(&args.data, &args.valid, &args.test, Held::of(&recipe))?;
        (Some(list), sources)
    } else {
        refuse_data(args, recipe.task)?;
        (None, Sources::default())
    };
    let folder = RunFolder::create(&path).map_err(|error| match error {
        RunError::Exists { .. } => anyhow::Error::new(BadUsage::from(error)),
        _ => error.into(),
    })?;
    let written = folder.write_recipe(&recipe).map_err(anyhow::Error::from);
    let written = written.and_then(|()| list.as_ref().map_or(Ok(()), |list| list.save(&folder)));
    if written.is_err() {
        remove_unstarted(&folder);
    }
    written?;
    Ok(Prepared { folder, recipe, sources, learned_from: describe_sources(list.as_ref()), start: Start::New })
}

/// Refuses a stack whose weights alone do not fit into memory as often as training holds them.
fn check_size(recipe: &Recipe) -> anyhow::Result<()> {
    let Recipe { model, train, .. } = recipe;
    let Some(cell) = model.recurrence_if_any().and_then(AnyCell::fused) else { return Ok(()) };
    let directions = if model.direction == Direction::Both { 2 } else { 1 };
    // What layer 0 reads is not known before the data are.
    let weights = multiply_adds(cell, 0, model.hidden, model.layers, directions);
    // Themselves, their gradients, and what the optimizer keeps of each.
    let copies = match train.optimizer {
        Optimizer::Sgd | Optimizer::NtAsgd => 2.0,
        Optimizer::Momentum | Optimizer::RmsProp => 3.0,
        Optimizer::Adam | Optimizer::AdamW => 4.0,
    };
    check_memory(weights * copies)
}

/// Tasks that make their sequences read no text.
fn refuse_data(args: &TrainArgs, task: Task) -> anyhow::Result<()> {
    for (name, given) in [("--data", &args.data), ("--valid", &args.valid), ("--test", &args.test)] {
        if !given.is_empty() {
            let task = task.name();
            return Err(BadUsage(format!("{name} has no effect: the task {task} makes its own data")).into());
        }
    }
    Ok(())
}

fn describe_sources(list: Option<&SourceList>) -> String {
    list.map_or("sequences made on the fly".to_owned(), SourceList::describe)
}

fn reopen(args: &TrainArgs) -> anyhow::Result<Prepared> {
    let folder = RunFolder::open(args.out.as_deref().unwrap_or(Path::new(".")))?;
    let recipe = folder.read_recipe()?;
    let (list, sources) = if recipe.task.has_epochs() {
        let (list, sources) = SourceList::reread(&folder, Held::of(&recipe))?;
        (Some(list), sources)
    } else {
        (None, Sources::default())
    };
    let learned_from = describe_sources(list.as_ref());
    Ok(Prepared { folder, recipe, sources, learned_from, start: Start::Resume })
}

/// Takes back the folder of a run in which nothing was trained: it would be in the way of the next try.
fn remove_unstarted(folder: &RunFolder) {
    let _ = fs::remove_dir_all(folder.path());
}

fn recipe_of(args: &TrainArgs) -> anyhow::Result<Recipe> {
    if args.recipe.is_none() && args.data.last().is_some_and(|path| is_toml(path)) {
        // `--data text.txt my.toml` would train on the recipe as if it were text.
        let path = args.data.last().map(|path| path.display().to_string()).unwrap_or_default();
        let message = format!(
            "--data takes all paths that follow it, {path} too: write a recipe before --data, \
             or `train lm` to learn from that file"
        );
        return Err(BadUsage(message).into());
    }
    let seed = args.seed.map(|seed| format!("seed={seed}"));
    let precision = args.precision.as_ref().map(|precision| format!("train.precision={precision}"));
    let assignments: Vec<&String> = args.set.iter().chain(&seed).chain(&precision).collect();
    let of_set = recipe_of_set(args);
    read_recipe(of_set.as_deref().or(args.recipe.as_deref()), &assignments)
}

/// A prepared set was made with a recipe, which holds for it where only the task is named.
fn recipe_of_set(args: &TrainArgs) -> Option<PathBuf> {
    let [folder] = args.data.as_slice() else { return None };
    let names_task = args.recipe.as_deref().is_some_and(|name| name == Path::new(Task::Translate.name()));
    carousel::train::Prepared::recipe_in(folder).filter(|_| names_task)
}

fn next_free_run(task: Task) -> PathBuf {
    (1..)
        .map(|number| PathBuf::from(format!("runs/{}-{number:03}", task.name())))
        .find(|path| !path.exists())
        .unwrap_or_default()
}

/// The first Ctrl-C, or a polite kill, asks the training to stop after its step; the second ends the program.
fn stop_on_interrupt() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        message(format_args!("\nstopping after this step, then saving; Ctrl-C again stops at once"));
    })
    .context("could not listen for Ctrl-C")?;
    Ok(&STOP)
}

/// Tells on stderr how it went and where the run lies.
fn describe(args: &TrainArgs, path: &Path, recipe: &Recipe, summary: &Summary, seconds: f64) {
    let measure = Measure::of(recipe);
    let verb = if summary.stopped { "stopped" } else { "done" };
    let epochs = summary.epochs.map(|epochs| format!(" ({epochs:.1} epochs)")).unwrap_or_default();
    message(format_args!(
        "{verb} after {} steps{epochs} in {}, {} {}/s",
        thousands(summary.steps),
        duration(seconds),
        rounded(summary.tokens_per_second),
        measure.unit()
    ));
    let losses = [
        ("training", Some(summary.train_loss)),
        ("validation", summary.valid_loss),
        ("test", summary.test_loss),
    ];
    for (name, loss) in losses {
        let Some(loss) = loss else { continue };
        match measure.reading() {
            Some(reading) => message(format_args!(
                "  {name:<11} loss {loss:.3}  {:.2} {}",
                reading.of(loss),
                reading.unit()
            )),
            None => message(format_args!("  {name:<11} loss {loss:.4}  {}", measure.loss_unit())),
        }
    }
    if let Some(share) = summary.valid_accuracy.filter(|_| measure == Measure::Recall) {
        message(format_args!("  {:<11} {:.1} % of the symbols", "recalled", share * 100.0));
    }
    for (part, scores) in [("validation", &summary.valid_scores), ("test", &summary.test_scores)] {
        // As many on a line as fit.
        let (mut line, mut begins) = (format!("  {part:<11}"), true);
        for score in scores.iter().map(score_line) {
            if !begins && line.chars().count() + 2 + score.chars().count() > WIDTH {
                message(format_args!("{line}"));
                line = " ".repeat(13);
            }
            line.push_str(if line.ends_with(' ') { " " } else { "  " });
            line.push_str(&score);
            begins = false;
        }
        if !begins {
            message(format_args!("{line}"));
        }
    }
    message(format_args!("  {:<11} {}", "run", path.display()));
    message(format_args!("  {:<11} {}", "report", path.join("report.html").display()));
    if summary.stopped {
        message(format_args!("resume with:\n  {}", resume_command(args, path)));
    }
}

/// The command as the user would type it again, in the same folder.
fn resume_command(args: &TrainArgs, path: &Path) -> String {
    let program = std::env::args_os().next().unwrap_or_else(|| "carousel".into());
    let mut words = vec![program.to_string_lossy().into_owned(), "train".into(), "--resume".into()];
    words.extend(["--out".into(), path.display().to_string()]);
    if let Some(threads) = args.machine.threads {
        words.extend(["--threads".into(), threads.to_string()]);
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:=@".contains(character);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn json_summary(path: &Path, recipe: &Recipe, summary: &Summary) -> serde_json::Value {
    let measure = Measure::of(recipe);
    let reading = measure.reading();
    let bits = reading.filter(|reading| *reading != carousel::report::Reading::Perplexity);
    let bits = bits.zip(summary.valid_loss).map(|(reading, loss)| reading.of(loss));
    let squared = summary.valid_loss.filter(|_| measure == Measure::SquaredError);
    let mut object = json!({
        "run": path,
        "steps": summary.steps,
        "epochs": summary.epochs,
        "train_loss": summary.train_loss,
        "valid_loss": summary.valid_loss,
        "test_loss": summary.test_loss,
        "perplexity": summary.valid_loss.filter(|_| reading.is_some()).map(f64::exp),
        "bits_per_char": bits,
        "mean_squared_error": squared,
        "accuracy": summary.valid_accuracy,
        "tokens_per_second": summary.tokens_per_second,
        "parameters": summary.parameters,
        "stopped": summary.stopped,
        "stopped_early": summary.stopped_early,
    });
    for score in &summary.valid_scores {
        object[&score.name] = score.value.into();
    }
    for score in &summary.test_scores {
        object[format!("test_{}", score.name)] = score.value.into();
    }
    object
}

/// Some whole documents, where those are lines.
fn print_lines(run: &Path, seed: u64) -> anyhow::Result<()> {
    message(format_args!("it writes:"));
    let sampling = Sampling { temperature: 0.8, top_k: None, top_p: None, seed };
    let extent = [LAST_LINES, LAST_SAMPLE];
    let lines = sample_many(run, StepPrecision::F32, "", extent, &sampling, &mut |_, _| {})?;
    output::result(&visible(&(lines.join("\n") + "\n")))
}

fn print_sample(run: &Path, seed: u64) -> anyhow::Result<()> {
    message(format_args!("it writes:"));
    let sampling = Sampling { temperature: 0.8, top_k: None, top_p: None, seed };
    let mut written = Ok(());
    let text = sample(run, "", LAST_SAMPLE, &sampling, &mut |text| {
        if written.is_ok() {
            written = output::generated(text);
        }
    })?;
    written?;
    if text.ends_with('\n') { Ok(()) } else { output::result("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        let check = |word: &str, expected: &str| assert_eq!(quoted(word), expected);
        check("runs/lm-001", "runs/lm-001");
        check("my runs/a", "'my runs/a'");
        check("it's", r"'it'\''s'");
        check("", "''");
    }
}
