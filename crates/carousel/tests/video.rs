//! A label for every frame of a video: a convolutional encoder and a recurrence, learned together.

#[path = "../examples/motion.rs"]
mod motion;

use std::path::Path;

use carousel::data::{Document, read_documents};
use carousel::recipe::Recipe;
use carousel::run::RunFolder;
use carousel::saved::SavedTagger;
use carousel::train::{Control, Sources, Start, Summary, evaluate_tagger, train};

const RECIPE: &str = include_str!("../../../recipes/motion.toml");

fn trained(home: &Path, name: &str, more: &[&str]) -> Summary {
    let mut recipe = Recipe::from_toml(RECIPE, "motion.toml").expect("a recipe");
    recipe.set_all(more).expect("the keys are known");
    let run = RunFolder::create(&home.join(name)).expect("a new folder");
    run.write_recipe(&recipe).expect("it is written");
    let sources = Sources { train: documents(&home.join("clips")), ..Sources::default() };
    train(&run, &recipe, &sources, Start::New, &mut |_| Control::Continue).expect("it trains")
}

fn documents(path: &Path) -> Vec<Document> {
    read_documents(&[path.to_owned()]).expect("files")
}

#[test]
fn a_recurrence_sees_which_way_things_move() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    motion::write_clips(&home.join("clips"), 200, 60).expect("clips");
    motion::write_clips(&home.join("long"), 1, 400).expect("a clip");
    let accuracy = |summary: &Summary| {
        let found = summary.test_scores.iter().find(|score| score.name == "accuracy");
        found.expect("a tagger has an accuracy").value
    };
    let alone = trained(home, "alone", &["model.cell=none", "train.epochs=3"]);
    assert!(accuracy(&alone) < 0.6, "one frame tells too much: {alone:?}");
    let together = trained(home, "run", &["train.steps=900"]);
    assert!(accuracy(&together) > 0.8, "{together:?}");

    // A clip far longer than any that was learned, whole and frame by frame.
    let long = documents(&home.join("long"));
    let measured = evaluate_tagger(&home.join("run"), &long).expect("it is measured");
    assert!(measured.words == 399 && measured.accuracy > 0.8, "{}", measured.accuracy);
    let saved = SavedTagger::open(&home.join("run")).expect("a run");
    let whole = saved.predict_files(&long).expect("videos").remove(0).1;
    let mut stream = saved.stream().expect("it walks forward");
    for frame in 0..400 {
        let image = documents(&home.join(format!("long/0/{frame}.png"))).remove(0);
        let step = stream.push_image(&image).expect("an image").expect("no look-ahead, so an answer");
        let (tag, probability) = (&whole.tags[frame], whole.probabilities[frame]);
        assert_eq!(step.tag, *tag, "frame {frame}");
        assert!(
            (step.probability - probability).abs() < 1e-4,
            "frame {frame}: {step:?}, whole {probability}"
        );
    }
}
