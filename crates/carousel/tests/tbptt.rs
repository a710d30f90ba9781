//! Truncated backpropagation through time: what flows over the border between two updates, and what does not.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use burn::tensor::Tensor;
use carousel::cell::{Activation, Cell};
use carousel::data::{Corpus, Truncation};
use carousel::init::Init;
use carousel::models::language_model::{LanguageModel, LanguageModelConfig, Regularize};
use carousel::parameters::NamedParameters;
use carousel::slices::with_slice;
use carousel::train::{Carried, Tbptt};
use support::{CELLS, autodiff, close};

const VOCABULARY: u32 = 5;

fn model(cell: Cell) -> LanguageModel {
    let (vocabulary, embedding, hidden, layers, seed) = (VOCABULARY as usize, 4, 6, 2, 3);
    let (init, regularize) = (Init::default(), Regularize::default());
    let (residual, tied) = (false, false);
    LanguageModelConfig {
        cell: cell.into(),
        vocabulary,
        embedding,
        hidden,
        layers,
        init,
        residual,
        tied,
        options: Default::default(),
        regularize,
        seed,
    }
    .init(&autodiff())
    .unwrap()
}

fn corpus(documents: &[usize]) -> Corpus {
    let mut corpus = Corpus::default();
    let mut token = 1;
    for &length in documents {
        let mut next = || {
            token = (token * 7 + 3) % 31;
            token % VOCABULARY
        };
        corpus.push(&(0..length).map(|_| next()).collect::<Vec<_>>());
    }
    corpus
}

/// The gradient of the summed loss over one pass, added up over its updates with the weights as they are, and
/// that sum.
fn pass(cell: Cell, corpus: &Corpus, streams: usize, truncation: Truncation) -> (f64, Vec<f32>) {
    let model = model(cell);
    let mut tbptt = Tbptt::new(corpus, streams, 1, truncation).unwrap();
    let (mut sum, mut gradient) = (0.0, Vec::new());
    for _ in 0..tbptt.windows().len() {
        for stretch in tbptt.advance() {
            let (mut outputs, mut targets) = (Vec::new(), Vec::new());
            tbptt.read(&stretch, |window, state| {
                let (y, state) = model.hidden(&window.inputs, &Arc::new(window.batch.clone()), state);
                outputs.push(y);
                targets.extend_from_slice(&window.targets);
                state
            });
            let count = stretch.1.targets() as f64;
            let loss = model.loss(Tensor::cat(outputs, 0), &targets) * count;
            sum += f64::from(with_slice(&loss, |loss| loss[0]));
            let parts = model.take_gradients(&mut loss.backward());
            let flat: Vec<f32> = parts.iter().flat_map(support::values).collect();
            gradient.resize(flat.len(), 0.0);
            gradient.iter_mut().zip(flat).for_each(|(sum, part)| *sum += part);
        }
    }
    (sum, gradient)
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

/// Values cross every border, so the loss is that of the whole whatever k1 and k2; gradients reach back k2 steps,
/// so they are those of the whole only where k2 is.
#[test]
fn k2_as_long_as_the_sequence_is_full_backpropagation() {
    let documents: [&[usize]; 2] = [&[41], &[9, 1, 1, 14, 16]];
    for cell in CELLS {
        for documents in documents {
            for streams in [1, 2] {
                let corpus = corpus(documents);
                let case = format!("{cell:?} {documents:?} {streams}");
                let (whole_loss, whole) = pass(cell, &corpus, streams, Truncation::every(40 / streams));
                let check = |k1, k2, full: bool| {
                    let (loss, gradient) = pass(cell, &corpus, streams, Truncation { k1, k2, varied: None });
                    assert!(
                        (loss - whole_loss).abs() < 1e-4 * whole_loss,
                        "{case} {k1} {k2}: {loss} {whole_loss}"
                    );
                    if full {
                        close(&format!("{case}, k1 {k1}, k2 {k2}"), &gradient, &whole, 1e-4);
                    } else {
                        assert!(apart(&gradient, &whole) > 1e-3, "{case}, k1 {k1}, k2 {k2}");
                    }
                };
                check(5, 40, true);
                check(1, 40, true);
                check(7, 47, true);
                check(5, 5, false);
                check(2, 3, false);
            }
        }
    }
}

/// What an input gets as gradient from the next window is nothing; what it gets as a value from the last is not.
#[test]
fn state_crosses_the_border_and_gradient_does_not() {
    let corpus = corpus(&[13]);
    let model = model(Cell::Lstm);
    let mut tbptt = Tbptt::new(&corpus, 1, 1, Truncation::every(6)).unwrap();
    let mut states = Vec::new();
    for _ in 0..2 {
        for stretch in tbptt.advance() {
            tbptt.read(&stretch, |window, state| {
                states.push(state.clone());
                let (_, after) = model.hidden(&window.inputs, &Arc::new(window.batch.clone()), state);
                assert!(after.h().is_tracked(), "within the window it is part of the graph");
                states.push(Some(after.clone()));
                after
            });
        }
    }
    let [None, Some(after), Some(before), _] = &states[..] else {
        panic!("two windows were read: {states:?}")
    };
    assert_eq!(support::values(&after.h()), support::values(&before.h()), "the value crosses");
    assert_eq!(support::values(&after.c().unwrap()), support::values(&before.c().unwrap()));
    assert!(!before.h().is_tracked() && !before.c().unwrap().is_tracked(), "the gradient does not");
}

#[test]
fn streams_are_reset_one_by_one() {
    let corpus = corpus(&[41]);
    let model = model(Cell::Rnn(Activation::Tanh));
    let windows =
        carousel::data::Windows::new(&corpus, 4, Truncation::every(5), carousel::data::Coverage::Equal)
            .unwrap();
    let mut carried = Carried::new(4);
    let read = |carried: &mut Carried, index: usize| {
        carried.read(&windows.get(index), |window, state| {
            model.hidden(&window.inputs, &Arc::new(window.batch.clone()), state).1
        });
        carried.cut();
    };
    read(&mut carried, 0);
    let segments = windows.get(1).segments;
    let before = carried.start(&segments).unwrap();
    carried.reset_streams(&[1, 3]);
    let after = carried.start(&segments).unwrap();
    for stream in 0..4 {
        let row = |state: &carousel::state::State| support::values(&state.select(&[stream]).h());
        match stream {
            1 | 3 => assert!(row(&after).iter().all(|&value| value == 0.0)),
            _ => assert_eq!(row(&after), row(&before)),
        }
    }
    carried.reset();
    assert!(carried.start(&segments).is_none());
}
