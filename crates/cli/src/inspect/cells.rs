//! `carousel inspect cells`: the units that follow a property of the text.

use std::fmt::Write;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context;
use carousel::lens::{
    Activations, CellSearch, Finding, Hold, Operation, Property, Ranked, Rankings, Reading, Search, Surgery,
    Text, Unit, can_hold, film, losses, operate, passages, rank, search,
};
use carousel::models::language_model::LanguageModel;
use carousel::record::Keep;
use carousel::report::{CellsPage, PageUnit, thousands};
use carousel::saved::SavedLanguageModel;
use clap::Args;
use serde_json::{Value, json};

use super::{ReadingArgs, SubjectArgs, Working};
use crate::output::{self, Form, columns, columns_of, message, padded, shortened};
use crate::usage::BadUsage;

/// Memory for activations, one byte each.
const ROOM: usize = 5 << 28;
/// Units on a page.
const SHOWN: usize = 64;
/// Units of a kind in the table of those that stand out.
const RANKED: usize = 3;
/// Characters of a line of text shown.
const WIDTH: usize = 76;
/// Tokens that a page is made of; it keeps as many as fit.
const LONGEST_PAGE: usize = 100_000;
/// Passages that the JSON line has of a find.
const PASSAGES: usize = 5;
/// Tokens that surgery is measured on.
const OPERATED: usize = 32_768;
/// Random units that an operated one is compared with.
const OTHERS: usize = 4;

const EXAMPLES: &str = "\
Examples:
  carousel inspect cells runs/lm-001 --data code.c
  carousel inspect cells runs/lm-001 --data code.c --find string brace-depth
  carousel inspect cells runs/lm-001 --data code.c --regex 'call=(\\w+)\\('
  carousel inspect cells runs/lm-001 --data play.txt --words 'they=they,them'

Of all units the one that follows a property best in the first half of the text
is scored on the second half: area under the ROC curve for yes/no (0.5 is
chance), rank correlation for numbers (0 is chance). `chance` is the most that
the best of all units reached when the property was turned round against the
text; `last 3` is what the last three tokens alone predict. A unit is c_l1[143]:
signal, layer, number.

Built-in properties:";

/// Find the units that follow a property of the text
#[derive(Args)]
#[command(after_help = help())]
pub(crate) struct CellsArgs {
    #[command(flatten)]
    subject: SubjectArgs,

    /// Properties to look for [default: all built in]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    find: Vec<String>,

    /// Look for text inside this pattern's first group
    #[arg(long, value_name = "NAME=PATTERN")]
    regex: Vec<String>,

    /// Look for these words, separated by commas
    #[arg(long, value_name = "NAME=WORD,WORD")]
    words: Vec<String>,

    /// Look for labels in a file: one number a token
    #[arg(long, value_name = "NAME=FILE")]
    labels: Vec<String>,

    /// Write a page on which units colour the text
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Signals to search, or all [default: the states]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    signals: Vec<String>,

    /// Shifts that chance is measured by
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true, default_value_t = 99)]
    shifts: usize,

    /// Where the random shifts start
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<u64>, allow_negative_numbers = true, default_value_t = 1)]
    seed: u64,

    /// Finds to prove by holding the unit
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<usize>, allow_negative_numbers = true, default_value_t = 6)]
    operate: usize,

    /// Hold at mean, zero or a number
    #[arg(long, value_name = "VALUE", default_value = "mean", allow_negative_numbers = true, value_parser = held)]
    hold: Hold,

    #[command(flatten)]
    reading: ReadingArgs,
}

fn help() -> String {
    let mut text = EXAMPLES.to_owned();
    for (name, meaning) in Property::built_in_names() {
        let _ = write!(text, "\n  {name:<18} {meaning}");
    }
    text
}

fn held(text: &str) -> Result<Hold, String> {
    match text {
        "mean" => Ok(Hold::Mean),
        "zero" => Ok(Hold::At(0.0)),
        number => {
            let value = number.parse().ok().filter(|value: &f32| value.is_finite());
            value.map(Hold::At).ok_or("expected mean, zero or a number".into())
        }
    }
}

