//! What sequences begin from, where it is learned: every gradient against differences, both paths, what it stands in
//! for and what it leaves alone.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel::cell::{Cell, CellOptions};
use carousel::init::{FirstState, Init, Initializer};
use carousel::minimal::{MinGru, MinLstm};
use carousel::models::language_model::LanguageModelConfig;
use carousel::own_cell::AnyCell;
use carousel::parameters::NamedParameters;
use carousel::path::Path;
use carousel::ragged::{Batch, Ragged};
use carousel::record::Keep;
use carousel::recurrent::{Direction, Merge, Recurrent, RecurrentConfig};
use carousel::state::Row;
use support::{CELLS, autodiff, close, random, values};

const INPUT: usize = 3;
const HIDDEN: usize = 5;
const LENGTHS: [usize; 4] = [2, 0, 4, 1];

fn cells() -> Vec<AnyCell> {
    let own = [AnyCell::from(&MinGru), (&MinLstm).into()];
    CELLS.into_iter().map(AnyCell::from).chain(own).collect()
}

/// A stack whose sequences begin from something.
fn stack(cell: AnyCell, direction: Direction, device: &Device) -> Recurrent {
    let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_layers(2).with_direction(direction);
    let mut stack = config.with_merge(Merge::Sum).with_learned_state(true).init(device).unwrap();
    let mut random = Initializer::new(8);
    for (name, mut parameter) in stack.parameters_mut() {
        if name.starts_with("h0") || name.starts_with("c0") {
            parameter.with_slice_mut(|row| row.copy_from_slice(&random.uniform(row.len(), 0.8)));
        }
    }
    stack
}

/// Of outputs and last states, each element with a weight of its own.
fn loss(stack: &Recurrent, x: &Tensor<3>) -> Tensor<1> {
    let ragged = Ragged::from_padded(x.clone(), &LENGTHS).unwrap();
    let (y, last) = stack.forward(ragged, None);
    let weighed = |values: Tensor<2>, seed| {
        let shape = values.dims();
        (values * random::<2>(seed, shape, &autodiff())).sum()
    };
    let [entries, sequences, width] = last.h().dims();
    weighed(y.frames(), 1) + weighed(last.h().reshape([entries * sequences, width]), 2)
}

