//! The kernels against Burn's own operations: outputs, last states and every gradient.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Gradients, Tensor};
use carousel::cell::{Activation, Cell, CellOptions, GateActivation, Reset};
use carousel::init::Init;
use carousel::models::language_model::{LanguageModelConfig, Regularize};
use carousel::output::IGNORE;
use carousel::parameters::NamedParameters;
use carousel::path::Path;
use carousel::ragged::Ragged;
use carousel::recurrent::{Direction, Recurrent, RecurrentConfig, Sequence};
use carousel::state::State;
use support::{CELLS, autodiff, close, random, values};

/// Both add up in float32, in another order. Two layers over seven steps stay well below this.
const TOLERANCE: f32 = 2e-5;

const INPUT: usize = 3;
const HIDDEN: usize = 5;
const LENGTHS: [usize; 4] = [3, 0, 7, 3];

/// What a run leaves behind, by name.
type Found = Vec<(String, Vec<f32>)>;

/// What a loss looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Outputs,
    Hidden,
    Cells,
    All,
}

/// A sequence that a test can build and weigh.
trait Kind: Sequence + Clone {
    fn make(x: Tensor<3>) -> Self;
    fn rows(&self) -> Tensor<2>;
}

impl Kind for Tensor<3> {
    fn make(x: Tensor<3>) -> Self {
        x
    }
    fn rows(&self) -> Tensor<2> {
        self.clone().flatten(0, 1)
    }
}

impl Kind for Ragged {
    fn make(x: Tensor<3>) -> Self {
        Ragged::from_padded(x, &LENGTHS).unwrap()
    }
    fn rows(&self) -> Tensor<2> {
        self.frames()
    }
}

/// `sum(x · r)` with `r` drawn from `seed`, so that every element counts differently.
fn weigh<const D: usize>(x: Tensor<D>, seed: u64) -> Tensor<1> {
    let weights = random(seed, x.dims(), &Device::default());
    (x * weights).sum()
}

fn run<S: Kind>(stack: &Recurrent, with_state: bool, wanted: Wanted) -> Found {
    let device = autodiff();
    let entries = stack.weights().len();
    let x = random(1, [LENGTHS.len(), 7, INPUT], &device).require_grad();
    let shape = [entries, LENGTHS.len(), HIDDEN];
    let values_of_h = stack.options().projection.unwrap_or(HIDDEN);
    let h0 = random(2, [entries, LENGTHS.len(), values_of_h], &device).require_grad();
    let c0 = (stack.cell() == Cell::Lstm).then(|| random(3, shape, &device).require_grad());
    let state = with_state.then(|| State::new(h0.clone(), c0.clone()));

    let (y, last) = stack.forward(S::make(x.clone()), state);
    let mut found = vec![("y".to_owned(), values(&y.rows())), ("h".to_owned(), values(&last.h()))];
    let mut loss = Tensor::zeros([1], &device);
    if matches!(wanted, Wanted::Outputs | Wanted::All) {
        loss = loss + weigh(y.rows(), 4);
    }
    if matches!(wanted, Wanted::Hidden | Wanted::All) {
        loss = loss + weigh(last.h(), 5);
    }
    if let Some(c) = last.c() {
        found.push(("c".to_owned(), values(&c)));
        if matches!(wanted, Wanted::Cells | Wanted::All) {
            loss = loss + weigh(c, 6);
        }
    }

    let mut gradients = loss.backward();
    found.push(("dx".to_owned(), values(&x.grad(&gradients).unwrap())));
    if with_state {
        found.push(("dh0".to_owned(), values(&h0.grad(&gradients).unwrap())));
        if let Some(c0) = c0 {
            found.push(("dc0".to_owned(), values(&c0.grad(&gradients).unwrap())));
        }
    }
    found.extend(parameter_gradients(stack, &mut gradients));
    found
}

fn parameter_gradients(model: &impl NamedParameters, gradients: &mut Gradients) -> Found {
    let names = model.parameters().into_iter().map(|(name, _)| format!("d{name}")).collect::<Vec<_>>();
    let gradients = model.take_gradients(gradients);
    names.into_iter().zip(gradients.iter().map(values)).collect()
}

fn compare(what: &str, found: Found, expected: Found) {
    compare_within(TOLERANCE, what, found, expected);
}

fn compare_within(tolerance: f32, what: &str, found: Found, expected: Found) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, found), (other, expected)) in found.iter().zip(&expected) {
        assert_eq!(name, other, "{what}");
        close(&format!("{what}: {name}"), found, expected, tolerance);
    }
}

fn check<S: Kind>(cell: Cell, direction: Direction, layers: usize, with_state: bool, wanted: Wanted) {
    let stack = RecurrentConfig::new(cell, INPUT, HIDDEN)
        .with_layers(layers)
        .with_direction(direction)
        .with_seed(9)
        .init(&autodiff())
        .unwrap();
    let what = format!("{cell:?} {direction:?} {layers} layers, state {with_state}, loss of {wanted:?}");
    let fused = run::<S>(&stack, with_state, wanted);
    compare(&what, fused, run::<S>(&stack.with_path(Path::Portable), with_state, wanted));
}

fn check_all<S: Kind>() {
    for cell in CELLS {
        for direction in [Direction::Forward, Direction::Reverse, Direction::Both] {
            for layers in [1, 2] {
                for with_state in [false, true] {
                    check::<S>(cell, direction, layers, with_state, Wanted::All);
                }
            }
        }
    }
}

#[test]
fn equal_lengths_agree() {
    check_all::<Tensor<3>>();
}

#[test]
fn ragged_lengths_agree() {
    check_all::<Ragged>();
}

