//! Turns what a run recorded into its `report.html`.

use std::path::Path;

use carousel::data::Tokens;
use carousel::recipe::{Named, Recipe};
use carousel::report::{Point, Reading, Sample, TrainingReport, thousands};
use carousel::run::RunFolder;
use carousel::train::Summary;
use serde_json::Value;

use crate::progress::rounded;

/// What a loss over these tokens is also given as.
pub(crate) fn reading(tokens: Tokens) -> Reading {
    match tokens {
        Tokens::Byte => Reading::BitsPerByte,
        Tokens::Char => Reading::BitsPerCharacter,
        Tokens::Word => Reading::Perplexity,
    }
}

/// Builds the report from the recorded metrics and writes it into the run.
pub(crate) fn write(
    run: &RunFolder,
    recipe: &Recipe,
    summary: &Summary,
    learned_from: &str,
) -> anyhow::Result<()> {
    let report = build(run.path(), &run.read_metrics()?, recipe, summary, learned_from);
    Ok(run.write("report.html", report.to_html())?)
}

fn build(
    folder: &Path,
    metrics: &[Value],
    recipe: &Recipe,
    summary: &Summary,
    learned_from: &str,
) -> TrainingReport {
    let reading = reading(recipe.data.tokens);
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
    let token = match recipe.data.tokens {
        Tokens::Byte => "byte",
        Tokens::Char => "character",
        Tokens::Word => "word",
    };
    let mut figures = Vec::new();
    let mut figure = |name: &str, value: String| figures.push((name.to_owned(), value));
    for (name, loss) in [("validation", summary.valid_loss), ("test", summary.test_loss)] {
        if let Some(loss) = loss {
            figure(name, format!("{:.2} {}", reading.of(loss), reading.unit()));
            figure(&format!("{name} loss"), format!("{loss:.3} nats/token"));
        }
    }
    figure("training loss", format!("{:.3} nats/token", summary.train_loss));
    figure("steps", format!("{} in {:.1} epochs", thousands(summary.steps), summary.epochs));
    figure("speed", format!("{} tokens/s", rounded(summary.tokens_per_second)));
    figure("parameters", thousands(summary.parameters as u64));

    TrainingReport {
        title: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
        subtitle: format!(
            "A {token} model: {layers} of {} with {} units, trained on {learned_from}.",
            recipe.model.cell.name().to_uppercase(),
            recipe.model.hidden
        ),
        summary: figures,
        reading,
        train_loss: curve("train", "loss"),
        valid_loss: curve("valid", "loss"),
        gradient_norm: curve("train", "gradient_norm"),
        clipped: curve("train", "clipped"),
        samples,
        config: dotted(&recipe.to_toml()),
    }
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
    use carousel::recipe::Task;

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
