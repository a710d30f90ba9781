//! `carousel inspect attention`: where a translator looks while it writes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use carousel::data::read_documents;
use carousel::report::{AttendedSentence, AttentionPage};
use carousel::saved::Wanted;
use clap::Args;
use serde_json::json;

use crate::lines::MARK;
use crate::output::{self, message, padded, shortened, visible};
use crate::search::TranslatorArgs;

const EXAMPLES: &str = "\
Examples:
  carousel inspect attention runs/translate-001 --data in.txt
  carousel inspect attention runs/translate-001 --data in.txt --html page.html
  carousel inspect attention runs/translate-001 --data in.txt --pictures dir

Each line is translated, and each token written is shown with the token that
was looked at most. --html writes the whole matrices as one page, --pictures
one SVG picture a sentence.";

/// Where a translator looks while it writes
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AttentionArgs {
    #[command(flatten)]
    translator: TranslatorArgs,

    /// Files of lines to translate
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,

    /// Translate at most so many lines
    #[arg(long, value_name = "N", value_parser = crate::whole::<usize>, allow_negative_numbers = true, default_value_t = 10)]
    sentences: usize,

    /// Write the matrices as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write a picture of each matrix into a folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &AttentionArgs) -> anyhow::Result<()> {
    let run = &args.translator.run;
    super::check_page(args.html.as_ref())?;
    let saved = args.translator.open()?;
    if saved.recipe.model.attention.score().is_none() {
        bail!("{} has no attention (model.attention = \"none\")", run.display());
    }
    let mut lines = Vec::new();
    for document in read_documents(&args.data)? {
        let text = String::from_utf8(document.bytes)
            .ok()
            .with_context(|| format!("{} is not UTF-8, expected lines of text", document.name))?;
        let text = text.strip_prefix(MARK).unwrap_or(&text);
        lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    if lines.is_empty() {
        bail!("no line with text in the files of --data, expected some to translate");
    }
    lines.truncate(args.sentences);
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let wanted = Wanted { search: args.translator.search(1), ..Wanted::default() };
    let found = saved.translate(&texts, &wanted);
    let sentences: Vec<AttendedSentence> = lines
        .iter()
        .zip(found)
        .filter_map(|(line, translated)| {
            let best = translated.best.into_iter().next()?;
            let probabilities = best.log_probabilities.iter().map(|log| log.exp());
            Some(AttendedSentence {
                source: line.clone(),
                target: best.text,
                source_tokens: translated.source,
                target_tokens: best.tokens.into_iter().zip(probabilities).collect(),
                weights: best.attention,
            })
        })
        .collect();
    if let Some(folder) = &args.pictures {
        fs::create_dir_all(folder).with_context(|| format!("could not write {}", folder.display()))?;
        for (number, sentence) in (1..).zip(&sentences) {
            let path = folder.join(format!("{number}.svg"));
            fs::write(&path, sentence.to_svg())
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        message(format_args!("{} pictures in {}", sentences.len(), folder.display()));
    }
    if let Some(path) = &args.html {
        let title = super::run_name(run);
        let subtitle =
            "A row is a token written, a column a token read: the stronger its colour, the more it was looked at."
                .to_owned();
        super::write_page(path, &AttentionPage { title, subtitle, sentences: sentences.clone() }.to_html())?;
    }
    if args.json {
        let all: Vec<_> = sentences
            .iter()
            .map(|sentence| {
                json!({
                    "source": sentence.source,
                    "text": sentence.target,
                    "source_tokens": sentence.source_tokens,
                    "tokens": sentence.target_tokens,
                    "attention": sentence.weights,
                })
            })
            .collect();
        return output::json(&json!({"run": run, "sentences": all}));
    }
    output::result(&visible(&sentences.iter().map(shown).collect::<String>()))
}

/// A sentence with the place that each token was written from.
fn shown(sentence: &AttendedSentence) -> String {
    let mut text = format!("{}\n{}\n", sentence.source, sentence.target);
    for ((token, probability), weights) in sentence.target_tokens.iter().zip(&sentence.weights) {
        let most = (0..weights.len()).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap_or_default();
        text.push_str(&format!(
            "  {} {:>5.1} %  from {} {:>5.1} %\n",
            padded(&shortened(token, 20), 20),
            probability * 100.0,
            padded(&shortened(sentence.source_tokens.get(most).map_or("", String::as_str), 20), 20),
            weights[most] * 100.0
        ));
    }
    text + "\n"
}