#[test]
fn gradients_are_those_of_the_loss_on_both_paths() {
    let x = random::<3>(4, [LENGTHS.len(), 4, INPUT], &autodiff());
    for cell in cells() {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Both] {
            let mut stack = stack(cell, direction, &autodiff());
            let gradients: Vec<Vec<f32>> =
                stack.take_gradients(&mut loss(&stack, &x).backward()).iter().map(values).collect();
            let portable = stack.clone().with_path(Path::Portable);
            let other = portable.take_gradients(&mut loss(&portable, &x).backward());
            for (place, gradient) in gradients.iter().enumerate() {
                let name = stack.parameters()[place].0.clone();
                let what = format!("{} {direction:?} {name}", cell.name());
                close(&what, gradient, &values(&other[place]), 2e-5);
                if !(name.starts_with("h0") || name.starts_with("c0")) {
                    continue;
                }
                let largest = gradient.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                assert!(largest > 0.0, "{what}");
                for (element, &found) in gradient.iter().enumerate() {
                    let mut moved = |by: f32| {
                        stack.parameters_mut()[place].1.with_slice_mut(|row| row[element] += by);
                        let value = f64::from(values(&loss(&stack, &x))[0]);
                        stack.parameters_mut()[place].1.with_slice_mut(|row| row[element] -= by);
                        value
                    };
                    let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error < 2e-3 + 0.01 * f64::from(largest),
                        "{what}[{element}]: {found}, {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn it_stands_where_there_is_no_state_and_where_a_row_begins() {
    for cell in cells() {
        let stack = stack(cell, Direction::Both, &Device::default());
        let x = random::<3>(4, [3, 4, INPUT], &Device::default());
        let (whole, last) = stack.forward(x.clone(), None);
        let plain = RecurrentConfig::new(cell, INPUT, HIDDEN).with_layers(2).with_direction(Direction::Both);
        let mut plain = plain.with_merge(Merge::Sum).init(&Device::default()).unwrap();
        let begins = |name: &str| name.starts_with("h0") || name.starts_with("c0");
        let own = stack.named_tensors().into_iter().filter(|tensor| !begins(&tensor.name));
        plain.load(&own.collect::<Vec<_>>()).unwrap();
        assert_ne!(values(&plain.forward(x.clone(), None).0), values(&whole), "{}", cell.name());
        // A state that is given is taken as it is.
        let (found, _) = stack.forward(x.clone(), Some(last.clone()));
        assert_eq!(
            values(&found),
            values(&plain.forward(x.clone(), Some(last.clone())).0),
            "{}",
            cell.name()
        );
        // The first sequence goes on, the others begin; so they do a call later.
        let rows = [Row::Carried(0), Row::Zero, Row::Zero];
        let state = last.arrange(&rows).arrange(&[Row::Carried(0), Row::Carried(1), Row::Zero]);
        let (found, _) = stack.forward(x.clone(), Some(state));
        let row = |of: &Tensor<3>, b: usize| values(&of.clone().slice([b..b + 1, 0..4, 0..HIDDEN]));
        let (goes_on, _) = stack.forward(x.clone(), Some(last));
        close(cell.name(), &row(&found, 0), &row(&goes_on, 0), 1e-6);
        for b in [1, 2] {
            close(cell.name(), &row(&found, b), &row(&whole, b), 1e-6);
        }
        // What is recorded is what is computed, on any device.
        let recorded = stack.forward_recorded(x.clone(), None, &Keep::signals(["h"])).0;
        close(cell.name(), &values(&recorded), &values(&whole), 1e-6);
    }
}

#[test]
fn a_stepper_begins_there_and_begins_again() {
    for cell in cells() {
        for residual in [false, true] {
            let config = RecurrentConfig::new(cell, HIDDEN, HIDDEN).with_layers(2).with_residual(residual);
            let mut stack = config.with_learned_state(true).init(&Device::default()).unwrap();
            for (name, mut parameter) in stack.parameters_mut() {
                if name.starts_with("h0") || name.starts_with("c0") {
                    parameter.with_slice_mut(|row| row.fill(0.4));
                }
            }
            let x = random::<3>(4, [2, 3, HIDDEN], &Device::default());
            let (y, _) = stack.forward(x.clone(), None);
            let at =
                |of: &Tensor<3>, step: usize| values(&of.clone().slice([0..2, step..step + 1, 0..HIDDEN]));
            let mut stepper = stack.stepper(2).unwrap();
            for _ in 0..2 {
                for step in 0..3 {
                    close(cell.name(), stepper.step(&at(&x, step)).unwrap(), &at(&y, step), 1e-6);
                }
                stepper.reset();
            }
            stepper.step(&at(&x, 0)).unwrap();
            stepper.reset_sequence(1);
            let found = stepper.step(&at(&x, 0)).unwrap();
            close(cell.name(), &found[HIDDEN..], &at(&y, 0)[HIDDEN..], 1e-6);
            assert!(found[..HIDDEN] != at(&y, 0)[..HIDDEN], "the other one goes on");
        }
    }
}

/// A language model begins every document from it, in windows and step by step.
#[test]
fn a_language_model_takes_it_from_its_initialisation() {
    let config = |state| LanguageModelConfig {
        cell: Cell::Lstm.into(),
        vocabulary: 7,
        embedding: 3,
        hidden: HIDDEN,
        layers: 1,
        init: Init { state, ..Init::default() },
        residual: false,
        tied: false,
        options: CellOptions::PLAIN,
        regularize: Default::default(),
        seed: 5,
    };
    let mut model = config(FirstState::Learned).init(&autodiff()).unwrap();
    let plain = config(FirstState::Zero).init(&autodiff()).unwrap();
    let batch = Arc::new(Batch::full(2, 3));
    let (inputs, targets) = ([0, 1, 2, 3, 4, 0], [2, 3, 4, 0, 1, 2]);
    let nats = |model: &carousel::models::language_model::LanguageModel| {
        model.evaluate(&inputs, &targets, &batch, None).0.nats
    };
    assert_eq!(nats(&model), nats(&plain), "zero at first");
    let (whole, state) = model.forward_loss(&inputs, &targets, &batch, None);
    let place = model.parameters().iter().position(|(name, _)| name == "recurrent.h0_l0").unwrap();
    let gradient = values(&model.take_gradients(&mut whole.backward())[place]);
    assert!(gradient.iter().any(|&value| value != 0.0));
    let (later, _) = model.forward_loss(&inputs, &targets, &batch, Some(state));
    let gradient = values(&model.take_gradients(&mut later.backward())[place]);
    assert!(gradient.iter().all(|&value| value == 0.0), "a window that goes on begins nowhere");
    model.parameters_mut()[place].1.with_slice_mut(|row| row.fill(0.5));
    assert_ne!(nats(&model), nats(&plain));
    let mut stepper = model.stepper(2).unwrap();
    let expected = values(&model.valid().logits(&inputs, &batch, None).0);
    close("scores", stepper.step(&inputs[..2]).unwrap(), &expected[..14], 1e-5);
}
