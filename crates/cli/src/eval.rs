//! `carousel eval`: measures a saved run on text.

use std::path::PathBuf;

use carousel::recipe::{InputName, Task};
use carousel::report::thousands;
use carousel::run::RunFolder;
use carousel::train::{
    CaptionEvaluation, ClassEvaluation, Evaluation, TagEvaluation, TranslateEvaluation, evaluate,
    evaluate_captioner, evaluate_classifier, evaluate_forecaster, evaluate_large, evaluate_large_classifier,
    evaluate_large_tagger, evaluate_stepwise, evaluate_tagger, evaluate_translator,
};
use clap::Args;
use serde_json::json;

use crate::forecast;
use crate::machine::{MachineArgs, Precision};
use crate::output::{self, Form, visible};
use crate::search::SearchArgs;
use crate::sources::Held;
use crate::usage::BadUsage;

const EXAMPLES: &str = "\
Examples:
  carousel eval runs/lm-001 --data test.txt
  carousel eval runs/lm-001 --data test.txt --json | jq .perplexity
  carousel eval runs/lm-001 --data test.txt --precision int8
  carousel eval runs/classify-001 --data new.tsv
  carousel eval runs/translate-001 --data test.de test.en --beam 10

The run's best checkpoint is measured: over every token of a text, with how
many of them the run's vocabulary does not have, where there are any; or over
every example of a table, or every image of one, written about with a beam, or
every pair of texts, translated so, or every place of a series from which it
can be forecast.";

/// Measure a saved run on text
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Files and folders to measure on
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,

    /// Recurrent weights in f32 or int8
    #[arg(long, value_enum, default_value_t = Precision::F32, hide_possible_values = true)]
    #[arg(value_name = "P")]
    precision: Precision,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    args.machine.apply();
    let recipe = RunFolder::open(&args.run)?.read_recipe()?;
    let task = recipe.task;
    if task != Task::Lm && !matches!(args.precision, Precision::F32) {
        return Err(BadUsage("--precision int8 is for language models".to_owned()).into());
    }
    args.search.refuse_idle(task)?;
    if Held::of(&recipe).exceeded_by(&args.data)?.is_some() {
        if task == Task::Classify {
            return classes(args, &evaluate_large_classifier(&args.run, &args.data)?);
        }
        if task == Task::Tag {
            return tags(args, &evaluate_large_tagger(&args.run, &args.data)?, recipe.data.input);
        }
        let precision = match args.precision {
            Precision::F32 => None,
            Precision::Int8 => Some(args.precision.step()),
        };
        return text(args, &evaluate_large(&args.run, &args.data, precision)?);
    }
    let documents = carousel::data::read_documents(&args.data)?;
    if task == Task::Classify {
        return classes(args, &evaluate_classifier(&args.run, &documents)?);
    }
    if task == Task::Tag {
        return tags(args, &evaluate_tagger(&args.run, &documents)?, recipe.data.input);
    }
    if task == Task::Forecast {
        return forecast::tell(&args.run, &evaluate_forecaster(&args.run, &documents)?, args.json);
    }
    if task == Task::Caption {
        return captions(args, &evaluate_captioner(&args.run, &documents, &args.search.search())?);
    }
    if task == Task::Translate {
        return translations(args, &evaluate_translator(&args.run, &documents, &args.search.search())?);
    }
    let measured = match args.precision {
        Precision::F32 => evaluate(&args.run, &documents)?,
        Precision::Int8 => evaluate_stepwise(&args.run, &documents, args.precision.step())?,
    };
    text(args, &measured)
}

/// How a language model does.
fn text(args: &EvalArgs, measured: &Evaluation) -> anyhow::Result<()> {
    match Form::from_flag(args.json) {
        Form::Json => output::json(&json!({
            "run": args.run,
            "precision": args.precision.name(),
            "tokens": measured.tokens,
            "unknown": measured.unknown,
            "loss": measured.loss,
            "perplexity": measured.perplexity,
            "bits_per_char": measured.bits_per_char,
            "accuracy": measured.accuracy,
        })),
        Form::Text => {
            let bits =
                measured.bits_per_char.map(|bits| format!("bits/char   {bits:.4}\n")).unwrap_or_default();
            let share = measured.unknown as f64 / measured.tokens.max(1) as f64;
            let unknown = match measured.unknown {
                0 => String::new(),
                count => format!("unknown     {} ({:.2} %)\n", thousands(count as u64), share * 100.0),
            };
            output::result(&format!(
                "tokens      {}\n{unknown}loss        {:.4} nats/token\nperplexity  {:.4}\n{bits}accuracy    {:.2} %\n",
                thousands(measured.tokens as u64),
                measured.loss,
                measured.perplexity,
                measured.accuracy * 100.0,
            ))
        }
    }
}