pub(crate) fn run(args: &CellsArgs) -> anyhow::Result<()> {
    super::check_page(args.html.as_ref())?;
    let mut signals = Vec::new();
    let (saved, text) = args.subject.open(|saved| {
        signals = chosen_signals(args, saved);
        let units = signals.len() * saved.recipe.model.layers * saved.recipe.model.hidden;
        (ROOM / units.max(1)).max(1)
    })?;
    super::check_signals(&saved, &signals)?;
    let properties = properties(args, &text)?;
    if text.len() < 200 {
        anyhow::bail!("the text has {} tokens, expected at least 200 to tell units apart", text.len());
    }

    let mut working = Working::new();
    let reading = args.reading.reading();
    let kept = Reading { keep: Keep::signals(signals), ..reading.clone() };
    let activations = Activations::record(&saved.model, &text, &kept, |share| working.draw("reading", share));
    let how = Search { shifts: args.shifts, seed: args.seed, ..Search::default() };
    let result = search(&activations, &text, &properties, &how, |share| working.draw("searching", share));
    let rankings = rank(&activations, &text, SHOWN);
    let operations = operations(args, &saved.model, &text, &properties, &result, &mut working);
    if let Some(path) = &args.html {
        let page = page(&saved, args, &text, &result, &rankings, &mut working);
        drop(working);
        super::write_page(path, &page.to_html())?;
    }

    match Form::from_flag(args.subject.json) {
        Form::Json => output::json(&json!({
            "run": args.subject.run,
            "tokens": text.len(),
            "searched": result.searched,
            "level": result.level,
            "findings": result.findings,
            "absent": result.absent,
            "rankings": first_of(&rankings, RANKED),
            "passages": told_passages(&result, &activations, &text),
            "surgery": operations
                .iter()
                .map(|(name, surgery)| json!({"property": name, "effect": surgery}))
                .collect::<Vec<_>>(),
        })),
        Form::Text => {
            let mut shown = table(&result);
            shown.push_str(&operations_table(&operations));
            shown.push_str(&rankings_table(&first_of(&rankings, RANKED), &saved));
            shown.push_str(&pictures(&result, &activations, &text, &properties));
            output::result(&shown)
        }
    }
}

fn chosen_signals(args: &CellsArgs, saved: &SavedLanguageModel) -> Vec<String> {
    let cell = saved.recipe.model.recurrence();
    if args.signals.iter().any(|name| name == "all") {
        return cell.signals().into_iter().map(|signal| signal.name.to_owned()).collect();
    }
    if !args.signals.is_empty() {
        return args.signals.clone();
    }
    let states = if cell.has_cell_state() { vec!["h", "c"] } else { vec!["h"] };
    states.into_iter().map(str::to_owned).collect()
}

fn properties(args: &CellsArgs, text: &Text) -> anyhow::Result<Vec<Property>> {
    let mut properties = Vec::new();
    let own = !(args.regex.is_empty() && args.words.is_empty() && args.labels.is_empty());
    let built_in: Vec<String> = match args.find.is_empty() && !own {
        true => Property::built_in_names().map(|(name, _)| name.to_owned()).collect(),
        false => args.find.clone(),
    };
    for name in &built_in {
        let known = || Property::built_in_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        let found = Property::built_in(name, text);
        properties.push(found.ok_or_else(|| {
            BadUsage(format!("--find {name}: there is no such property, expected one of {}", known()))
        })?);
    }
    for given in &args.regex {
        let (name, pattern) = named("--regex", "PATTERN", given)?;
        properties.push(Property::from_pattern(name, pattern, text).map_err(BadUsage::from)?);
    }
    for given in &args.words {
        let (name, words) = named("--words", "WORD,WORD", given)?;
        let words: Vec<String> =
            words.split(',').map(str::to_owned).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Err(BadUsage(format!("--words {given}: there is no word")).into());
        }
        properties.push(Property::from_words(name, &words, text).map_err(BadUsage::from)?);
    }
    for given in &args.labels {
        let (name, path) = named("--labels", "FILE", given)?;
        let labels = std::fs::read_to_string(path).with_context(|| format!("could not read {path}"))?;
        properties.push(Property::from_labels(name, &labels, text).with_context(|| path.to_owned())?);
    }
    Ok(properties)
}

