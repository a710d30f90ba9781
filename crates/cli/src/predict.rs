//! `carousel predict`: answers lines as they come, from stdin or from files.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use carousel::data::{
    Document, IndexedTexts, NumberExample, Quoting, StoredTexts, TagColumns, Tokens, is_packed, list_files,
    names_column, open, read_documents, read_sentences, read_table, read_texts, unpacked,
};
use carousel::decode::beam::Search;
use carousel::recipe::{InputName, Named, Task};
use carousel::run::RunFolder;
use carousel::saved::{
    Caption, Prediction, SavedCaptioner, SavedClassifier, SavedForecaster, SavedTagger, SavedTranslator,
    TagStream, TaggedSentence, TaggedStep, Translated, Wanted,
};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::forecast;
use crate::lines::{TOGETHER, each_lines};
use crate::machine::MachineArgs;
use crate::output::{self, Form};
use crate::search::{beam, refuse_idle};
use crate::translate::{answer_lines, object};
use crate::usage::BadUsage;

const EXAMPLES: &str = "\
Examples:
  carousel predict runs/classify-001 new.txt
  tail -f reviews.log | carousel predict runs/classify-001
  carousel predict runs/classify-001 --probabilities < new.txt
  carousel predict runs/classify-001 --json < new.txt

A line of text in, a line out: the likeliest class and its probability, with a
tab between; of a tagger the tags of the words, apart by blanks, and before them
the class of the sentence where it has learned some; of a translator what
`carousel translate` says; of a captioner the path of an image in, a sentence
about it out. Every line is answered as soon as it is there. Files named .csv,
.tsv or .jsonl are tables such as the classifier was trained on, a row an
answer, and .conll, .conllu, .iob or .bio hold a word a line. Of a
forecaster tables in, with the columns it was trained on, and the steps behind
their ends out, as a table.

A run that reads numbers, sound or images answers the files it is given. A
tagger of numbers also reads steps from stdin: a line a step, its values apart
by tabs, commas or blanks, an empty line between sequences; one of videos the
path of an image a line. One that walks forward answers line by line,
model.lookahead lines late.";

/// Answer lines of text, as they come
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PredictArgs {
    /// Folder of the run, as `train` made it
    run: PathBuf,

    /// Files of lines [default: stdin]
    files: Vec<PathBuf>,

    /// Tell the probability of every class, or of each tag
    #[arg(long)]
    probabilities: bool,

    /// Hypotheses at a time; 1 is greedy [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = beam)]
    beam: Option<usize>,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &PredictArgs) -> anyhow::Result<()> {
    args.machine.apply();
    let task = RunFolder::open(&args.run)?.read_recipe()?.task;
    let writes = matches!(task, Task::Translate | Task::Caption);
    let idle = [
        ("--beam", !writes && args.beam.is_some()),
        ("--probabilities", task == Task::Forecast && args.probabilities),
    ];
    refuse_idle(task, &idle)?;
    match task {
        Task::Classify => classes(args, &SavedClassifier::open(&args.run)?),
        Task::Tag => tags(args, &SavedTagger::open(&args.run)?),
        Task::Caption => captions(args, &SavedCaptioner::open(&args.run)?),
        Task::Translate => {
            let saved = SavedTranslator::open(&args.run)?;
            let shown = |found: &Translated| {
                let Some(best) = found.best.first() else { return "\n".to_owned() };
                match (args.json, args.probabilities) {
                    (true, _) => object(found),
                    (false, true) => {
                        let probability = best.log_probabilities.iter().sum::<f32>().exp();
                        format!("{}\t{probability:.4}\n", best.text)
                    }
                    (false, false) => format!("{}\n", best.text),
                }
            };
            answer_lines(&saved, &args.files, &Wanted { search: search(args), ..Wanted::default() }, &shown)
        }
        Task::Forecast => forecast::predict(&SavedForecaster::open(&args.run)?, &args.files, args.json),
        other => {
            let (run, other) = (args.run.display(), other.name());
            let message = format!(
                "{run} is a run of the task {other}; predict takes classify, tag, caption, translate and forecast"
            );
            Err(BadUsage(message).into())
        }
    }
}