#[test]
fn cells_with_options_agree() {
    let vanilla = Activation::ALL.map(Cell::Rnn);
    let mut turn = 0;
    for cell in vanilla.into_iter().chain([Cell::Lstm, Cell::Gru(Reset::After), Cell::Gru(Reset::Before)]) {
        let lstm = cell == Cell::Lstm;
        let gate = match cell {
            Cell::Rnn(_) => GateActivation::Sigmoid,
            _ => GateActivation::HardSigmoid,
        };
        let projected = lstm.then_some(3);
        for (norm, peephole, gate, projection) in [
            (false, lstm, GateActivation::Sigmoid, None),
            (false, false, gate, None),
            (true, false, GateActivation::Sigmoid, None),
            (true, lstm, gate, None),
            (false, false, GateActivation::Sigmoid, projected),
            (true, lstm, gate, projected),
        ] {
            for direction in [Direction::Forward, Direction::Reverse, Direction::Both] {
                // Candidates in turns, one of each that is not tanh.
                let activation = match cell {
                    Cell::Rnn(_) => Activation::Tanh,
                    _ => Activation::ALL[turn % Activation::ALL.len()],
                };
                turn += 1;
                let options = CellOptions { norm, peephole, gate, activation, projection };
                let stack = RecurrentConfig::new(cell, INPUT, HIDDEN)
                    .with_layers(2)
                    .with_direction(direction)
                    .with_options(options)
                    .with_seed(9)
                    .init(&autodiff())
                    .unwrap();
                let what = format!("{cell:?} {options:?} {direction:?}");
                let fused = run::<Ragged>(&stack, true, Wanted::All);
                let portable = run::<Ragged>(&stack.with_path(Path::Portable), true, Wanted::All);
                // Five units may lie close together, and what divides by their deviation magnifies rounding.
                compare_within(if norm { 2e-4 } else { TOLERANCE }, &what, fused, portable);
            }
        }
    }
}

/// The outputs of a layer are operations of their own: any of them may be left out of the loss.
#[test]
fn a_loss_of_some_outputs_agrees() {
    for direction in [Direction::Forward, Direction::Both] {
        for wanted in [Wanted::Outputs, Wanted::Hidden, Wanted::Cells] {
            check::<Ragged>(Cell::Lstm, direction, 2, true, wanted);
        }
    }
}

#[test]
fn no_sequence_has_a_step() {
    for path in [Path::Auto, Path::Portable] {
        let stack =
            RecurrentConfig::new(Cell::Lstm, INPUT, HIDDEN).init(&autodiff()).unwrap().with_path(path);
        let nothing = Ragged::from_padded(random(1, [2, 3, INPUT], &autodiff()), &[0, 0]).unwrap();
        let h = random(2, [1, 2, HIDDEN], &autodiff());
        let c = random(3, [1, 2, HIDDEN], &autodiff());
        let (y, last) = stack.forward(nothing, Some(State::new(h.clone(), Some(c.clone()))));
        assert_eq!(y.frames().dims(), [0, HIDDEN]);
        assert_eq!(values(&last.h()), values(&h), "{path:?}");
        assert_eq!(values(&last.c().unwrap()), values(&c), "{path:?}");
    }
}

/// Burn's checkpointing is a property of the device; the kernels take part in graphs of either kind.
#[test]
fn checkpointing_changes_nothing() {
    let gradient = |device: &Device| {
        let stack = RecurrentConfig::new(Cell::Gru(carousel::cell::Reset::After), INPUT, HIDDEN)
            .init(device)
            .unwrap();
        let x = random(1, [2, 4, INPUT], device).require_grad();
        let (y, _) = stack.forward(x.clone().tanh(), None);
        let gradients = (y.clone() * y).sum().backward();
        values(&x.grad(&gradients).unwrap())
    };
    let plain = gradient(&autodiff());
    assert_eq!(plain, gradient(&Device::default().autodiff().gradient_checkpointing()));
}

fn model_run(path: Path, targets: &[u32]) -> Found {
    let config = LanguageModelConfig {
        cell: Cell::Lstm.into(),
        vocabulary: 11,
        embedding: 4,
        hidden: 6,
        layers: 2,
        init: Init::default(),
        residual: false,
        tied: false,
        options: Default::default(),
        regularize: Regularize::default(),
        seed: 3,
    };
    let model = config.init(&autodiff()).unwrap().with_path(path);
    let batch = std::sync::Arc::new(carousel::ragged::Batch::ragged(&[2, 4, 0, 1], 4).unwrap());
    let inputs = [3, 1, 4, 1, 5, 10, 2];
    let (_, state) = model.forward_loss(&inputs, targets, &batch, None);
    let (loss, state) = model.forward_loss(&inputs, targets, &batch, Some(state));
    let (measured, _) = model.evaluate(&inputs, targets, &batch, Some(state.clone()));
    let mut found = vec![
        ("loss".to_owned(), values(&loss)),
        ("h".to_owned(), values(&state.h())),
        ("evaluated".to_owned(), vec![measured.nats as f32, measured.count as f32, measured.correct as f32]),
        ("logits".to_owned(), values(&model.logits(&inputs, &batch, None).0)),
    ];
    // A factor before the loss: the kernel's gradients wait for it.
    found.extend(parameter_gradients(&model, &mut (loss * 3.0).backward()));
    found
}

#[test]
fn language_models_agree() {
    for targets in [[1, 4, 1, 5, 10, 2, 6], [1, IGNORE, 1, 5, IGNORE, 2, 6]] {
        compare(
            &format!("{targets:?}"),
            model_run(Path::Auto, &targets),
            model_run(Path::Portable, &targets),
        );
    }
}
