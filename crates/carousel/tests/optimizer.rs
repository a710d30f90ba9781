//! Clipping, update rules and averages on a small model, against what they are defined to do.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Tensor};
use carousel::cell::{Activation, Cell};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::recurrent::{Recurrent, RecurrentConfig};
use carousel::train::{Average, Averaging, Optimizer, Update};
use support::{close, tensor};

/// 2 input weights, 4 recurrent ones and two biases of 2.
fn model() -> Recurrent {
    RecurrentConfig::new(Cell::Rnn(Activation::Tanh), 1, 2).init(&Device::default().autodiff()).unwrap()
}

fn gradients() -> Vec<Tensor<1>> {
    let device = Device::default();
    let rows: [&[f32]; 4] = [&[3.0, -4.0], &[0.1, -0.2, 0.0, 0.2], &[0.0, 12.0], &[0.3, 0.4]];
    rows.iter().map(|row| tensor(row.to_vec(), [row.len()], &device)).collect()
}

fn values(model: &Recurrent) -> Vec<f32> {
    model.named_tensors().into_iter().flat_map(|tensor| tensor.values).collect()
}

/// What one step of plain gradient descent at rate 1 takes off the weights: the clipped gradient.
fn taken(assignments: &[&str]) -> (Update, Vec<f32>) {
    let mut recipe = Recipe::default_for(Task::Lm);
    recipe.set_all(&[&["train.optimizer=sgd"], assignments].concat()).unwrap();
    let mut model = model();
    let before = values(&model);
    let update = Optimizer::new(&recipe.train, &model).update(&mut model, &gradients(), 1.0);
    (update, before.iter().zip(values(&model)).map(|(before, after)| before - after).collect())
}

#[test]
fn each_way_of_clipping_does_what_it_says() {
    let all: Vec<f32> = gradients().iter().flat_map(support::values).collect();
    let norm = all.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
    let check = |assignments: &[&str], clipped: bool, expected: &[f32]| {
        let (update, found) = taken(assignments);
        assert!((update.norm - norm).abs() < 1e-6, "{assignments:?}: {}", update.norm);
        assert_eq!(update.clipped, clipped, "{assignments:?}");
        close(&format!("{assignments:?}"), &found, expected, 1e-6);
    };
    check(&["train.clip_norm=0"], false, &all);
    check(&["train.clip_norm=14"], false, &all);
    let scaled: Vec<f32> = all.iter().map(|g| g * (1.0 / norm) as f32).collect();
    check(&["train.clip_norm=1"], true, &scaled);
    check(&["train.clip_each_norm=12"], false, &all);
    check(&["train.clip_each_norm=2.5"], true, &[1.5, -2.0, 0.1, -0.2, 0.0, 0.2, 0.0, 2.5, 0.3, 0.4]);
    check(&["train.clip_value=12"], false, &all);
    check(&["train.clip_value=0.2"], true, &[0.2, -0.2, 0.1, -0.2, 0.0, 0.2, 0.0, 0.2, 0.2, 0.2]);
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    for clip in ["train.clip_norm=1", "train.clip_each_norm=1", "train.clip_value=1"] {
        let mut recipe = Recipe::default_for(Task::Lm);
        recipe.set(clip).unwrap();
        let mut model = model();
        let before = values(&model);
        let mut gradients = gradients();
        gradients[1] = tensor(vec![0.0, f32::NAN, 0.0, 0.0], [4], &Device::default());
        let update = Optimizer::new(&recipe.train, &model).update(&mut model, &gradients, 1.0);
        assert!(update.norm.is_nan() && !update.clipped);
        assert_eq!(values(&model), before);
    }
}

/// Every rule and every one of its settings leads somewhere else after a few steps.
#[test]
fn every_rule_and_setting_changes_the_weights() {
    let after = |assignments: &[&str]| {
        let mut recipe = Recipe::default_for(Task::Lm);
        recipe.set_all(&[&["train.clip_norm=0"], assignments].concat()).unwrap();
        let mut model = model();
        let mut optimizer = Optimizer::new(&recipe.train, &model);
        for factor in [1.0, -0.5, 2.0] {
            let gradients: Vec<_> = gradients().into_iter().map(|gradient| gradient * factor).collect();
            optimizer.update(&mut model, &gradients, 0.1);
        }
        values(&model)
    };
    let cases: &[&[&str]] = &[
        &["train.optimizer=sgd"],
        &["train.optimizer=sgd", "train.weight_decay=0.1"],
        &["train.optimizer=momentum"],
        &["train.optimizer=momentum", "train.momentum=0.5"],
        &["train.optimizer=rmsprop"],
        &["train.optimizer=rmsprop", "train.alpha=0.9"],
        &["train.optimizer=rmsprop", "train.epsilon=0.1"],
        &["train.optimizer=rmsprop", "train.weight_decay=0.1"],
        &["train.optimizer=adam"],
        &["train.optimizer=adam", "train.beta1=0.5"],
        &["train.optimizer=adam", "train.beta2=0.9"],
        &["train.optimizer=adam", "train.epsilon=0.1"],
        &["train.optimizer=adam", "train.weight_decay=0.1"],
        &["train.optimizer=adamw", "train.weight_decay=0.1"],
    ];
    let results: Vec<Vec<f32>> = cases.iter().map(|case| after(case)).collect();
    for (i, a) in results.iter().enumerate() {
        for (j, b) in results.iter().enumerate().take(i) {
            assert_ne!(a, b, "{:?} and {:?}", cases[i], cases[j]);
        }
    }
    assert_eq!(
        after(&["train.optimizer=adamw"]),
        after(&["train.optimizer=adam"]),
        "no decay, no difference"
    );
}

#[test]
fn averages_weigh_the_steps_as_they_say() {
    let mut model = model();
    let set = |model: &mut Recurrent, value: f32| {
        model
            .parameters_mut()
            .into_iter()
            .for_each(|(_, mut p)| p.with_slice_mut(|values| values.fill(value)));
    };
    let mut check = |how, expected: f32| {
        set(&mut model, 1.0);
        let mut average = Average::new(how, &model);
        for value in [2.0, 6.0] {
            set(&mut model, value);
            average.add(&model);
        }
        assert_eq!(average.steps(), 3);
        for tensor in average.values() {
            close(&tensor.name, &tensor.values, &vec![expected; tensor.values.len()], 1e-6);
        }
        let again = Average::resume(how, 3, &model, average.values()).unwrap();
        assert_eq!(again, average);
        assert!(Average::resume(how, 3, &model, &average.values()[1..]).is_err());
    };
    check(Averaging::Mean, 3.0);
    // 0.5 · (0.5 · 1 + 0.5 · 2) + 0.5 · 6
    check(Averaging::Exponential(0.5), 3.75);
}
