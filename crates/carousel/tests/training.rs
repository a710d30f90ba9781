//! Whole small runs through the library: what the loop does of its own accord, and that it resumes to the bit.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use carousel::data::Document;
use carousel::parameters::NamedTensor;
use carousel::recipe::{Recipe, Task};
use carousel::run::RunFolder;
use carousel::saved::SavedLanguageModel;
use carousel::train::{
    Control, Event, Notice, Sources, Start, Summary, TrainError, evaluate, language_model,
};
use serde_json::Value;

fn document(text: &str) -> Document {
    Document { name: "text".to_owned(), bytes: text.as_bytes().to_vec() }
}

fn rhyme() -> Document {
    document(&"the wheel goes round and round, the horses go up and down;\n".repeat(30))
}

fn sources() -> Sources {
    // Of what is validated on, nothing can be learned from the rhyme for long.
    let valid = document(&"down and up go horses the; round and round wheel\n".repeat(4));
    Sources { train: vec![rhyme()], valid: vec![valid], ..Sources::default() }
}

fn recipe(assignments: &[&str]) -> Recipe {
    let mut recipe = Recipe::default_for(Task::Lm);
    let small = [
        "model.layers=1",
        "model.hidden=12",
        "model.embedding=6",
        "train.batch=4",
        "train.bptt=10",
        "train.validate_every=5",
        "train.sample_length=0",
        "train.log_every=1",
        "train.learning_rate=0.05",
    ];
    let length: &[&str] = match assignments.iter().any(|set| set.starts_with("train.epochs")) {
        true => &[],
        false => &["train.steps=40"],
    };
    recipe.set_all(&[&small[..], length, assignments].concat()).unwrap();
    recipe
}

struct Ran {
    summary: Summary,
    notices: Vec<(u64, Notice)>,
    metrics: Vec<Value>,
    folder: tempfile::TempDir,
}

impl Ran {
    fn run(&self) -> RunFolder {
        RunFolder::open(&self.folder.path().join("run")).unwrap()
    }

    fn curve(&self, field: &str) -> Vec<f64> {
        let lines = self.metrics.iter().filter(|line| line["kind"] == "train");
        lines.map(|line| line[field].as_f64().unwrap()).collect()
    }
}

fn drive(
    run: &RunFolder,
    recipe: &Recipe,
    start: Start,
    stop_at: u64,
) -> Result<(Summary, Vec<(u64, Notice)>), TrainError> {
    let mut notices = Vec::new();
    let summary = language_model(run, recipe, &sources(), start, &mut |event| match event {
        Event::Noticed { step, what } => {
            notices.push((*step, *what));
            Control::Continue
        }
        Event::Stepped { step } if *step == stop_at => Control::Stop,
        _ => Control::Continue,
    })?;
    Ok((summary, notices))
}

fn try_train(assignments: &[&str], stops: &[u64]) -> Result<Ran, TrainError> {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&folder.path().join("run")).unwrap();
    let recipe = recipe(assignments);
    run.write_recipe(&recipe).unwrap();
    let mut start = Start::New;
    let mut notices = Vec::new();
    for &stop in stops {
        let (summary, heard) = drive(&run, &recipe, start, stop)?;
        assert!(summary.stopped, "stopped at {stop}");
        notices.extend(heard);
        start = Start::Resume;
    }
    let (summary, heard) = drive(&run, &recipe, start, u64::MAX)?;
    notices.extend(heard);
    let metrics = run.read_metrics().unwrap();
    Ok(Ran { summary, notices, metrics, folder })
}

fn train(assignments: &[&str]) -> Ran {
    try_train(assignments, &[]).unwrap()
}

fn tensors(run: &RunFolder, file: &str) -> Vec<NamedTensor> {
    let latest = std::fs::read_to_string(run.path().join("latest")).unwrap();
    let path = run.path().join(latest.trim()).join(file);
    if path.exists() { carousel::train::checkpoint::read_tensors(&path).unwrap() } else { Vec::new() }
}

