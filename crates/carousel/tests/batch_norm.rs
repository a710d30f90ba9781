//! Batch normalisation against PyTorch and against differences of the loss, and what running statistics are for.
#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Tensor};
use carousel::batch_norm::BatchNorm;
use carousel::cell::{Activation, Cell, Reset};
use carousel::init::Initializer;
use carousel::models::dense::{DenseActivation, DenseConfig, Norm};
use carousel::own_cell::AnyCell;
use carousel::parameters::{NamedParameters, NamedTensor};
use carousel::ragged::Ragged;
use carousel::recurrent::{Direction, NoisySequences, Recurrent, RecurrentConfig};
use carousel::regularize::Noise;
use carousel::train::{Average, Averaging};
use serde_json::Value;
use support::{autodiff, close, random, tensor, values};

/// Equal weights in 32 bits against sums in 64. Statistics of few rows divide by small variances, which magnifies
/// rounding, in gradients from step to step.
const SINGLE: f32 = 2e-5;
const GRADIENT: f32 = 1e-4;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/batch_norm.json")).unwrap()
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// All numbers of nested lists.
fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(all) => all.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn noise() -> Noise {
    Noise::new(&[1])
}

/// Gives a model the fixture's weights, and leaves its buffers as they are.
fn load(model: &mut impl NamedParameters, weights: &Value, ending: &str) {
    let buffers: Vec<String> = model.buffers().into_iter().map(|(name, _)| name).collect();
    let given = model.named_tensors().into_iter().map(|own| {
        if buffers.contains(&own.name) {
            return own;
        }
        let weight = &weights[own.name.trim_end_matches(ending)];
        NamedTensor { shape: list(&weight["shape"]), values: list(&weight["values"]), ..own }
    });
    model.load(&given.collect::<Vec<_>>()).unwrap();
}

fn check_gradients(
    model: &impl NamedParameters,
    loss: Tensor<1>,
    expected: &Value,
    ending: &str,
    case: &str,
) {
    let found = model.take_gradients(&mut loss.backward());
    for ((name, _), found) in model.parameters().into_iter().zip(found) {
        let (found, expected) = (values(&found), flat(&expected[name.trim_end_matches(ending)]));
        // That of a bias which the mean takes away is zero but for rounding.
        let mean_takes_it = expected.iter().all(|value| value.abs() < 1e-9);
        let scale = if mean_takes_it { 1.0 } else { 0.0 };
        let [found, expected] = [found, expected].map(|values| [&values[..], &[scale]].concat());
        close(&format!("{case}: gradient of {name}"), &found, &expected, GRADIENT);
    }
}

fn check_buffers(model: &impl NamedParameters, expected: &Value, case: &str) {
    let buffers = model.buffers();
    assert_eq!(buffers.len(), expected.as_object().unwrap().len(), "{case}");
    for (name, buffer) in buffers {
        buffer.with_slice(|found| close(&format!("{case}: {name}"), found, &flat(&expected[&name]), SINGLE));
    }
}

#[test]
fn feed_forward_layers_are_pytorchs() {
    let given = &fixture()["dense"];
    let config =
        DenseConfig { input: 3, hidden: 4, layers: 2, activation: DenseActivation::Tanh, norm: Norm::Batch };
    let mut dense = config.init(&mut Initializer::new(1), &autodiff()).unwrap();
    load(&mut dense, &given["weights"], "");
    let rows = |value: &Value| {
        let values = flat(value);
        tensor(values.clone(), [values.len() / 3, 3], &autodiff())
    };
    for (place, batch) in given["batches"].as_array().unwrap().iter().enumerate() {
        let y = dense.forward(rows(&batch["x"]), Some(noise()));
        close(&format!("batch {place}"), &values(&y), &flat(&batch["y"]), SINGLE);
        let dy = tensor(flat(&batch["dy"]), y.dims(), &autodiff());
        check_gradients(&dense, (y * dy).sum(), &batch["gradients"], "", &format!("batch {place}"));
    }
    check_buffers(&dense, &given["buffers"], "feed-forward");
    let used = &given["used"];
    close("used", &values(&dense.forward(rows(&used["x"]), None)), &flat(&used["y"]), SINGLE);
    check_buffers(&dense, &given["buffers"], "using a net teaches it nothing");
}

fn learning(stack: &Recurrent, x: Ragged) -> Ragged {
    let names: Vec<u32> = (0..x.batch().sequences() as u32).collect();
    stack.forward_noisy(x, None, Some(NoisySequences { noise: noise(), names: &names })).0
}