/// How a classifier does.
fn classes(args: &EvalArgs, measured: &ClassEvaluation) -> anyhow::Result<()> {
    if args.json {
        return output::json(&json!({
            "run": args.run,
            "examples": measured.examples,
            "loss": measured.loss,
            "accuracy": measured.accuracy,
            "macro_f1": measured.macro_f1,
            "balanced_accuracy": measured.balanced_accuracy,
            "confusion": measured.confusion,
        }));
    }
    output::result(&format!(
        "examples           {}\nloss               {:.4} nats/example\naccuracy           {:.2} %\n\
         macro F1           {:.2} %\nbalanced accuracy  {:.2} %\n\n{}",
        thousands(measured.examples as u64),
        measured.loss,
        measured.accuracy * 100.0,
        measured.macro_f1 * 100.0,
        measured.balanced_accuracy * 100.0,
        visible(&measured.confusion.to_text())
    ))
}

/// How a tagger does.
fn tags(args: &EvalArgs, measured: &TagEvaluation, input: InputName) -> anyhow::Result<()> {
    let (sequences, steps, step) = match input {
        InputName::Text => ("sentences", "words", "word"),
        InputName::Numbers | InputName::Audio => ("sequences", "steps", "step"),
        InputName::Images => ("videos", "frames", "frame"),
    };
    let confusion = &measured.confusion;
    if args.json {
        let mut line = json!({
            "run": args.run,
            "loss": measured.loss,
            "accuracy": measured.accuracy,
            "macro_f1": confusion.macro_f1(),
            "balanced_accuracy": confusion.balanced_accuracy(),
            "span_f1": measured.spans.map(|spans| spans.f1),
            "span_precision": measured.spans.map(|spans| spans.precision),
            "span_recall": measured.spans.map(|spans| spans.recall),
            "intent_accuracy": measured.intent_accuracy,
            "confusion": measured.confusion,
        });
        line[sequences] = json!(measured.sentences);
        line[steps] = json!(measured.words);
        return output::json(&line);
    }
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let mut text = format!(
        "{sequences:<9}          {}\n{steps:<5}              {}\nloss               {:.4} nats/{step}\n\
         accuracy           {}\nmacro F1           {}\nbalanced accuracy  {}\n",
        thousands(measured.sentences as u64),
        thousands(measured.words as u64),
        measured.loss,
        percent(measured.accuracy),
        percent(confusion.macro_f1()),
        percent(confusion.balanced_accuracy()),
    );
    if let Some(spans) = measured.spans {
        text.push_str(&format!(
            "span precision     {}\nspan recall        {}\nspan F1            {}\n",
            percent(spans.precision),
            percent(spans.recall),
            percent(spans.f1)
        ));
    }
    if let Some(share) = measured.intent_accuracy {
        text.push_str(&format!("intent accuracy    {}\n", percent(share)));
    }
    output::result(&format!("{text}\n{}", visible(&measured.confusion.to_text())))
}

/// How a captioner does.
fn captions(args: &EvalArgs, measured: &CaptionEvaluation) -> anyhow::Result<()> {
    if args.json {
        let mut line = serde_json::to_value(measured)?;
        line["run"] = json!(args.run);
        return output::json(&line);
    }
    let CaptionEvaluation { loss, perplexity, bleu_1, bleu_2, bleu_3, bleu, rouge_l, exact_match, .. } =
        measured;
    output::result(&format!(
        "subjects                   {} with {} captions\n\
         loss                       {loss:.4} nats/token\n\
         teacher-forced perplexity  {perplexity:.4}\n\
         exact match                {:.2} %\n\
         ROUGE-L                    {:.2} %\n\
         BLEU-1, 2, 3, 4            {bleu_1:.2} {bleu_2:.2} {bleu_3:.2} {bleu:.2}\n\
         {}\n{}\n",
        thousands(measured.subjects as u64),
        thousands(measured.references as u64),
        exact_match * 100.0,
        rouge_l * 100.0,
        measured.bleu_line,
        measured.bleu_signature,
    ))
}

/// How a translator does.
fn translations(args: &EvalArgs, measured: &TranslateEvaluation) -> anyhow::Result<()> {
    if args.json {
        let mut line = serde_json::to_value(measured)?;
        line["run"] = json!(args.run);
        return output::json(&line);
    }
    let TranslateEvaluation { loss, perplexity, free_perplexity, exact_match, token_error_rate, .. } =
        measured;
    let left_out = match measured.left_out {
        0 => String::new(),
        count => format!("left out                   {} with an empty side\n", thousands(count as u64)),
    };
    let interval = measured.bleu_interval.map(|interval| format!("BLEU {interval}\n")).unwrap_or_default();
    output::result(&format!(
        "sentences                  {} with {} references\n\
         {left_out}loss                       {loss:.4} nats/token\n\
         teacher-forced perplexity  {perplexity:.4}\n\
         free-running perplexity    {free_perplexity:.4}\n\
         exact match                {:.2} %\n\
         token error rate           {:.2} %\n\
         chrF2                      {:.2}\n\
         {}\n{interval}{}\n",
        thousands(measured.sentences as u64),
        thousands(measured.references as u64),
        exact_match * 100.0,
        token_error_rate * 100.0,
        measured.chrf,
        measured.bleu_line,
        measured.bleu_signature,
    ))
}