/// Stopped twice and resumed, a run ends with the same bits, notices and metrics as one that was left alone.
fn check_resume(assignments: &[&str]) {
    let whole = train(assignments);
    let parts = try_train(assignments, &[7, 23]).unwrap();
    for file in ["model.safetensors", "average.safetensors", "optimizer.safetensors", "carried.safetensors"] {
        assert!(tensors(&whole.run(), file) == tensors(&parts.run(), file), "{assignments:?}: {file}");
    }
    let best = |ran: &Ran| std::fs::read(ran.run().path().join("model.safetensors")).unwrap();
    assert!(best(&whole) == best(&parts), "{assignments:?}: the best weights");
    assert_eq!(whole.notices, parts.notices, "{assignments:?}");
    for field in ["loss", "learning_rate", "gradient_norm"] {
        assert_eq!(whole.curve(field), parts.curve(field), "{assignments:?}: {field}");
    }
}

#[test]
fn every_choice_of_update_resumes_to_the_bit() {
    let cases: &[&[&str]] = &[
        &["train.optimizer=momentum", "train.weight_decay=0.001"],
        &["train.optimizer=rmsprop", "train.clip_value=0.01"],
        &["train.optimizer=adamw", "train.weight_decay=0.1", "train.clip_each_norm=0.5"],
        &["train.optimizer=nt-asgd", "train.learning_rate=2", "train.nonmono=1", "train.validate_every=2"],
        &["train.average=exponential", "train.average_decay=0.9", "train.average_from=10"],
        &["train.average=mean", "train.schedule=cosine", "train.warmup_steps=10"],
        &["train.schedule=plateau", "train.patience=0"],
        &["train.schedule=step", "train.decay_every=7"],
        &["train.schedule=epoch", "train.decay_after=0"],
        &["train.early_stop=1"],
        &["train.accumulate=3"],
        &["train.k1=4", "train.k2=11"],
        &["train.vary_bptt=true", "train.bptt=12"],
        &[
            "model.embedding_dropout=0.1",
            "model.input_dropout=0.2",
            "model.output_dropout=0.3",
            "model.weight_dropout=0.4",
        ],
        &[
            "model.layers=2",
            "model.dropout=0.5",
            "model.output_dropout=0.5",
            "model.locked_dropout=true",
            "train.k1=5",
        ],
        &["model.recurrent_dropout=0.3", "model.update_dropout=0.2", "train.vary_bptt=true", "train.bptt=12"],
        &["model.zoneout=0.2", "model.zoneout_cell=0.4", "model.recurrent_dropout=0.3", "train.k1=5"],
        &["train.activation_penalty=2", "train.temporal_penalty=1", "train.label_smoothing=0.1"],
        &["model.cell=min-gru", "model.layers=2", "model.dropout=0.2", "train.k1=5"],
        &["model.cell=min-lstm", "model.zoneout=0.2"],
        &["model.tie_embeddings=true", "model.embedding=12", "model.layers=2", "model.residual=true"],
        &["model.norm=layer", "model.peephole=true", "model.zoneout=0.2", "train.k1=5"],
        &["model.projection=7", "model.norm=layer", "model.zoneout=0.2", "train.k1=5"],
        &["model.learned_state=true", "model.layers=2", "model.zoneout=0.2", "train.k1=5"],
        &["model.cell=gru", "model.norm=layer", "model.gate_activation=hard-sigmoid"],
        &["model.cell=rnn", "model.norm=layer", "model.activation=elu"],
        &["model.cell=gru", "model.activation=silu", "model.layers=2", "train.k1=5"],
        &["model.activation=hard-tanh", "model.peephole=true", "model.zoneout_cell=0.2"],
        &["model.norm=batch-input", "model.weight_dropout=0.2", "train.average=mean", "train.k1=5"],
        &[
            "model.norm=batch-recurrent",
            "model.norm_steps=8",
            "model.zoneout=0.1",
            "train.average=exponential",
        ],
        &["model.cell=gru", "model.norm=batch-recurrent", "model.layers=2", "model.dropout=0.1"],
        &["model.cell=rnn", "model.norm=batch-input", "model.activation=elu", "train.accumulate=2"],
    ];
    for case in cases {
        check_resume(case);
    }
}