#[test]
fn cells_are_pytorchs() {
    let given = fixture();
    let sizes = &given["sizes"];
    let lengths: Vec<usize> = list(&sizes["lengths"]);
    let time = lengths.iter().copied().max().unwrap();
    let cases = given["cells"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let (kind, place) = (case["cell"].as_str().unwrap(), case["place"].as_str().unwrap());
        let name = format!("{kind}, {place}");
        let cell = match kind {
            "rnn" => Cell::Rnn(Activation::Tanh),
            "lstm" => Cell::Lstm,
            "gru-after" => Cell::Gru(Reset::After),
            _ => Cell::Gru(Reset::Before),
        };
        let norm = match place {
            "input" => BatchNorm::Input,
            _ => BatchNorm::Recurrent { steps: sizes["steps"].as_u64().unwrap() as usize },
        };
        let mut stack = RecurrentConfig::new(norm.of(cell), 3, 4).init(&autodiff()).unwrap();
        load(&mut stack, &case["weights"], "_l0");
        let padded =
            |value: &Value, width| tensor::<3>(flat(value), [lengths.len(), time, width], &autodiff());
        let ragged = |value: &Value| Ragged::from_padded(padded(value, 3), &lengths).unwrap();
        for (place, batch) in case["batches"].as_array().unwrap().iter().enumerate() {
            let y = learning(&stack, ragged(&batch["x"])).to_padded(0.0);
            close(&format!("{name}, batch {place}"), &values(&y), &flat(&batch["y"]), SINGLE);
            if batch["gradients"].is_object() {
                let loss = (y * padded(&batch["dy"], 4)).sum();
                check_gradients(&stack, loss, &batch["gradients"], "_l0", &name);
            }
        }
        check_buffers(&stack, &case["buffers"], &name);
        let used = &case["used"];
        let (y, _) = stack.forward(ragged(&used["x"]), None);
        close(&format!("{name}, used"), &values(&y.to_padded(0.0)), &flat(&used["y"]), SINGLE);
        check_buffers(&stack, &case["buffers"], &format!("{name}: using a net teaches it nothing"));
    }
}

/// At each step enough sequences for a variance that is not small by chance.
const LENGTHS: [usize; 8] = [5, 5, 6, 5, 0, 6, 6, 6];

fn cells() -> Vec<AnyCell> {
    let kinds = [Cell::Rnn(Activation::Elu), Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before)]
        .into_iter();
    kinds.flat_map(|cell| [BatchNorm::Input, BatchNorm::Recurrent { steps: 4 }].map(|n| n.of(cell))).collect()
}

fn stack(cell: AnyCell) -> Recurrent {
    let config = RecurrentConfig::new(cell, 3, 4).with_layers(2).with_direction(Direction::Both);
    config.with_seed(3).init(&autodiff()).unwrap()
}

fn ragged(seed: u64) -> Ragged {
    Ragged::from_padded(random(seed, [LENGTHS.len(), 6, 3], &autodiff()), &LENGTHS).unwrap()
}

/// Every gradient in stacks of two layers, backwards, by central differences.
#[test]
fn gradients_are_those_of_the_loss() {
    for cell in cells() {
        let config = RecurrentConfig::new(cell, 3, 4).with_layers(2).with_direction(Direction::Reverse);
        let mut stack = config.with_seed(3).init(&autodiff()).unwrap();
        // Away from where they start, so that each counts.
        for (place, (name, mut parameter)) in stack.parameters_mut().into_iter().enumerate() {
            if name.starts_with("norm") || name.starts_with("shift") {
                let drawn = Initializer::new(place as u64);
                parameter.with_slice_mut(|own| {
                    let moved = drawn.clone().uniform(own.len(), 0.4);
                    own.iter_mut().zip(moved).for_each(|(own, moved)| *own += 0.5 + moved);
                });
            }
        }
        let weight = |stack: &Recurrent| {
            let y = learning(stack, ragged(1)).frames();
            let factor = random(2, y.dims(), &autodiff());
            (y * factor).sum()
        };
        let found = stack.take_gradients(&mut weight(&stack).backward());
        for (place, gradient) in found.iter().enumerate() {
            let (name, gradient) = (stack.parameters()[place].0.clone(), values(gradient));
            for element in (0..gradient.len()).step_by(gradient.len().div_ceil(2)) {
                let mut moved = |by: f32| {
                    stack.parameters_mut()[place].1.with_slice_mut(|values| values[element] += by);
                    let loss = values(&weight(&stack))[0];
                    stack.parameters_mut()[place].1.with_slice_mut(|values| values[element] -= by);
                    f64::from(loss)
                };
                let mut slope = |step| (moved(step) - moved(-step)) / f64::from(2.0 * step);
                // Two steps tell the loss's curve from its slope (Richardson 1911).
                let expected = (4.0 * slope(1e-3) - slope(2e-3)) / 3.0;
                let apart = (f64::from(gradient[element]) - expected).abs();
                assert!(
                    apart < 2e-2 * expected.abs().max(1.0),
                    "{} {name}[{element}]: {} {expected}",
                    cell.name(),
                    gradient[element]
                );
            }
        }
    }
}

