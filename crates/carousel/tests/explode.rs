//! Runs made to explode: the place that is named is the place where plain loops find the first number that is none.

#![allow(clippy::unwrap_used)]

use carousel::parameters::NamedTensor;
use carousel::recipe::{Recipe, Task};
use carousel::run::RunFolder;
use carousel::train::checkpoint::read_tensors;
use carousel::train::{Control, Diagnosis, Origin, Start, TrainError, Way, adding, replay};

const SEQUENCES: usize = 4;
const LENGTH: usize = 100;
const HIDDEN: usize = 6;

/// Trains the adding problem until it breaks.
fn explode(settings: &[&str]) -> (tempfile::TempDir, Diagnosis) {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::default_for(Task::Adding);
    let sizes = [
        format!("data.length={LENGTH}"),
        format!("model.hidden={HIDDEN}"),
        "model.layers=1".to_owned(),
        format!("train.batch={SEQUENCES}"),
        "train.steps=400".to_owned(),
        "train.optimizer=sgd".to_owned(),
        "train.learning_rate=100".to_owned(),
    ];
    recipe.set_all(&sizes).unwrap();
    recipe.set_all(settings).unwrap();
    let run = RunFolder::create(&folder.path().join("run")).unwrap();
    run.write_recipe(&recipe).unwrap();
    match adding(&run, &recipe, Start::New, &mut |_| Control::Continue) {
        Err(TrainError::Diverged { diagnosis, .. }) => (folder, *diagnosis),
        other => panic!("{:?}", other.map(|summary| summary.steps)),
    }
}

#[test]
fn a_relu_net_is_named_by_time_step_and_unit() {
    let (_folder, found) =
        explode(&["model.cell=rnn", "model.activation=relu", "model.init=identity", "model.init_gain=3"]);
    let path = found.replay.clone().unwrap();
    let tensors = read_tensors(&path).unwrap();
    let of = |name: &str| &tensors.iter().find(|tensor: &&NamedTensor| tensor.name == name).unwrap().values;
    let (w, u) = (of("recurrent.weight_ih_l0"), of("recurrent.weight_hh_l0"));
    let (b, c) = (of("recurrent.bias_ih_l0"), of("recurrent.bias_hh_l0"));
    let x = of("batch.0.x");
    // All sequences are equally long: packed order is step after step.
    let mut h = [[0.0f32; HIDDEN]; SEQUENCES];
    let mut first = None;
    'walk: for step in 0..LENGTH {
        for sequence in 0..SEQUENCES {
            let x = &x[(step * SEQUENCES + sequence) * 2..][..2];
            let before = h[sequence];
            for unit in 0..HIDDEN {
                let input = w[unit * 2] * x[0] + w[unit * 2 + 1] * x[1] + b[unit] + c[unit];
                let sum = (0..HIDDEN).fold(input, |sum, from| sum + u[unit * HIDDEN + from] * before[from]);
                h[sequence][unit] = if sum < 0.0 { 0.0 } else { sum };
            }
            if let Some(unit) = h[sequence].iter().position(|value| !value.is_finite()) {
                first = Some((step, sequence, unit));
                break 'walk;
            }
        }
    }
    let Origin::Layer { way: Way::Forward, layer: 0, signal, step, sequence, unit, .. } = &found.origin
    else {
        panic!("{found:?}")
    };
    assert_eq!((signal.as_str(), Some((*step, sequence.unwrap(), *unit))), ("h", first));
    assert!(found.advice[0].contains("ReLU"), "{:?}", found.advice);
    assert_eq!(replay(&path).unwrap().1.origin, found.origin);
}

#[test]
fn a_learning_rate_of_a_hundred_breaks_what_reads_the_recurrence() {
    let (_folder, found) = explode(&["model.cell=lstm", "train.clip_norm=0"]);
    // An LSTM's h cannot pass 1: what explodes is the output layer's sum, and with it the squared error.
    assert_eq!(found.origin, Origin::Behind);
    assert!(found.hidden[1] <= 1.0 && found.saturated > 0.0, "{found:?}");
    assert!(found.advice.iter().any(|advice| advice.contains("train.learning_rate")), "{:?}", found.advice);
    assert_eq!(replay(found.replay.as_ref().unwrap()).unwrap().1.origin, found.origin);
}
