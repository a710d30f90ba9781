//! Pooling and weighted losses of the classifier against plain loops, and its gradients against differences.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use carousel::cell::Cell;
use carousel::data::pack;
use carousel::init::{Init, WeightInit};
use carousel::models::classifier::{Classifier, ClassifierConfig};
use carousel::models::dense::{DenseActivation, DenseConfig, Norm};
use carousel::models::pool::Pooling;
use carousel::models::reader::{Body, RecurrenceConfig, StepKind, Steps};
use carousel::parameters::NamedParameters;
use carousel::recurrent::Direction;
use carousel::slices::with_slice;

const SEQUENCES: [&[u32]; 4] = [&[1, 4, 2], &[3], &[], &[0, 1, 2, 3, 4]];
const CLASSES: [u32; 4] = [2, 0, 1, 2];

fn recurrent() -> Body {
    RecurrenceConfig { direction: Direction::Both, ..RecurrenceConfig::new(Cell::Lstm, 6) }.into()
}

fn dense(norm: Norm, activation: DenseActivation) -> Body {
    Body::Dense(DenseConfig { input: 1, hidden: 6, layers: 2, activation, norm })
}

fn config(body: Body, pooling: Pooling) -> ClassifierConfig {
    let steps = StepKind::Token { vocabulary: 5, embedding: 3 };
    ClassifierConfig { pooling, label_smoothing: 0.1, seed: 7, ..ClassifierConfig::new(steps, body, 3) }
}

fn loss(model: &Classifier, weights: Option<&[f32]>) -> f64 {
    let (ids, batch) = pack(&SEQUENCES, 1);
    let loss = model.loss(Steps::Tokens(&ids), &Arc::new(batch), &CLASSES, weights, None);
    f64::from(with_slice(&loss, |loss| loss[0]))
}

/// Every gradient by central differences of the loss.
#[test]
fn gradients_are_those_of_the_loss() {
    let weights = [0.5, 2.0, 1.0];
    let bodies = [
        (recurrent(), [Pooling::Last, Pooling::Mean, Pooling::Max, Pooling::Attention].as_slice()),
        (dense(Norm::Layer, DenseActivation::Gelu), &[Pooling::Mean, Pooling::Attention]),
        (dense(Norm::None, DenseActivation::Softplus), &[Pooling::Last]),
    ];
    for (body, poolings) in bodies {
        for &pooling in poolings {
            let mut model = config(body, pooling).init(&Device::default().autodiff()).unwrap();
            let (ids, batch) = pack(&SEQUENCES, 1);
            let batch = Arc::new(batch);
            for weights in [None, Some(&weights[..])] {
                let whole = model.loss(Steps::Tokens(&ids), &batch, &CLASSES, weights, None);
                let found = model.take_gradients(&mut whole.backward());
                for (place, gradient) in found.iter().enumerate() {
                    let gradient = with_slice(gradient, <[f32]>::to_vec);
                    let name = model.parameters()[place].0.clone();
                    for element in (0..gradient.len()).step_by(gradient.len().div_ceil(7)) {
                        let mut moved = |by: f32| {
                            model.parameters_mut()[place].1.with_slice_mut(|values| values[element] += by);
                            let loss = loss(&model, weights);
                            model.parameters_mut()[place].1.with_slice_mut(|values| values[element] -= by);
                            loss
                        };
                        let step = 4e-3;
                        let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                        let error = (f64::from(gradient[element]) - expected).abs();
                        assert!(
                            error < 2e-3,
                            "{pooling:?} {name}[{element}]: {} {expected}",
                            gradient[element]
                        );
                    }
                }
            }
        }
    }
}

/// Each sequence alone gives what it gives in a ragged batch: nothing of the others, and no padding, counts.
#[test]
fn a_batch_changes_nothing() {
    for pooling in [Pooling::Last, Pooling::Mean, Pooling::Max, Pooling::Attention] {
        for body in [recurrent(), dense(Norm::Layer, DenseActivation::Tanh)] {
            let model = config(body, pooling).init(&Device::default()).unwrap();
            let probabilities = |sequences: &[&[u32]]| {
                let (ids, batch) = pack(sequences, 1);
                with_slice(&model.probabilities(Steps::Tokens(&ids), &Arc::new(batch)), <[f32]>::to_vec)
            };
            let together = probabilities(&SEQUENCES);
            for (sequence, expected) in SEQUENCES.iter().zip(together.chunks(3)) {
                for (found, expected) in probabilities(&[sequence]).iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-6, "{pooling:?} {sequence:?}");
                }
            }
            assert!(together.chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        }
    }
}

/// But not for the forget bias, which is 1 unless said.
#[test]
fn a_uniform_range_holds_for_the_whole_model() {
    let Body::Recurrent(recurrence) = recurrent() else { panic!("it has a recurrence") };
    let init = Init::both(WeightInit::Uniform { range: 0.01 });
    let body = Body::Recurrent(RecurrenceConfig { init, ..recurrence });
    for tensor in config(body, Pooling::Attention).init(&Device::default()).unwrap().named_tensors() {
        let largest = tensor.values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let expected = if tensor.name.starts_with("recurrent.bias_ih_l0") { 1.0..=1.0 } else { 0.001..=0.01 };
        assert!(expected.contains(&largest), "{}: {largest}", tensor.name);
    }
}

/// `Σ w[y] L / Σ w[y]` by hand, from the probabilities.
#[test]
fn class_weights_count() {
    let model = config(recurrent(), Pooling::Last).init(&Device::default()).unwrap();
    let (ids, batch) = pack(&SEQUENCES, 1);
    let p = with_slice(&model.probabilities(Steps::Tokens(&ids), &Arc::new(batch)), <[f32]>::to_vec);
    let by_hand = |weights: [f64; 3]| {
        let (mut sum, mut total) = (0.0, 0.0);
        for (row, &class) in p.chunks(3).zip(&CLASSES) {
            let logs: Vec<f64> = row.iter().map(|&p| f64::from(p).ln()).collect();
            let smoothed = 0.9 * logs[class as usize] + 0.1 * logs.iter().sum::<f64>() / 3.0;
            sum -= weights[class as usize] * smoothed;
            total += weights[class as usize];
        }
        sum / total
    };
    assert!((loss(&model, None) - by_hand([1.0, 1.0, 1.0])).abs() < 1e-5);
    assert!((loss(&model, Some(&[1.0, 1.0, 1.0])) - by_hand([1.0, 1.0, 1.0])).abs() < 1e-5);
    assert!((loss(&model, Some(&[3.0, 1.0, 0.5])) - by_hand([3.0, 1.0, 0.5])).abs() < 1e-5);
    assert!((by_hand([3.0, 1.0, 0.5]) - by_hand([1.0, 1.0, 1.0])).abs() > 1e-3, "the weights say something");
}