fn classes(args: &PredictArgs, saved: &SavedClassifier) -> anyhow::Result<()> {
    if saved.recipe.data.input != InputName::Text {
        if args.files.is_empty() {
            let kind = saved.recipe.data.input.name();
            return Err(BadUsage(format!("the run reads {kind}: name the files to answer")).into());
        }
        let documents = read_documents(&args.files)?;
        for (place, prediction) in saved.predict_files(&documents)? {
            output::result(&shown(args, saved, Some(&place), &prediction))?;
        }
        return Ok(());
    }
    let answer = |lines: &[String]| {
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let answers = saved.predict(&texts);
        let written = answers.iter().map(|prediction| shown(args, saved, None, prediction));
        output::result(&written.collect::<String>())
    };
    if args.files.is_empty() {
        return each_lines(&[], answer);
    }
    for path in &args.files {
        if path.is_dir() {
            // A text a file, as it may have been learned from.
            let documents = read_documents(std::slice::from_ref(path))?;
            for documents in documents.chunks(TOGETHER) {
                let texts: Result<Vec<&str>, _> =
                    documents.iter().map(|document| document.text().map(str::trim)).collect();
                let answers = saved.predict(&texts?);
                let told = documents
                    .iter()
                    .zip(&answers)
                    .map(|(document, answer)| shown(args, saved, Some(&document.name), answer));
                output::result(&told.collect::<String>())?;
            }
        } else if !is_table(saved, path)? {
            each_lines(std::slice::from_ref(path), answer)?;
        } else if is_packed(path) {
            let documents = read_documents(std::slice::from_ref(path))?;
            let examples = read_texts(&documents, saved.columns())?;
            let texts: Vec<String> = examples.into_iter().map(|example| example.text).collect();
            texts.chunks(TOGETHER).try_for_each(answer)?;
        } else {
            // The rows stay in their file: it may be large.
            let IndexedTexts { texts, rows, .. } =
                StoredTexts::index(std::slice::from_ref(path), saved.columns(), Tokens::Byte)?;
            for rows in rows.chunks(TOGETHER) {
                let read: Vec<String> = rows.iter().map(|row| texts.text(row)).collect();
                texts.failure().map_or(Ok(()), Err)?;
                answer(&read)?;
            }
        }
    }
    Ok(())
}

/// Whether a file is a table such as the run learned from, or one without classes; others are read by lines.
fn is_table(saved: &SavedClassifier, path: &Path) -> anyhow::Result<bool> {
    let column = &saved.recipe.data.text;
    if !path.is_file() {
        return Ok(false);
    }
    let name = path.display().to_string();
    let ends = |endings: &[&str]| has_ending(unpacked(&name), endings);
    let holds_objects = ends(&[".jsonl", ".ndjson", ".json"]);
    let is_called_table = holds_objects || ends(&[".csv", ".tsv", ".tab"]);
    let file = open(path).with_context(|| format!("could not read {name}"))?;
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let mut told = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    let has_column = told.find(|line| !line.trim().is_empty()).is_some_and(|first| match holds_objects {
        // The reader of tables knows columns within columns.
        true => {
            let document = Document { name: name.clone(), bytes: first.into_bytes() };
            read_table(&document, Quoting::On).is_ok_and(|table| table.place(column).is_some())
        }
        // A first text may hold that word too; columns stand apart.
        false => names_column(&first, column) && (is_called_table || first.contains('\t')),
    });
    if !has_column && is_called_table {
        output::message(format_args!(
            "note: {name} has no column {column:?}, so its lines are answered as they stand"
        ));
    }
    Ok(has_column)
}