#[test]
fn the_learning_rate_follows_its_schedule() {
    let cosine = train(&["train.schedule=cosine", "train.warmup_steps=10"]).curve("learning_rate");
    assert!((cosine[0] - 0.005).abs() < 1e-12 && (cosine[9] - 0.05).abs() < 1e-12, "{cosine:?}");
    assert!(cosine.windows(2).skip(10).all(|pair| pair[1] < pair[0]), "{cosine:?}");
    let epochs = train(&["train.schedule=epoch", "train.decay_after=1"]);
    let rates = epochs.curve("learning_rate");
    for (rate, line) in rates.iter().zip(epochs.metrics.iter().filter(|line| line["kind"] == "train")) {
        // A pass has ended with the step at which its epoch is whole.
        let passes = (line["epoch"].as_f64().unwrap() - 1e-9).floor();
        assert!((rate - 0.05 * 0.5f64.powf(passes)).abs() < 1e-12, "{rate} in {line}");
    }
}

#[test]
fn a_validation_loss_that_stands_still_has_consequences() {
    let plateau = train(&["train.schedule=plateau", "train.patience=0", "train.decay=0.1"]);
    let Some(&(step, Notice::Plateau { learning_rate })) = plateau.notices.first() else {
        panic!("no plateau in {:?}", plateau.notices);
    };
    assert!((learning_rate - 0.005).abs() < 1e-12);
    let rates = plateau.curve("learning_rate");
    assert_eq!((rates[step as usize - 1], rates[step as usize]), (0.05, learning_rate));

    let early = train(&["train.early_stop=1"]);
    assert!(early.summary.stopped_early && !early.summary.stopped && early.summary.steps < 40);
    assert!(matches!(early.notices.last(), Some((_, Notice::EarlyStop { validations: 1 }))));

    let asgd = train(&[
        "train.optimizer=nt-asgd",
        "train.learning_rate=2",
        "train.nonmono=1",
        "train.validate_every=2",
    ]);
    assert_eq!(asgd.notices.iter().map(|(_, what)| *what).collect::<Vec<_>>(), [Notice::Averaging]);
    assert!(!tensors(&asgd.run(), "average.safetensors").is_empty());
}

/// A wish to stop is heard after any step, and without validation every checkpoint is what there is to use.
#[test]
fn a_run_stops_at_once_and_leaves_its_last_weights() {
    let rare = recipe(&["train.log_every=1000", "train.checkpoint_seconds=1", "data.split=[1, 0, 0]"]);
    let sources = Sources { train: vec![rhyme()], ..Sources::default() };
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&folder.path().join("run")).unwrap();
    run.write_recipe(&rare).unwrap();
    let part = |start: Start, stop: u64| {
        let hear = &mut |event: &Event<'_>| match event {
            Event::Stepped { step } if *step == stop => Control::Stop,
            _ => Control::Continue,
        };
        language_model(&run, &rare, &sources, start, hear).unwrap()
    };
    assert_eq!(part(Start::New, 3).steps, 3);
    let used = || carousel::train::checkpoint::read_tensors(&run.path().join("model.safetensors")).unwrap();
    let first = used();
    let slow = &mut |event: &Event<'_>| {
        // So long that a checkpoint is due, after which nothing more is heard of the run.
        if matches!(event, Event::Stepped { step: 5 }) {
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        if matches!(event, Event::Saved { step: 5, .. }) {
            assert!(used() != first, "the weights of step 3 are still those that are used");
        }
        Control::Continue
    };
    assert_eq!(language_model(&run, &rare, &sources, Start::Resume, slow).unwrap().steps, 40);
}