fn named<'a>(option: &str, what: &str, given: &'a str) -> anyhow::Result<(&'a str, &'a str)> {
    let parts = given.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    Ok(parts.ok_or_else(|| BadUsage(format!("{option} {given}: expected NAME={what}")))?)
}

/// Holds the best units of the strongest finds.
fn operations(
    args: &CellsArgs,
    model: &LanguageModel,
    text: &Text,
    properties: &[Property],
    result: &CellSearch,
    working: &mut Working,
) -> Vec<(String, Surgery)> {
    let mut finds: Vec<&Finding> = result.findings.iter().filter(|finding| finding.found).collect();
    finds.sort_by(|a, b| margin(b).total_cmp(&margin(a)));
    finds.truncate(args.operate);
    let held = can_hold(model);
    if !held && !finds.is_empty() {
        message(format_args!(
            "no surgery: units that zone out, that are normalised or projected, of residual layers, of a cell that \
             the kernels do not know, or of a gru that resets before another candidate than tanh cannot be held alone"
        ));
    }
    if finds.is_empty() || !held {
        return Vec::new();
    }
    // In the half that did not choose the units.
    let from = text.len() / 2;
    let part = from..text.len().min(from + OPERATED);
    let operated = text.part(part.clone());
    let how = Operation { hold: args.hold, others: OTHERS, seed: args.seed, reading: args.reading.reading() };
    let before = losses(model, &operated, &how.reading);
    // A gate or a c is held by the h of its unit, whatever was searched.
    let kept = Reading { keep: Keep::signals(["h"]), ..how.reading.clone() };
    let hidden = Activations::record(model, &operated, &kept, |_| {});
    let total = finds.len();
    let operate_on = |(done, finding): (usize, &Finding)| {
        working.draw("operating", done as f64 / total as f64);
        let property = properties.iter().find(|property| property.name == finding.property)?;
        let Unit { layer, unit, .. } = finding.units[0].unit;
        let surgery =
            operate(model, &operated, &hidden, &property.part(part.clone()), (layer, unit), &how, &before);
        Some((finding.property.clone(), surgery))
    };
    finds.into_iter().enumerate().filter_map(operate_on).collect()
}

/// The first of each ranking.
fn first_of(rankings: &Rankings, count: usize) -> Rankings {
    let first = |all: &[Ranked]| all[..all.len().min(count)].to_vec();
    Rankings {
        bimodal: first(&rankings.bimodal),
        slowest: first(&rankings.slowest),
        periodic: first(&rankings.periodic),
        tied: first(&rankings.tied),
    }
}

