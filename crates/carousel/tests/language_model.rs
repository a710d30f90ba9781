//! A small language model: it learns, it counts, its steps agree with its windows.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::{Cell, Reset};
use carousel::init::{Init, WeightInit};
use carousel::models::language_model::{LanguageModel, LanguageModelConfig, Regularize};
use carousel::output::{IGNORE, Loss};
use carousel::parameters::NamedParameters;
use carousel::path::Path;
use carousel::ragged::Batch;
use carousel::slices::with_slice;
use carousel::stepper::StepPrecision;
use support::{autodiff, close, values};

const PATHS: [Path; 2] = [Path::Auto, Path::Portable];

fn model(device: &Device) -> LanguageModel {
    let config = LanguageModelConfig {
        cell: Cell::Lstm.into(),
        vocabulary: 5,
        embedding: 4,
        hidden: 8,
        layers: 2,
        init: Init::default(),
        residual: false,
        tied: false,
        options: Default::default(),
        regularize: Regularize::default(),
        seed: 1,
    };
    config.init(device).unwrap()
}

/// One sequence 0 1 2 3 4 0 1 2 …, and what follows each token.
fn counting(steps: u32) -> (Vec<u32>, Vec<u32>, Arc<Batch>) {
    let token = |t| t % 5;
    let inputs = (0..steps).map(token).collect();
    let targets = (1..=steps).map(token).collect();
    (inputs, targets, Arc::new(Batch::full(1, steps as usize)))
}

#[test]
fn descent_in_place_learns_to_count() {
    for path in PATHS {
        let mut model = model(&autodiff()).with_path(path);
        let (inputs, targets, batch) = counting(20);
        let mut state = None;
        for _ in 0..300 {
            let (loss, next) = model.forward_loss(&inputs, &targets, &batch, state);
            state = Some(next);
            let gradients = model.take_gradients(&mut loss.backward());
            for ((_, mut parameter), gradient) in model.parameters_mut().into_iter().zip(&gradients) {
                parameter.with_slice_mut(|values| {
                    with_slice(gradient, |gradient| {
                        values.iter_mut().zip(gradient).for_each(|(value, d)| *value -= 0.5 * d);
                    });
                });
            }
        }
        let (measured, _) = model.evaluate(&inputs, &targets, &batch, state);
        assert_eq!((measured.count, measured.correct), (20, 20), "{path:?}");
        assert!(measured.nats / 20.0 < 0.1, "{path:?}: {} nats a token", measured.nats / 20.0);
    }
}

#[test]
fn evaluation_is_the_loss_without_a_gradient() {
    for path in PATHS {
        let model = model(&autodiff()).with_path(path);
        let (inputs, mut targets, batch) = counting(7);
        targets[3] = IGNORE;
        let (loss, _) = model.forward_loss(&inputs, &targets, &batch, None);
        let (measured, state) = model.evaluate(&inputs, &targets, &batch, None);
        assert_eq!(measured.count, 6);
        close("mean", &[(measured.nats / 6.0) as f32], &values(&loss), 1e-6);
        assert!(!state.h().is_autodiff());
        let (nothing, _) = model.evaluate(&inputs, &[IGNORE; 7], &batch, None);
        assert_eq!(nothing, Loss::default());
    }
}

#[test]
fn stepper_agrees_with_the_window() {
    let model = model(&Device::default());
    let (inputs, _, batch) = counting(12);
    let (logits, _) = model.logits(&inputs, &batch, None);
    let mut stepper = model.stepper(1).unwrap();
    let mut found = Vec::new();
    for &token in &inputs {
        found.extend_from_slice(stepper.step(&[token]).unwrap());
    }
    close("logits", &found, &values(&logits), 1e-5);

    let (first, rest) = inputs.split_at(5);
    let (_, state) = model.logits(first, &Arc::new(Batch::full(1, 5)), None);
    stepper.set_state(&state).unwrap();
    let from_state = stepper.step(&rest[..1]).unwrap().to_vec();
    close("from a state", &from_state, &found[25..30], 1e-5);
    stepper.reset();
    assert_eq!(stepper.step(&inputs[..1]).unwrap(), &found[..5]);
    assert!(stepper.step(&[5]).is_err());
    assert!(stepper.step(&[0, 0]).is_err());
    assert!(model.stepper(0).is_none());
}