/// Averaged weights are what is validated, saved as the best and opened, while training goes on from its own.
#[test]
fn averaged_weights_are_used_and_training_goes_on_from_its_own() {
    let plain = train(&[]);
    let averaged = train(&["train.average=mean"]);
    assert_eq!(plain.curve("loss"), averaged.curve("loss"), "training itself does not change");
    assert!(tensors(&plain.run(), "model.safetensors") == tensors(&averaged.run(), "model.safetensors"));
    assert_ne!(plain.summary.valid_loss, averaged.summary.valid_loss);
    let found = evaluate(averaged.run().path(), &sources().valid).unwrap().loss;
    assert!((found - averaged.summary.valid_loss.unwrap()).abs() < 1e-9);
    assert!(SavedLanguageModel::open(averaged.run().path()).is_ok());
}

/// Three batches of 4 streams added up are one batch of 12.
#[test]
fn accumulated_batches_are_one_large_batch() {
    let parts = train(&["train.accumulate=3", "train.clip_norm=0.1"]);
    let whole = train(&["train.batch=12", "train.clip_norm=0.1"]);
    let alone = train(&["train.clip_norm=0.1"]);
    for field in ["loss", "gradient_norm"] {
        let pairs = parts.curve(field).into_iter().zip(whole.curve(field));
        for (step, (a, b)) in pairs.enumerate() {
            assert!((a - b).abs() < 1e-3 * b, "{field} at step {step}: {a} and {b}");
        }
        assert_ne!(parts.curve(field), alone.curve(field));
    }
}

#[test]
fn what_needs_a_validation_loss_or_more_steps_is_refused_at_the_start() {
    let check = |assignments: &[&str], valid: Vec<Document>, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(Path::new(&folder.path().join("run"))).unwrap();
        let recipe = recipe(&[&["data.split=[1, 0, 0]"], assignments].concat());
        let sources = Sources { valid, ..sources() };
        let error =
            language_model(&run, &recipe, &sources, Start::New, &mut |_| Control::Continue).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let nothing = |key: &str| {
        format!(
            "{key} needs something to validate on; give --valid, or a data.split with a second share above 0"
        )
    };
    check(&["train.early_stop=1"], Vec::new(), &nothing("train.early_stop"));
    check(&["train.schedule=plateau"], Vec::new(), &nothing("train.schedule = \"plateau\""));
    check(&["train.optimizer=nt-asgd"], Vec::new(), &nothing("train.optimizer = \"nt-asgd\""));
    check(
        &["train.epochs=0.5", "train.schedule=cosine", "train.warmup_steps=30"],
        sources().valid,
        "train.warmup_steps is 30, but the whole run has 23 steps; lower it or train for longer",
    );
}

/// Varied windows move the learning rate with their length, and come back with the seed.
#[test]
fn varied_windows_take_steps_of_their_length() {
    let varied = train(&["train.vary_bptt=true", "train.bptt=12"]);
    let rates = varied.curve("learning_rate");
    assert!(rates.iter().any(|&rate| rate > 0.05) && rates.iter().any(|&rate| rate < 0.05), "{rates:?}");
    assert!(rates.iter().all(|rate| (rate / 0.05 * 12.0).round() >= 1.0));
    assert_ne!(train(&["train.vary_bptt=true", "train.bptt=12", "seed=2"]).curve("learning_rate"), rates);
    // An epoch is as many steps as the windows of that pass, whatever their lengths.
    let epochs = train(&["train.vary_bptt=true", "train.bptt=12", "train.epochs=3"]);
    assert!((epochs.summary.epochs.unwrap() - 3.0).abs() < 1e-9, "{:?}", epochs.summary.epochs);
}