/// The page: the units of the finds, then those that stand out, over the half of the text that did not choose
/// them.
fn page(
    saved: &SavedLanguageModel,
    args: &CellsArgs,
    text: &Text,
    result: &CellSearch,
    rankings: &Rankings,
    working: &mut Working,
) -> CellsPage {
    let mut chosen: Vec<(Unit, String)> = Vec::new();
    let mut take = |unit: &Unit, what: &str, score: Option<f64>| {
        let note = score.map_or(what.to_owned(), |score| format!("{what} {score:.2}"));
        let same = |(other, _): &(Unit, String)| (other.layer, other.unit) == (unit.layer, unit.unit);
        match chosen.iter().position(same) {
            // h and c of a unit follow the same property; the better one is named.
            Some(place) if !chosen[place].1.split(", ").any(|note| note.starts_with(what)) => {
                chosen[place].1 = format!("{}, {note}", chosen[place].1);
            }
            Some(_) => {}
            None if chosen.len() < SHOWN => chosen.push((unit.clone(), note)),
            None => {}
        }
    };
    let mut finds: Vec<&Finding> = result.findings.iter().filter(|finding| finding.found).collect();
    finds.sort_by(|a, b| margin(b).total_cmp(&margin(a)));
    for finding in &finds {
        take(&finding.units[0].unit, &finding.property, Some(finding.units[0].held_out));
    }
    for finding in &finds {
        for scored in &finding.units[1..] {
            take(&scored.unit, &finding.property, Some(scored.held_out));
        }
    }
    // In turns, so that each kind is there.
    for place in 0..SHOWN {
        for (name, ranked) in [
            ("bimodal", &rankings.bimodal),
            ("slow", &rankings.slowest),
            ("periodic", &rankings.periodic),
            ("tied to a token", &rankings.tied),
        ] {
            if let Some(ranked) = ranked.get(place) {
                take(&ranked.unit, name, None);
            }
        }
    }
    let from =
        if text.len() > 2 * LONGEST_PAGE { text.len() / 2 } else { text.len().saturating_sub(LONGEST_PAGE) };
    let part = text.part(from..text.len().min(from + LONGEST_PAGE));
    let units: Vec<(usize, usize)> = chosen.iter().map(|(unit, _)| (unit.layer, unit.unit)).collect();
    let film = film(&saved.model, &part, &units, &args.reading.reading(), |share| {
        working.draw("filming", share);
    });
    let vocabulary = (0..saved.tokenizer.vocab().len() as u32).map(|id| saved.tokenizer.decode(&[id]));
    let score = |value: f64| format!("{value:.3}");
    CellsPage {
        title: super::run_name(&args.subject.run),
        subtitle: format!(
            "{} units' signals searched over {} tokens. Hover a unit, and the text takes its colours: \
             orange where it is above its median, blue where it is below.",
            thousands(result.searched as u64),
            thousands(text.len() as u64)
        ),
        tokens: (0..part.len()).map(|token| part.shown(token..token + 1)).collect(),
        units: film
            .units
            .into_iter()
            .zip(chosen)
            .map(|(shown, (unit, note))| PageUnit {
                layer: shown.layer,
                unit: shown.unit,
                note,
                best: unit.signal,
                signals: shown
                    .signals
                    .into_iter()
                    .map(|signal| (signal.name, [signal.low, signal.high], signal.codes))
                    .collect(),
            })
            .collect(),
        likely: film.likely.iter().map(|likely| likely.to_vec()).collect(),
        vocabulary: vocabulary.collect(),
        findings: result
            .findings
            .iter()
            .map(|finding| {
                let best = &finding.units[0];
                [
                    finding.property.clone(),
                    best.unit.to_string(),
                    score(best.held_out),
                    score(finding.chance[1]),
                    score(finding.last_three),
                ]
            })
            .collect(),
    }
}

/// How far the best unit is above what its last tokens alone tell.
fn margin(finding: &Finding) -> f64 {
    finding.units[0].held_out - finding.last_three
}

/// `0.987`, or `-0.12` in the same width.
fn score(value: f64) -> String {
    format!("{value:.3}")
}