#[test]
fn rows_that_a_stepper_reads_are_measured_like_windows() {
    let model = model(&Device::default());
    let (inputs, mut targets, batch) = counting(12);
    targets[3] = IGNORE;
    let (expected, _) = model.evaluate(&inputs, &targets, &batch, None);
    let check = |precision, tolerance: f64| {
        let mut stepper = model.stepper_with(1, precision).unwrap();
        let mut rows = Vec::new();
        for &token in &inputs {
            rows.extend_from_slice(stepper.read(&[token]).unwrap());
        }
        let found = stepper.loss(&rows, &targets).unwrap();
        assert_eq!(found.count, 11);
        let apart = (found.nats - expected.nats).abs() / expected.nats;
        assert!(apart <= tolerance, "{precision:?}: {apart}");
        assert!(stepper.loss(&rows, &targets[1..]).is_err());
        stepper.reset_text(0);
        assert_eq!(stepper.read(&inputs[..1]).unwrap(), &rows[..8]);
        apart
    };
    check(StepPrecision::F32, 1e-6);
    assert!(check(StepPrecision::Int8, 0.01) > 0.0);
    assert!(model.stepper_with(0, StepPrecision::Int8).is_none());
}

#[test]
fn tensors_have_the_names_of_a_checkpoint() {
    let mut other = model(&autodiff());
    let names: Vec<String> = other.named_tensors().into_iter().map(|tensor| tensor.name).collect();
    let layer =
        |layer| ["weight_ih", "weight_hh", "bias_ih", "bias_hh"].map(|n| format!("recurrent.{n}_l{layer}"));
    let mut expected = vec!["embedding.weight".to_owned()];
    expected.extend(layer(0));
    expected.extend(layer(1));
    expected.extend(["output.weight".to_owned(), "output.bias".to_owned()]);
    assert_eq!(names, expected);

    let mut tensors = other.named_tensors();
    tensors.iter_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value *= 0.5));
    other.load(&tensors).unwrap();
    assert_eq!(other.named_tensors(), tensors);
}

#[test]
#[should_panic(expected = "token 1 is 5, expected less than the vocabulary's 5")]
fn a_token_beyond_the_vocabulary_is_refused() {
    let _ = model(&autodiff()).forward_loss(&[0, 5], &[0, 0], &Arc::new(Batch::full(1, 2)), None);
}

#[test]
#[should_panic(expected = "target 0 is 9, expected less than the vocabulary's 5")]
fn a_target_beyond_the_vocabulary_is_refused() {
    let _ = model(&autodiff()).forward_loss(&[0, 1], &[9, 0], &Arc::new(Batch::full(1, 2)), None);
}

/// `uniform` is the one choice that reaches beyond the recurrent stack, as Zaremba et al. 2014 draw theirs.
#[test]
fn a_uniform_range_holds_for_the_whole_model() {
    let with = |init| {
        let config = LanguageModelConfig {
            cell: Cell::Gru(Reset::After).into(),
            vocabulary: 50,
            embedding: 40,
            hidden: 30,
            layers: 2,
            init,
            residual: false,
            tied: false,
            options: Default::default(),
            regularize: Regularize::default(),
            seed: 1,
        };
        let tensors = config.init(&Device::default()).unwrap().named_tensors();
        let largest = |values: &[f32]| values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        tensors.into_iter().map(|tensor| (largest(&tensor.values), tensor.name)).collect::<Vec<_>>()
    };
    for (largest, name) in with(Init::both(WeightInit::Uniform { range: 0.01 })) {
        assert!((0.008..=0.01).contains(&largest), "{name}: {largest}");
    }
    for (largest, name) in with(Init::both(WeightInit::XavierNormal { gain: None })) {
        assert!(largest == 0.0 || largest > 0.1, "{name}: {largest}");
    }
}
