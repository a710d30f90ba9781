//! What a recipe can ask of a recurrent stack, in every task that has one and is no language model: each key changes
//! what is learned, and a run that was stopped ends with the bits of one that was not.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use carousel::data::Document;
use carousel::recipe::{Recipe, Task};
use carousel::run::RunFolder;
use carousel::train::{Control, Event, Sources, Start, train};

fn document(name: &str, text: String) -> Document {
    Document { name: name.to_owned(), bytes: text.into_bytes() }
}

/// Something to learn from for each task, and the smallest sensible recipe.
fn problem(task: Task) -> (Vec<Document>, &'static [&'static str]) {
    match task {
        Task::Classify => {
            let words = ["the", "film", "was", "long", "good", "bad"];
            let line = |n: usize| -> String {
                let text: Vec<&str> = (0..2 + n % 5).map(|k| words[(n * 5 + k * k) % 6]).collect();
                format!("{}\t{}\n", text.join(" "), if text.contains(&"good") { "pos" } else { "neg" })
            };
            let rows: String = (0..24).map(line).collect();
            (vec![document("reviews.tsv", format!("text\tlabel\n{rows}"))], &["data.tokens=word"])
        }
        Task::Tag => {
            let sentence = |n: usize| -> String {
                let words = ["play", "blue", "moon", "river", "now"];
                (0..2 + n % 4)
                    .map(|k| (n + k * k) % 5)
                    .map(|w| format!("{} T{}\n", words[w], w / 2))
                    .collect()
            };
            let rows: Vec<String> = (0..24).map(sentence).collect();
            (vec![document("tags.txt", rows.join("\n"))], &[])
        }
        Task::Forecast => {
            let rows: String = (0..60).map(|t| format!("{}\n", (t * t % 17) as f64 + 0.5)).collect();
            (
                vec![document("series.csv", format!("sold\n{rows}"))],
                &["data.window=6", "data.horizon=2", "model.direction=both"],
            )
        }
        other => panic!("{other:?} has tests of its own"),
    }
}

fn recipe(task: Task, own: &[&str], assignments: &[&str]) -> Result<Recipe, String> {
    let mut recipe = Recipe::default_for(task);
    let small = [
        "model.hidden=6",
        "model.layers=2",
        "train.steps=9",
        "train.batch=4",
        "train.validate_every=4",
        "train.log_every=1",
        "train.learning_rate=0.02",
        "data.split=[0.8, 0.2, 0]",
    ];
    let embedding: &[&str] = if task == Task::Forecast { &[] } else { &["model.embedding=5"] };
    let all = [&small[..], embedding, own, assignments].concat();
    recipe.set_all(&all).map_err(|error| error.to_string())?;
    Ok(recipe)
}

/// The bytes of the best and the last weights of a run that is stopped and resumed at a step, if any.
fn trained(task: Task, assignments: &[&str], stop: Option<u64>) -> [Vec<u8>; 2] {
    let (documents, own) = problem(task);
    let recipe = recipe(task, own, assignments).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&folder.path().join("run")).unwrap();
    run.write_recipe(&recipe).unwrap();
    let sources = Sources { train: documents, ..Sources::default() };
    let mut start = Start::New;
    for stop in stop.into_iter().chain([u64::MAX]) {
        let summary = train(&run, &recipe, &sources, start, &mut |event| match event {
            Event::Step { step, .. } if *step == stop => Control::Stop,
            _ => Control::Continue,
        });
        assert_eq!(summary.unwrap().stopped, stop != u64::MAX, "{task:?} {assignments:?}");
        start = Start::Resume;
    }
    let read = |path: &Path| std::fs::read(path.join("model.safetensors")).unwrap();
    let latest = std::fs::read_to_string(run.path().join("latest")).unwrap();
    [read(run.path()), read(&run.path().join(latest.trim()))]
}

/// Keys, and the tasks they are for where those are not all.
const KEYS: &[&[&str]] = &[
    &["model.zoneout=0.3"],
    &["model.zoneout_cell=0.4"],
    &["model.recurrent_dropout=0.3"],
    &["model.update_dropout=0.3"],
    &["model.weight_dropout=0.4"],
    &["model.embedding_dropout=0.4"],
    &["model.residual=true"],
    &["model.projection=4"],
    &["model.merge=sum"],
    &["model.learned_state=true"],
    &["model.output_dropout=0.4"],
    &["train.activation_penalty=2"],
    &["train.temporal_penalty=2"],
];

const TASKS: [Task; 3] = [Task::Classify, Task::Tag, Task::Forecast];

#[test]
fn each_key_changes_what_is_learned_and_resumes_to_the_bit() {
    for task in TASKS {
        let plain = trained(task, &[], None);
        for &key in KEYS {
            if task == Task::Forecast && key[0].starts_with("model.embedding") {
                continue;
            }
            let whole = trained(task, key, None);
            assert!(whole[1] != plain[1], "{task:?} {key:?} changes nothing");
            assert!(whole == trained(task, key, Some(5)), "{task:?} {key:?} resumes to other bits");
        }
    }
}

/// A mask that is locked is another one than a mask a step.
#[test]
fn locked_masks_of_a_taggers_outputs_last_a_sequence() {
    let free = trained(Task::Tag, &["model.output_dropout=0.4"], None);
    let locked = trained(Task::Tag, &["model.output_dropout=0.4", "model.locked_dropout=true"], None);
    assert!(free[1] != locked[1]);
}

#[test]
fn a_net_without_a_recurrence_has_none_of_it() {
    let recurrent = KEYS.iter().filter(|key| !key[0].starts_with("model.embedding"));
    for key in recurrent.filter(|key| !key[0].starts_with("model.output")) {
        for task in TASKS {
            let (_, own) = problem(task);
            let set = [&["model.cell=none"][..], key].concat();
            let said = recipe(task, own, &set).unwrap_err();
            let name = key[0].split('=').next().unwrap();
            let expected = match name {
                "model.projection" => {
                    "model.projection has no effect with model.cell = \"none\"; it is read with lstm only"
                        .to_owned()
                }
                "model.merge" => "model.merge needs a model.cell other than \"none\"".to_owned(),
                name => format!("{name} has no effect with model.cell = \"none\""),
            };
            assert!(said.contains(&expected), "{task:?}: {said}");
        }
    }
}
