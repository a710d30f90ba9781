//! Turns what a run recorded into its `report.html`.

use std::fs;
use std::path::Path;

use anyhow::Context;

use carousel::data::{Tokens, thumbnail};
use carousel::metrics::Confusion;
use carousel::recipe::{Recipe, Task};
use carousel::report::{
    AttendedSentence, CaptionedPicture, CaptionsSection, ClassesSection, MistakenExample, Picture, Point,
    Sample, TrainingReport, TranslationsSection, thousands,
};
use carousel::run::RunFolder;
use carousel::train::{
    CAPTIONS, CaptionEvaluation, CaptionedExample, EVALUATION, Summary, TRANSLATIONS, TranslateEvaluation,
    TranslationExample, WrongExample,
};
use serde::Deserialize;
use serde_json::Value;

use crate::forecast;
use crate::measure::Measure;
use crate::wording::{cell_name, percent, rounded, score_name, score_value};

/// Width and height of a picture in a report, at most.
const PICTURE: u32 = 240;

/// Builds the report from the recorded metrics and writes it into the run.
pub(crate) fn write(
    run: &RunFolder,
    recipe: &Recipe,
    summary: &Summary,
    learned_from: &str,
) -> anyhow::Result<()> {
    let mut report = build(run.path(), &run.read_metrics()?, recipe, summary, learned_from);
    // What a run told at an end before this one is of other steps.
    if !summary.stopped {
        report.classes = classes(run, summary)?;
        report.translations = translations(run, summary)?;
        report.captions = captions(run, summary)?;
        report.forecasts = forecast::section(run, summary)?;
    }
    Ok(run.write("report.html", report.to_html())?)
}

fn build(
    folder: &Path,
    metrics: &[Value],
    recipe: &Recipe,
    summary: &Summary,
    learned_from: &str,
) -> TrainingReport {
    let measure = Measure::of(recipe);
    let curve = |kind: &str, field: &str| -> Vec<Point> {
        let lines = metrics.iter().filter(|line| line["kind"] == kind);
        lines
            .filter_map(|line| Some(Point { step: line["step"].as_u64()?, value: line[field].as_f64()? }))
            .collect()
    };
    let samples = metrics
        .iter()
        .filter(|line| line["kind"] == "sample")
        .filter_map(|line| {
            Some(Sample { step: line["step"].as_u64()?, text: line["text"].as_str()?.to_owned() })
        })
        .collect();

    let layers = match recipe.model.layers {
        1 => "one layer".to_owned(),
        layers => format!("{layers} layers"),
    };
    let model = match (recipe.task, recipe.data.tokens) {
        (Task::Adding, _) => "A model of the adding problem",
        (Task::Copy, _) => "A model of copy memory",
        (Task::Classify, _) => "A classifier",
        (Task::Tag, _) => "A tagger",
        (Task::Caption, _) => "A captioner",
        (Task::Translate, _) => "A translator",
        (Task::Forecast, _) => "A forecaster",
        (Task::Lm, Tokens::Byte) => "A byte model",
        (Task::Lm, Tokens::Char) => "A character model",
        (Task::Lm, Tokens::Word) => "A word model",
        (Task::Lm, Tokens::Bpe) => "A byte pair model",
    };
    let mut figures = Vec::new();
    let mut figure = |name: &str, value: String| figures.push((name.to_owned(), value));
    for (part, scores) in [("validation", &summary.valid_scores), ("test", &summary.test_scores)] {
        for score in scores {
            figure(&format!("{part} {}", score_name(&score.name)), score_value(score));
        }
    }
    for (name, loss) in [("validation", summary.valid_loss), ("test", summary.test_loss)] {
        if let Some(loss) = loss {
            if let Some(reading) = measure.reading() {
                figure(name, format!("{:.2} {}", reading.of(loss), reading.unit()));
            }
            figure(&format!("{name} loss"), format!("{loss:.4} {}", measure.loss_unit()));
        }
    }
    if let Some(share) = summary.valid_accuracy.filter(|_| measure == Measure::Recall) {
        figure("recalled", format!("{:.1} %", share * 100.0));
    }
    figure("training loss", format!("{:.4} {}", summary.train_loss, measure.loss_unit()));
    let epochs = summary.epochs.map(|epochs| format!(" in {epochs:.1} epochs")).unwrap_or_default();
    figure("steps", format!("{}{epochs}", thousands(summary.steps)));
    figure("speed", format!("{} {}/s", rounded(summary.tokens_per_second), measure.unit()));
    figure("parameters", thousands(summary.parameters as u64));

    TrainingReport {
        title: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
        subtitle: format!(
            "{model}: {layers} of {} with {} units, trained on {learned_from}.",
            cell_name(recipe),
            recipe.model.hidden
        ),
        summary: figures,
        reading: measure.reading(),
        loss_unit: measure.loss_unit(),
        train_loss: curve("train", "loss"),
        valid_loss: curve("valid", "loss"),
        gradient_norm: curve("train", "gradient_norm"),
        clipped: curve("train", "clipped"),
        learning_rate: curve("train", "learning_rate"),
        samples,
        classes: None,
        translations: None,
        captions: None,
        forecasts: None,
        config: dotted(&recipe.to_toml()),
    }
}

