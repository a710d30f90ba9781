//! `carousel inspect attention`: where a translator or captioner looks while it writes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use carousel::data::{is_subject, list_files, read_documents, unmarked};
use carousel::recipe::{Named, Task};
use carousel::report::{AttendedSentence, AttentionPage, CaptionedPicture};
use carousel::run::RunFolder;
use carousel::saved::{SavedCaptioner, SavedTranslator, Wanted};
use clap::Args;
use serde_json::json;

use crate::machine::MachineArgs;
use crate::output::{self, columns, message, padded, shortened, visible};
use crate::report::picture;
use crate::search::SearchArgs;

const EXAMPLES: &str = "\
Examples:
  carousel inspect attention runs/translate-001 --data in.txt
  carousel inspect attention runs/translate-001 --data in.txt --html page.html
  carousel inspect attention runs/translate-001 --data in.txt --pictures dir
  carousel inspect attention runs/caption-001 --data a.png --html page.html

Each line is translated, and each token written is shown with the token that
was looked at most. --html writes the whole matrices as one page, --pictures
one SVG picture a sentence. Of a captioner --data are images, or arrays of
features, or folders of them: each is written about, and for each token the
grid that was looked at is drawn, the darker the more; the page and the
pictures show the image, bright there.";

/// Where a translator or captioner looks while it writes
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AttentionArgs {
    /// Folder of the run, as `train translate` or `caption` made it
    run: PathBuf,

    /// Files of lines to translate, or images
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,

    /// Take at most so many lines, or images
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true, default_value_t = 10)]
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

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &AttentionArgs) -> anyhow::Result<()> {
    super::check_page(args.html.as_ref())?;
    args.machine.apply();
    let run = args.run.display();
    let recipe = RunFolder::open(&args.run)?.read_recipe()?;
    if !matches!(recipe.task, Task::Translate | Task::Caption) {
        bail!("{run} is a run of the task {}, expected translate or caption", recipe.task.name());
    }
    if recipe.model.attention.score().is_none() {
        bail!("{run} has no attention (model.attention = \"none\")");
    }
    match recipe.task {
        Task::Caption => captions(args, &SavedCaptioner::open(&args.run)?),
        _ => translations(args, &SavedTranslator::open(&args.run)?),
    }
}

/// Writes the pages and pictures that are asked for.
fn draw(args: &AttentionArgs, page: AttentionPage, drawn: &[Option<String>]) -> anyhow::Result<()> {
    if let Some(folder) = &args.pictures {
        fs::create_dir_all(folder).with_context(|| format!("could not write {}", folder.display()))?;
        let mut count = 0;
        for (number, svg) in (1..).zip(drawn) {
            if let Some(svg) = svg {
                write(&folder.join(format!("{number}.svg")), svg)?;
                count += 1;
            }
        }
        message(format_args!("{count} pictures in {}", folder.display()));
    }
    if let Some(path) = &args.html {
        let title = super::run_name(&args.run);
        super::write_page(path, &AttentionPage { title, ..page }.to_html())?;
    }
    Ok(())
}