/// Padding is no frame: whatever stands there, statistics and outputs stay.
#[test]
fn padding_has_no_part_in_statistics() {
    for cell in cells() {
        let run = |padding: f32| {
            let stack = stack(cell);
            let mut x = values(&random::<3>(1, [LENGTHS.len(), 6, 3], &autodiff()));
            for (sequence, length) in LENGTHS.into_iter().enumerate() {
                x[(sequence * 6 + length) * 3..(sequence + 1) * 18].fill(padding);
            }
            let x = Ragged::from_padded(tensor(x, [LENGTHS.len(), 6, 3], &autodiff()), &LENGTHS).unwrap();
            let y = values(&learning(&stack, x).frames());
            (y, stack.named_tensors())
        };
        assert_eq!(run(0.0), run(f32::NAN), "{}", cell.name());
    }
}

/// A used net gives each sequence what it gives it in any company, and a stepper goes the same way.
#[test]
fn running_statistics_serve_a_net_in_use() {
    for cell in cells() {
        let config = RecurrentConfig::new(cell, 3, 4).with_layers(2);
        let stack = config.init(&Device::default()).unwrap();
        for seed in 0..3 {
            let x = random(seed, [5, 6, 3], &Device::default());
            let noise = NoisySequences { noise: noise(), names: &[0, 1, 2, 3, 4] };
            let _ = stack.forward_noisy(x, None, Some(noise));
        }
        let x = random::<3>(9, [2, 6, 3], &Device::default());
        let y = values(&stack.forward(x.clone(), None).0);
        let alone = values(&stack.forward(x.clone().slice([0..1, 0..6, 0..3]), None).0);
        close(cell.name(), &alone, &y[..alone.len()], 1e-6);
        let mut stepper = stack.stepper(1).unwrap();
        for round in 0..2 {
            for (step, x) in values(&x)[..18].chunks(3).enumerate() {
                let found = stepper.step(x).unwrap();
                close(
                    &format!("{} step {step} round {round}", cell.name()),
                    found,
                    &y[step * 4..][..4],
                    1e-5,
                );
            }
            stepper.reset();
        }
    }
}

/// A copy of a net has statistics of its own, and takes over those that it is given.
#[test]
fn statistics_are_saved_and_copied_with_the_weights() {
    for cell in cells() {
        let one = stack(cell);
        let other = one.clone();
        let before = other.named_tensors();
        let _ = learning(&one, ragged(1));
        assert_eq!(other.named_tensors(), before, "{}", cell.name());
        assert_ne!(one.named_tensors(), before);
        let mut other = other;
        other.load(&one.named_tensors()).unwrap();
        let y = |stack: &Recurrent| values(&stack.forward(ragged(2), None).0.frames());
        assert_eq!(y(&one), y(&other));
        let parameters = one.parameters().len();
        assert!(one.named_tensors().len() > parameters);
        assert!(other.load(&one.named_tensors()[..parameters]).is_err(), "statistics are part of it");
    }
}

/// Weights are averaged; statistics, means already, are the last ones.
#[test]
fn an_average_has_the_last_statistics() {
    let stack = stack(BatchNorm::Input.of(Cell::Lstm));
    let mut average = Average::new(Averaging::Mean, &stack);
    for seed in 0..3 {
        let _ = learning(&stack, ragged(seed));
        average.add(&stack);
    }
    assert_eq!(average.values(), stack.named_tensors(), "no weight has moved");
    let again = Average::resume(Averaging::Mean, 4, &stack, average.values()).unwrap();
    assert_eq!(again, average);
}