fn has_ending(name: &str, endings: &[&str]) -> bool {
    let name = name.to_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

fn search(args: &PredictArgs) -> Search {
    let usual = Search::default();
    Search { beam: args.beam.unwrap_or(usual.beam), ..usual }
}

/// Sentences about files, or about those whose paths come from stdin, a line each.
fn captions(args: &PredictArgs, saved: &SavedCaptioner) -> anyhow::Result<()> {
    if args.files.is_empty() {
        let mut number = 0;
        return each_lines(&[], |lines| {
            // What comes before a file that does not do is answered all the same.
            for line in lines {
                number += 1;
                let path = line.trim();
                if path.is_empty() {
                    bail!("stdin:{number}: the line is empty, expected the path of an image or array");
                }
                let told = described(args, saved, &[Path::new(path)], false);
                output::result(&told.with_context(|| format!("stdin:{number}"))?)?;
            }
            Ok(())
        });
    }
    let (files, _) = list_files(&args.files)?;
    for files in files.chunks(TOGETHER) {
        let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        output::result(&described(args, saved, &paths, true)?)?;
    }
    Ok(())
}

fn described(
    args: &PredictArgs,
    saved: &SavedCaptioner,
    paths: &[&Path],
    named: bool,
) -> anyhow::Result<String> {
    let shown = |(path, found): (&&Path, Vec<Caption>)| {
        let best = found.into_iter().next().unwrap_or_default();
        let probability = best.log_probabilities.iter().sum::<f32>().exp();
        if args.json {
            let mut object = json!(best);
            object["path"] = json!(path);
            object["probability"] = json!(probability);
            object["grid"] = json!(saved.grid());
            return format!("{object}\n");
        }
        let name = if named { format!("{}\t", path.display()) } else { String::new() };
        let more = if args.probabilities { format!("\t{probability:.4}") } else { String::new() };
        format!("{name}{}{more}\n", best.text)
    };
    Ok(paths.iter().zip(saved.caption(paths, &search(args))?).map(shown).collect())
}

fn tags(args: &PredictArgs, saved: &SavedTagger) -> anyhow::Result<()> {
    if saved.recipe.data.input != InputName::Text {
        return frames(args, saved);
    }
    let answer = |sentences: &[Vec<String>]| {
        let rows: Vec<&[String]> = sentences.iter().map(Vec::as_slice).collect();
        let answers = saved.predict(&rows);
        let written = answers.iter().zip(sentences).map(|(found, words)| tagged(args, found, words));
        output::result(&written.collect::<String>())
    };
    let by_lines = |files: &[PathBuf]| {
        each_lines(files, |lines| {
            let split = |line: &String| line.split_whitespace().map(str::to_owned).collect();
            answer(&lines.iter().map(split).collect::<Vec<_>>())
        })
    };
    if args.files.is_empty() {
        return by_lines(&[]);
    }
    for path in &args.files {
        // Files with a word a line have its tag beside it, which is not asked for.
        if has_ending(&path.to_string_lossy(), &[".conllu", ".conll", ".iob", ".iob2", ".bio"]) {
            let found = read_sentences(
                &read_documents(&[path.to_owned()])?,
                TagColumns { untagged: true, ..saved.columns() },
            )?;
            let sentences: Vec<Vec<String>> = found.into_iter().map(|sentence| sentence.words).collect();
            sentences.chunks(TOGETHER).try_for_each(answer)?;
        } else {
            by_lines(std::slice::from_ref(path))?;
        }
    }
    Ok(())
}

/// Sequences in files, a line each; or steps from stdin.
fn frames(args: &PredictArgs, saved: &SavedTagger) -> anyhow::Result<()> {
    if !args.files.is_empty() {
        let documents = read_documents(&args.files)?;
        for (place, found) in saved.predict_files(&documents)? {
            let line = match args.json {
                true => {
                    let (tags, probabilities) = (found.tags, found.probabilities);
                    format!("{}\n", json!({"place": place, "tags": tags, "probabilities": probabilities}))
                }
                false => format!("{place}\t{}", tagged(args, &found, &[])),
            };
            output::result(&line)?;
        }
        return Ok(());
    }
    if saved.recipe.data.input == InputName::Audio {
        let kind = saved.recipe.data.input.name();
        return Err(BadUsage(format!("the run reads {kind}: name the files to answer")).into());
    }
    let mut sequence =
        Sequence { saved, stream: saved.stream(), open: Vec::new(), width: 0, line: 1, images: Vec::new() };
    let mut number = 0;
    each_lines(&[], |lines| {
        let mut answers = String::new();
        for line in lines {
            number += 1;
            let more = sequence.read(line, number).map(|steps| told(args, &steps, line.trim().is_empty()));
            match more {
                Ok(more) => answers.push_str(&more),
                Err(error) => {
                    // What came before is answered all the same.
                    output::result(&answers)?;
                    return Err(error);
                }
            }
        }
        output::result(&answers)
    })?;
    output::result(&told(args, &sequence.finish()?, false))
}

/// Answers for steps, and an empty line where a sequence ends.
fn told(args: &PredictArgs, steps: &[TaggedStep], ends: bool) -> String {
    let line = |TaggedStep { tag, probability }: &TaggedStep| match (args.json, args.probabilities) {
        (true, _) => format!("{}\n", json!({"tag": tag, "probability": probability})),
        (false, true) => format!("{tag}={probability:.4}\n"),
        (false, false) => format!("{tag}\n"),
    };
    let mut text: String = steps.iter().map(line).collect();
    if ends && !args.json {
        text.push('\n');
    }
    text
}

/// The sequence that stdin is telling.
struct Sequence<'a> {
    saved: &'a SavedTagger,
    /// `None` where an answer needs what follows: steps are kept until the sequence ends.
    stream: Option<TagStream<'a>>,
    open: Vec<f32>,
    width: usize,
    /// Where it begins.
    line: usize,
    images: Vec<Document>,
}