fn table(result: &CellSearch) -> String {
    let mut shown = format!(
        "{} units' signals, chosen on {} tokens, scored on the next {}\n\n",
        thousands(result.searched as u64),
        thousands(result.tokens[0] as u64),
        thousands(result.tokens[1] as u64)
    );
    let head = |numbers: bool| {
        let measure = if numbers { "correl." } else { "area" };
        format!(
            "{:<17} {:<12} {:>7} {:>7} {:>7}   {:>5} {:>5} {:>5} {:>5}\n",
            if numbers { "number" } else { "yes or no" },
            "unit",
            measure,
            "chance",
            "last 3",
            "2",
            "5",
            "10",
            "bits"
        )
    };
    for numbers in [false, true] {
        let mut findings: Vec<&Finding> =
            result.findings.iter().filter(|finding| finding.number == numbers).collect();
        if findings.is_empty() {
            continue;
        }
        findings.sort_by(|a, b| b.units[0].held_out.total_cmp(&a.units[0].held_out));
        shown.push_str(&head(numbers));
        for finding in findings {
            let best = &finding.units[0];
            let mark = if finding.found { ' ' } else { '?' };
            let probe = |size: usize| {
                let probe = finding.probes.iter().find(|probe| probe.units.len() == size);
                probe.map_or("-".to_owned(), |probe| format!("{:.2}", probe.held_out))
            };
            let _ = writeln!(
                shown,
                "{} {:<12} {:>7} {:>7} {:>7}{mark}  {:>5} {:>5} {:>5} {:>5.2}",
                padded(&shortened(&finding.property, 17), 17),
                best.unit.to_string(),
                score(best.held_out),
                score(finding.chance[1]),
                score(finding.last_three),
                probe(2),
                probe(5),
                probe(10),
                finding.information[0],
            );
        }
        shown.push('\n');
    }
    if result.findings.iter().any(|finding| !finding.found) {
        let _ = writeln!(shown, "? no better than chance at level {:.2}", result.level);
    }
    if !result.absent.is_empty() {
        let _ = writeln!(shown, "{}", wrapped("not in both halves of the text: ", &result.absent.join(", ")));
    }
    shown.push_str("2, 5, 10: linear probes on so many units.\nbits: what the unit tells of the property.\n");
    shown
}