/// Where a captioner looks at images.
fn captions(args: &AttentionArgs, saved: &SavedCaptioner) -> anyhow::Result<()> {
    args.search.refuse_idle(Task::Caption)?;
    let (mut files, _) = list_files(&args.data)?;
    // A folder may hold the table that the images belong to.
    files.retain(|path| is_subject(&path.display().to_string()));
    if files.is_empty() {
        bail!("no image or array in the files of --data, expected .png, .jpg or .npy");
    }
    files.truncate(args.sentences);
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let mut pictures = Vec::new();
    for (path, found) in paths.iter().zip(saved.caption(&paths, &args.search.search())?) {
        let Some(best) = found.into_iter().next() else { continue };
        let probabilities = best.log_probabilities.iter().map(|log| log.exp());
        pictures.push(CaptionedPicture {
            path: path.display().to_string(),
            picture: picture(path),
            text: best.text,
            tokens: best.tokens.into_iter().zip(probabilities).collect(),
            references: Vec::new(),
            grid: saved.grid(),
            weights: best.attention,
        });
    }
    let drawn: Vec<Option<String>> = pictures.iter().map(CaptionedPicture::to_svg).collect();
    let subtitle =
        "An image is bright where the model looked for that token; the number is the token's probability in \
                    percent."
            .to_owned();
    draw(args, AttentionPage { subtitle, pictures: pictures.clone(), ..AttentionPage::default() }, &drawn)?;
    if args.json {
        let all: Vec<_> = pictures
            .iter()
            .map(|one| {
                json!({
                    "path": one.path,
                    "text": one.text,
                    "tokens": one.tokens,
                    "grid": one.grid,
                    "attention": one.weights,
                })
            })
            .collect();
        return output::json(&json!({"run": args.run, "captions": all}));
    }
    output::result(&visible(&pictures.iter().map(tiles).collect::<String>()))
}

/// Where a translator looks at its sources.
fn translations(args: &AttentionArgs, saved: &SavedTranslator) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for document in read_documents(&args.data)? {
        let text = String::from_utf8(document.bytes)
            .ok()
            .with_context(|| format!("{} is not UTF-8, expected lines of text", document.name))?;
        lines.extend(unmarked(&text).lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    if lines.is_empty() {
        bail!("no line with text in the files of --data, expected some to translate");
    }
    lines.truncate(args.sentences);
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let wanted = Wanted { search: args.search.search(), ..Wanted::default() };
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
    let drawn: Vec<Option<String>> = sentences.iter().map(|sentence| Some(sentence.to_svg())).collect();
    let subtitle =
        "A row is a token written, a column a token read: the stronger its colour, the more it was looked at."
            .to_owned();
    draw(args, AttentionPage { subtitle, sentences: sentences.clone(), ..AttentionPage::default() }, &drawn)?;
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
        return output::json(&json!({"run": args.run, "sentences": all}));
    }
    output::result(&visible(&sentences.iter().map(shown).collect::<String>()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
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

/// Columns of a terminal.
const COLUMNS: usize = 80;
/// From what is looked at least to what is looked at most.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// A caption, and for each of its tokens the places that were looked at: the grid of an image, two columns a place, or
/// the share of each place of features.
fn tiles(one: &CaptionedPicture) -> String {
    let mut text = format!("{}\n{}\n", one.path, one.text);
    let all: Vec<Vec<String>> = one
        .tokens
        .iter()
        .zip(&one.weights)
        .map(|((token, probability), weights)| {
            let mut tile = vec![format!("{} {:.0}", shortened(token, 14), probability * 100.0)];
            let places = one.grid.map_or(weights.len(), |[_, places]| places).max(1);
            let most = weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
            tile.extend(weights.chunks(places).map(|row| {
                let shade =
                    |weight: &f32| SHADES[(weight / most * (SHADES.len() - 1) as f32).round() as usize];
                row.iter().map(shade).flat_map(|shade| [shade, shade]).collect()
            }));
            tile
        })
        .collect();
    let wide = |tile: &Vec<String>| tile.iter().map(|line| columns(line)).max().unwrap_or(0);
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        // As many tiles beside each other as there is room for, and one in any case.
        let (mut count, mut taken) = (0, 0);
        while count < rest.len() && (count == 0 || taken + 2 + wide(&rest[count]) <= COLUMNS) {
            taken += 2 + wide(&rest[count]);
            count += 1;
        }
        let (beside, after) = rest.split_at(count);
        for line in 0..beside.iter().map(Vec::len).max().unwrap_or(0) {
            let mut row = String::new();
            for tile in beside {
                row.push_str("  ");
                row.push_str(&padded(tile.get(line).map_or("", String::as_str), wide(tile)));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text.push('\n');
        rest = after;
    }
    text
}