impl Sequence<'_> {
    /// Reads a line; returns what can be answered after it.
    fn read(&mut self, line: &str, number: usize) -> anyhow::Result<Vec<TaggedStep>> {
        if line.trim().is_empty() {
            return self.finish();
        }
        if self.saved.recipe.data.input == InputName::Images {
            return self.image(line.trim()).with_context(|| format!("stdin:{number}"));
        }
        let apart = |letter: char| matches!(letter, ',' | ';') || letter.is_whitespace();
        let words = line.split(apart).filter(|word| !word.is_empty());
        let values = words.map(|word| match word.parse::<f32>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => bail!("stdin:{number}: {word:?} is no finite number, expected the values of a step"),
        });
        let values = values.collect::<anyhow::Result<Vec<f32>>>()?;
        if self.stream.is_none() && self.width > 0 && values.len() != self.width {
            bail!("stdin:{number}: {} values, expected {} as in the step before", values.len(), self.width);
        }
        match &mut self.stream {
            Some(stream) => {
                Ok(stream.push(&example(values.clone(), values.len(), number))?.into_iter().collect())
            }
            None => {
                if self.open.is_empty() {
                    (self.width, self.line) = (values.len(), number);
                }
                self.open.extend(values);
                Ok(Vec::new())
            }
        }
    }

    /// Reads the image at a path.
    fn image(&mut self, path: &str) -> anyhow::Result<Vec<TaggedStep>> {
        let image = read_documents(&[PathBuf::from(path)])?;
        let Some(stream) = &mut self.stream else {
            self.images.extend(image);
            return Ok(Vec::new());
        };
        let mut steps = Vec::new();
        for image in &image {
            steps.extend(stream.push_image(image)?);
        }
        Ok(steps)
    }

    /// What is left to answer of the sequence.
    fn finish(&mut self) -> anyhow::Result<Vec<TaggedStep>> {
        if let Some(stream) = &mut self.stream {
            return Ok(stream.finish());
        }
        let (values, images) = (std::mem::take(&mut self.open), std::mem::take(&mut self.images));
        let found = match (values.is_empty(), images.is_empty()) {
            (true, true) => return Ok(Vec::new()),
            (true, false) => self.saved.predict_images(&images)?,
            (false, _) => self.saved.predict_numbers(&example(values, self.width, self.line))?,
        };
        self.width = 0;
        let steps = found.tags.into_iter().zip(found.probabilities);
        Ok(steps.map(|(tag, probability)| TaggedStep { tag, probability }).collect())
    }
}

/// Steps as they come from stdin.
fn example(values: Vec<f32>, width: usize, line: usize) -> NumberExample {
    NumberExample { values, width, file: "stdin".to_owned(), line, ..NumberExample::default() }
}

fn tagged(args: &PredictArgs, found: &TaggedSentence, words: &[String]) -> String {
    if args.json {
        let mut object = json!({"words": words, "tags": found.tags, "probabilities": found.probabilities});
        if let Some((intent, probability)) = &found.intent {
            object["intent"] = json!(intent);
            object["intent_probability"] = json!(probability);
        }
        return format!("{object}\n");
    }
    let with =
        |(tag, p): (&String, &f32)| if args.probabilities { format!("{tag}={p:.4}") } else { tag.clone() };
    let tags: Vec<String> = found.tags.iter().zip(&found.probabilities).map(with).collect();
    let intent = match &found.intent {
        Some((intent, p)) if args.probabilities => format!("{intent}={p:.4}\t"),
        Some((intent, _)) => format!("{intent}\t"),
        None => String::new(),
    };
    format!("{intent}{}\n", tags.join(" "))
}

/// An answer, with the place of what it answers where that is not a line.
fn shown(
    args: &PredictArgs,
    saved: &SavedClassifier,
    place: Option<&str>,
    prediction: &Prediction,
) -> String {
    let named = saved.classes.names().iter().zip(&prediction.probabilities);
    let in_front = place.map_or_else(String::new, |place| format!("{place}\t"));
    match Form::from_flag(args.json) {
        Form::Json => {
            let all: Map<String, Value> = named.map(|(name, &p)| (name.clone(), json!(p))).collect();
            let mut answer = json!({"label": prediction.label, "probabilities": all});
            if let Some(place) = place {
                answer["place"] = place.into();
            }
            format!("{answer}\n")
        }
        Form::Text if args.probabilities => {
            let all: Vec<String> = named.map(|(name, p)| format!("{name}={p:.4}")).collect();
            format!("{in_front}{}\t{}\n", prediction.label, all.join("\t"))
        }
        Form::Text => {
            let highest = prediction.probabilities.iter().copied().fold(0.0, f32::max);
            format!("{in_front}{}\t{highest:.4}\n", prediction.label)
        }
    }
}