/// Words behind a heading, in lines of 80 columns.
fn wrapped(heading: &str, words: &str) -> String {
    let mut lines = vec![heading.to_owned()];
    for word in words.split_inclusive(' ') {
        let line = lines.last().map_or(0, |line| columns(line));
        if line + columns(word.trim_end()) > 80 {
            lines.push("  ".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn operations_table(operations: &[(String, Surgery)]) -> String {
    if operations.is_empty() {
        return String::new();
    }
    let mut shown = format!(
        "\n{:<18} {:<10} {:>8} {:>9} {:>9}   {}\n",
        "surgery", "unit", "held at", "inside", "outside", "random units"
    );
    for (property, surgery) in operations {
        let mean = |of: &dyn Fn(&carousel::lens::Control) -> f64| {
            surgery.others.iter().map(of).sum::<f64>() / surgery.others.len().max(1) as f64
        };
        let _ = writeln!(
            shown,
            "{} {:<10} {:>8.2} {:>+9.4} {:>+9.4}   {:>+9.4} {:>+9.4}",
            padded(&shortened(property, 18), 18),
            format!("h_l{}[{}]", surgery.layer, surgery.unit),
            surgery.value,
            surgery.inside.rise(),
            surgery.outside.rise(),
            mean(&|other| other.inside),
            mean(&|other| other.outside),
        );
    }
    shown.push_str("rise of the loss in nats a token; of random units of the same activity the mean\n");
    shown
}

fn rankings_table(rankings: &Rankings, saved: &SavedLanguageModel) -> String {
    let mut shown = String::from("\nunits that stand out by themselves\n");
    let token = |detail: Option<usize>| {
        let id = detail.and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
        format!("{:?}", saved.tokenizer.decode(&[id]))
    };
    let mut line = |name: &str, ranked: &[Ranked], say: &dyn Fn(&Ranked) -> String| {
        if ranked.is_empty() {
            return;
        }
        let units: Vec<String> =
            ranked.iter().map(|ranked| format!("{} {}", ranked.unit, say(ranked))).collect();
        let _ = writeln!(shown, "{}", wrapped(&format!("  {name:<10} "), &units.join("  ")));
    };
    line("bimodal", &rankings.bimodal, &|ranked| format!("{:.2}", ranked.value));
    line("slowest", &rankings.slowest, &|ranked| format!("{:.0} tokens", ranked.value));
    line("periodic", &rankings.periodic, &|ranked| {
        format!("{:.2} every {}", ranked.value, ranked.detail.unwrap_or_default())
    });
    line("tied", &rankings.tied, &|ranked| format!("{:.2} to {}", ranked.value, token(ranked.detail)));
    shown
}

/// Where the best unit of each find is most active: tokens and text.
fn told_passages(result: &CellSearch, activations: &Activations, text: &Text) -> Vec<Value> {
    let of_find = |finding: &Finding| {
        let best = &finding.units[0];
        let places = passages(activations, activations.index_of(&best.unit)?, best.sign, WIDTH, PASSAGES);
        let told =
            |place: Range<usize>| json!({"tokens": [place.start, place.end], "text": text.shown(place)});
        let all: Vec<Value> = places.into_iter().map(told).collect();
        Some(json!({"property": finding.property, "unit": best.unit, "most_active": all}))
    };
    result.findings.iter().filter(|finding| finding.found).filter_map(of_find).collect()
}

/// The text under the best units, as in the lecture: a bar under every character.
fn pictures(result: &CellSearch, activations: &Activations, text: &Text, properties: &[Property]) -> String {
    let mut shown = String::new();
    let mut finds: Vec<&Finding> = result.findings.iter().filter(|finding| finding.found).collect();
    finds.sort_by(|a, b| margin(b).total_cmp(&margin(a)));
    for finding in finds.into_iter().take(3) {
        let best = &finding.units[0];
        let Some(index) = activations.index_of(&best.unit) else { continue };
        let _ = writeln!(shown, "\n{} under {}", finding.property, best.unit);
        let property = properties.iter().find(|property| property.name == finding.property);
        if let Some(place) = property.and_then(|property| changing(property, text.len() / 2)) {
            shown.push_str(&picture(activations, index, best.sign, text, place));
        }
        for passage in passages(activations, index, best.sign, WIDTH, 1) {
            shown.push_str("most active\n");
            shown.push_str(&picture(activations, index, best.sign, text, passage));
        }
    }
    shown
}

/// A passage behind `from` in which the property changes as much as anywhere.
fn changing(property: &Property, from: usize) -> Option<Range<usize>> {
    let passage = |start: usize| start..start + WIDTH;
    let starts = (from..property.values.len().saturating_sub(WIDTH)).step_by(WIDTH / 2);
    let spread = |start: &usize| {
        let values = &property.values[passage(*start)];
        let mean = values.iter().sum::<f32>() / WIDTH as f32;
        values.iter().map(|value| (value - mean).powi(2)).sum::<f32>()
    };
    starts.max_by(|a, b| spread(a).total_cmp(&spread(b)).then(b.cmp(a))).map(passage)
}

/// Two lines: the characters, and how high the unit stands at each.
fn picture(activations: &Activations, index: usize, sign: f64, text: &Text, tokens: Range<usize>) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = activations.values(index, tokens.clone());
    // Between the rarest values, so that the common ones differ in height.
    let mut codes = activations.codes(index).to_vec();
    codes.sort_unstable();
    let at =
        |share: usize| activations.code_values(index)[usize::from(codes[(codes.len() - 1) * share / 100])];
    let (low, high) = (at(2), at(98));
    let mut lines = [String::from("  "), String::from("  ")];
    let mut room = WIDTH;
    for (token, value) in tokens.zip(values) {
        let share = f64::from((value - low) / (high - low).max(1e-9));
        let share = (if sign < 0.0 { 1.0 - share } else { share }).clamp(0.0, 1.0);
        let bar = BARS[((share * 8.0).round() as usize).min(8)];
        for character in text.shown(token..token + 1).chars() {
            let character = match character {
                '\n' => '⏎',
                '\t' => '→',
                _ if character.is_control() => '\u{fffd}',
                _ => character,
            };
            // A wide character has a wide bar, an accent none of its own.
            let columns = columns_of(character);
            if columns > room {
                room = 0;
                break;
            }
            room -= columns;
            lines[0].push(character);
            lines[1].extend(std::iter::repeat_n(bar, columns));
        }
    }
    format!("{}\n{}\n", lines[0], lines[1].trim_end())
}