/// What evaluations of all tasks with classes hold.
#[derive(Deserialize)]
struct Told {
    confusion: Confusion,
    wrong: Vec<WrongExample>,
}

/// What the best checkpoint took for what, where the run has told.
fn classes(run: &RunFolder, summary: &Summary) -> anyhow::Result<Option<ClassesSection>> {
    let path = run.path().join(EVALUATION);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let measured: Told =
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run wrote", path.display()))?;
    let wrong = measured.wrong.into_iter().map(|wrong| MistakenExample {
        place: wrong.place,
        text: wrong.shown,
        expected: wrong.expected,
        found: wrong.found,
        probability: wrong.probability,
    });
    let part = if summary.test_loss.is_some() { "test" } else { "validation" };
    let section = ClassesSection { part, confusion: measured.confusion, wrong: wrong.collect() };
    Ok(Some(section))
}

/// An image as pages show it. Features are none, and a file may be gone by now.
pub(crate) fn picture(path: &Path) -> Option<Picture> {
    let (mime, bytes, [width, height]) = thumbnail(path, PICTURE).ok()?;
    Some(Picture { mime, bytes, width, height })
}

/// What the best checkpoint wrote about images, where the run has told.
fn captions(run: &RunFolder, summary: &Summary) -> anyhow::Result<Option<CaptionsSection>> {
    let path = run.path().join(CAPTIONS);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let measured: CaptionEvaluation =
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run wrote", path.display()))?;
    let CaptionEvaluation { bleu_1, bleu_2, bleu_3, bleu, grid, .. } = measured;
    let figures = [
        ("BLEU-1, 2, 3, 4", format!("{bleu_1:.2} {bleu_2:.2} {bleu_3:.2} {bleu:.2}")),
        ("signature", measured.bleu_signature),
        ("ROUGE-L", percent(measured.rouge_l)),
        ("exact match", percent(measured.exact_match)),
        ("teacher-forced perplexity", format!("{:.4}", measured.perplexity)),
    ];
    let example = |example: CaptionedExample| CaptionedPicture {
        picture: picture(Path::new(&example.path)),
        path: example.path,
        text: example.text,
        tokens: example.tokens,
        references: example.references,
        grid,
        weights: example.attention,
    };
    Ok(Some(CaptionsSection {
        part: if summary.test_loss.is_some() { "test" } else { "validation" },
        figures: figures.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        examples: measured.examples.into_iter().map(example).collect(),
    }))
}

/// What the best checkpoint translated, where the run has told.
fn translations(run: &RunFolder, summary: &Summary) -> anyhow::Result<Option<TranslationsSection>> {
    let path = run.path().join(TRANSLATIONS);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let measured: TranslateEvaluation =
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run wrote", path.display()))?;
    let figures = [
        ("BLEU", measured.bleu_line),
        ("how sure", measured.bleu_interval.map_or_else(String::new, |interval| interval.to_string())),
        ("signature", measured.bleu_signature),
        ("chrF2", format!("{:.2}", measured.chrf)),
        ("exact match", percent(measured.exact_match)),
        ("token error rate", percent(measured.token_error_rate)),
        ("teacher-forced perplexity", format!("{:.4}", measured.perplexity)),
        ("free-running perplexity", format!("{:.4}", measured.free_perplexity)),
    ];
    let example = |example: TranslationExample| {
        let sentence = AttendedSentence {
            source: example.source,
            target: example.text,
            target_tokens: example.tokens,
            ..AttendedSentence::default()
        };
        (sentence, example.references)
    };
    Ok(Some(TranslationsSection {
        part: if summary.test_loss.is_some() { "test" } else { "validation" },
        figures: (figures.into_iter().filter(|(_, value)| !value.is_empty()))
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        examples: measured.examples.into_iter().map(example).collect(),
    }))
}

/// The keys and values of a recipe as it writes itself: one key a line, under section headers.
fn dotted(toml: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ") {
            keys.push((format!("{section}{key}"), value.trim_matches('"').to_owned()));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_recipe_is_shown_with_its_section() {
        let keys = dotted(&Recipe::default_for(Task::Lm).to_toml());
        let check = |key: &str, value: &str| {
            assert!(keys.iter().any(|(found, shown)| found == key && shown == value), "{key} in {keys:?}");
        };
        check("task", "lm");
        check("data.split", "[0.9, 0.05, 0.05]");
        check("model.cell", "lstm");
        check("train.batch", "50");
    }
}