/// Each key of a regulariser changes what is learned, and none keeps it from being learned.
#[test]
fn every_regulariser_changes_training_and_it_still_learns() {
    let two = ["model.layers=2", "model.embedding=12", "train.learning_rate=0.02"];
    let plain = train(&two).curve("loss");
    for key in [
        "model.dropout=0.3",
        "model.input_dropout=0.3",
        "model.output_dropout=0.3",
        "model.embedding_dropout=0.2",
        "model.weight_dropout=0.5",
        "model.residual=true",
        "model.tie_embeddings=true",
        "train.activation_penalty=1",
        "train.temporal_penalty=1",
        "train.label_smoothing=0.1",
        "train.weight_decay=0.001",
        "model.norm=layer",
        "model.norm=batch-input",
        "model.norm=batch-recurrent",
        "model.peephole=true",
        "model.gate_activation=hard-sigmoid",
        "model.activation=silu",
        "model.activation=hard-tanh",
    ] {
        let loss = train(&[&two[..], &[key]].concat()).curve("loss");
        assert_ne!(loss, plain, "{key}");
        assert!(loss[loss.len() - 1] < 0.9 * loss[0], "{key}: from {} to {}", loss[0], loss[loss.len() - 1]);
    }
    let locked =
        |locked: &str| train(&[&two[..], &["model.output_dropout=0.3", locked]].concat()).curve("loss");
    assert_ne!(locked("model.locked_dropout=true"), locked("model.locked_dropout=false"));
}

fn puzzle(assignments: &[&str], stop_at: &[u64]) -> (Summary, RunFolder, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(&folder.path().join("run")).unwrap();
    let task = if assignments[0] == "adding" { Task::Adding } else { Task::Copy };
    let mut recipe = Recipe::default_for(task);
    let small = ["model.layers=1", "model.hidden=16", "train.batch=10", "train.log_every=1"];
    recipe.set_all(&[&small[..], &assignments[1..]].concat()).unwrap();
    let mut start = Start::New;
    let mut last = None;
    for stop in stop_at.iter().copied().chain([u64::MAX]) {
        let mut hear = |event: &Event<'_>| match event {
            Event::Step { step, .. } if *step == stop => Control::Stop,
            _ => Control::Continue,
        };
        last = Some(carousel::train::train(&run, &recipe, &Sources::default(), start, &mut hear).unwrap());
        start = Start::Resume;
    }
    (last.unwrap(), run, folder)
}

#[test]
fn tasks_that_make_their_data_learn_and_resume_to_the_bit() {
    let copy = &[
        "copy",
        "data.length=3",
        "data.symbols=2",
        "data.memorize=2",
        "train.steps=1500",
        "train.learning_rate=0.01",
    ];
    let (summary, ..) = puzzle(copy, &[]);
    assert!(summary.valid_accuracy.unwrap() > 0.95, "{summary:?}");
    let adding =
        &["adding", "data.length=4", "train.steps=300", "train.learning_rate=0.02", "train.accumulate=2"];
    let (summary, ..) = puzzle(adding, &[]);
    assert!(summary.valid_loss.unwrap() < 0.05 && summary.epochs.is_none(), "{summary:?}");
    assert!(summary.test_loss.unwrap() < 0.06);

    for case in [&copy[..], &adding[..]] {
        let case = [case, &["train.steps=40"]].concat();
        let ((whole, one, _a), (parts, other, _b)) = (puzzle(&case, &[]), puzzle(&case, &[11, 30]));
        assert_eq!((whole.valid_loss, whole.test_loss), (parts.valid_loss, parts.test_loss));
        for file in ["model.safetensors", "optimizer.safetensors"] {
            assert!(tensors(&one, file) == tensors(&other, file), "{file}");
        }
        let (seeded, ..) = puzzle(&[&case[..], &["seed=2"]].concat(), &[]);
        assert_ne!(seeded.valid_loss, whole.valid_loss);
    }
}
