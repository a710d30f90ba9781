//! Cells of one's own: the built-in ones written so agree with the kernels, and every cell gets what a stack has.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation};
use carousel::cell::{Activation, Cell, Reset};
use carousel::config_error::ConfigError;
use carousel::init::{GateBias, Init, Initializer, WeightInit};
use carousel::minimal::{MinGru, MinLstm};
use carousel::models::language_model::{LanguageModel, LanguageModelConfig, Regularize};
use carousel::own_cell::{AnyCell, Expose, LayerState, RecurrentCell, Signal, Sizes, Weight, Weights};
use carousel::parameters::{LoadError, NamedParameters, NamedTensor};
use carousel::path::Path;
use carousel::ragged::{Batch, Ragged};
use carousel::record::Keep;
use carousel::recurrent::{Direction, NoisySequences, Recurrent, RecurrentConfig, Sequence};
use carousel::regularize::{Dropout, Noise};
use carousel::state::State;
use support::{autodiff, close, random, values};

const INPUT: usize = 3;
const HIDDEN: usize = 4;
const LENGTHS: [usize; 4] = [3, 0, 6, 3];

/// The weights of all built-in cells, with PyTorch's gates.
fn of_pytorch(sizes: Sizes, gates: usize) -> Vec<Weight> {
    vec![
        sizes.input("weight_ih", gates),
        sizes.recurrent("weight_hh", gates),
        sizes.bias("bias_ih", gates),
        sizes.bias("bias_hh", gates),
    ]
}

fn of_input(weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
    weights.product(x, "weight_ih") + weights.get("bias_ih")
}

fn of_past(weights: &Weights<'_>, h: Tensor<2>) -> Tensor<2> {
    weights.product(h, "weight_hh") + weights.get("bias_hh")
}

fn gates<const N: usize>(sums: Tensor<2>) -> [Tensor<2>; N] {
    sums.chunk(N, 1).try_into().unwrap()
}

#[derive(Debug)]
struct Rnn;

impl RecurrentCell for Rnn {
    fn name(&self) -> &'static str {
        "own rnn"
    }
    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        of_pytorch(sizes, 1)
    }
    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        of_input(weights, x)
    }
    fn step(&self, weights: &Weights<'_>, read: Tensor<2>, past: LayerState, _: &mut Expose) -> LayerState {
        LayerState::of((read + of_past(weights, past.h)).tanh())
    }
}

#[derive(Debug)]
struct Lstm;

impl RecurrentCell for Lstm {
    fn name(&self) -> &'static str {
        "own lstm"
    }
    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        of_pytorch(sizes, 4)
    }
    fn memory(&self, sizes: Sizes) -> Option<usize> {
        Some(sizes.hidden)
    }
    fn signals(&self) -> Vec<Signal> {
        vec![Signal::gate("i"), Signal::keep("f"), Signal::value("g"), Signal::gate("o")]
    }
    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        of_input(weights, x)
    }
    fn step(
        &self,
        weights: &Weights<'_>,
        read: Tensor<2>,
        past: LayerState,
        expose: &mut Expose,
    ) -> LayerState {
        let [i, f, g, o] = gates(read + of_past(weights, past.h));
        let [i, f, o] = [i, f, o].map(activation::sigmoid);
        let g = g.tanh();
        for (name, gate) in [("i", &i), ("f", &f), ("g", &g), ("o", &o)] {
            expose.signal(name, gate);
        }
        let c = f * past.c.unwrap() + i * g;
        LayerState { h: o * c.clone().tanh(), c: Some(c) }
    }
}

#[derive(Debug)]
struct Gru;

impl RecurrentCell for Gru {
    fn name(&self) -> &'static str {
        "own gru"
    }
    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        of_pytorch(sizes, 3)
    }
    fn signals(&self) -> Vec<Signal> {
        vec![Signal::gate("r"), Signal::keep("z"), Signal::value("n")]
    }
    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        of_input(weights, x)
    }
    fn step(
        &self,
        weights: &Weights<'_>,
        read: Tensor<2>,
        past: LayerState,
        expose: &mut Expose,
    ) -> LayerState {
        let [xr, xz, xn] = gates(read);
        let [hr, hz, hn] = gates(of_past(weights, past.h.clone()));
        let (r, z) = (activation::sigmoid(xr + hr), activation::sigmoid(xz + hz));
        let n = (xn + r.clone() * hn).tanh();
        for (name, gate) in [("r", &r), ("z", &z), ("n", &n)] {
            expose.signal(name, gate);
        }
        LayerState::of(n.clone() + z * (past.h - n))
    }
}

/// A cell whose `c` is wider than its `h`: it keeps its last two inputs.
#[derive(Debug)]
struct Window;

impl RecurrentCell for Window {
    fn name(&self) -> &'static str {
        "window"
    }
    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        let shape = [sizes.hidden, 2 * sizes.input];
        vec![Weight { name: "mix", shape, draw: carousel::own_cell::Draw::Input }]
    }
    fn memory(&self, sizes: Sizes) -> Option<usize> {
        Some(2 * sizes.input)
    }
    fn step(&self, weights: &Weights<'_>, x: Tensor<2>, past: LayerState, _: &mut Expose) -> LayerState {
        let [_, last] = gates(past.c.unwrap());
        let c = Tensor::cat(vec![last, x], 1);
        LayerState { h: weights.product(c.clone(), "mix").tanh(), c: Some(c) }
    }
}

/// A cell that goes step by step, whatever it could do.
#[derive(Debug)]
struct StepByStep<C>(C);

impl<C: RecurrentCell> RecurrentCell for StepByStep<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn weights(&self, sizes: Sizes) -> Vec<Weight> {
        self.0.weights(sizes)
    }
    fn signals(&self) -> Vec<Signal> {
        self.0.signals()
    }
    fn read(&self, weights: &Weights<'_>, x: Tensor<2>) -> Tensor<2> {
        self.0.read(weights, x)
    }
    fn step(
        &self,
        weights: &Weights<'_>,
        read: Tensor<2>,
        past: LayerState,
        expose: &mut Expose,
    ) -> LayerState {
        self.0.step(weights, read, past, expose)
    }
}

/// Every own cell of this file and the library.
fn own_cells() -> [AnyCell; 6] {
    [(&Rnn).into(), (&Lstm).into(), (&Gru).into(), (&Window).into(), (&MinGru).into(), (&MinLstm).into()]
}

fn stack(cell: impl Into<AnyCell>, layers: usize, direction: Direction, device: &Device) -> Recurrent {
    let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_layers(layers).with_direction(direction);
    config.with_seed(3).init(device).unwrap()
}

/// `sum(x · r)` with `r` drawn from `seed`, so that every element counts differently.
fn weigh<const D: usize>(x: Tensor<D>, seed: u64) -> Tensor<1> {
    let weights = random(seed, x.dims(), &Device::default());
    (x * weights).sum()
}

type Found = Vec<(String, Vec<f32>)>;

/// Outputs, last state and all gradients of a stack on ragged sequences.
fn run(stack: &Recurrent, with_state: bool) -> Found {
    let device = autodiff();
    let x = random(1, [LENGTHS.len(), 6, INPUT], &device).require_grad();
    let zero = stack.forward(Ragged::from_padded(x.clone(), &[0; 4]).unwrap(), None).1;
    let h0 = random(2, zero.h().dims(), &device).require_grad();
    let c0 = zero.c().map(|c| random(3, c.dims(), &device).require_grad());
    let state = with_state.then(|| State::new(h0.clone(), c0.clone()));
    let (y, last) = stack.forward(Ragged::from_padded(x.clone(), &LENGTHS).unwrap(), state);
    let mut found = vec![("y".to_owned(), values(&y.frames())), ("h".to_owned(), values(&last.h()))];
    let mut loss = weigh(y.frames(), 4) + weigh(last.h(), 5);
    if let Some(c) = last.c() {
        found.push(("c".to_owned(), values(&c)));
        loss = loss + weigh(c, 6);
    }
    let mut gradients = loss.backward();
    found.push(("dx".to_owned(), values(&x.grad(&gradients).unwrap())));
    if with_state {
        found.push(("dh0".to_owned(), values(&h0.grad(&gradients).unwrap())));
        found.extend(c0.map(|c0| ("dc0".to_owned(), values(&c0.grad(&gradients).unwrap()))));
    }
    let names = stack.parameters().into_iter().map(|(name, _)| format!("d{name}")).collect::<Vec<_>>();
    found.extend(names.into_iter().zip(stack.take_gradients(&mut gradients).iter().map(values)));
    found
}

fn compare(what: &str, found: &Found, expected: &Found) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, found), (other, expected)) in found.iter().zip(expected) {
        assert_eq!(name, other, "{what}");
        close(&format!("{what}: {name}"), found, expected, 2e-5);
    }
}

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Reverse, Direction::Both];

#[test]
fn the_built_in_cells_written_so_agree_with_the_kernels() {
    let check = |own: AnyCell, cell: Cell| {
        for direction in DIRECTIONS {
            for with_state in [false, true] {
                let fused = stack(cell, 2, direction, &autodiff());
                let mut general = stack_of(own, direction);
                let tensors: Vec<NamedTensor> = fused
                    .named_tensors()
                    .into_iter()
                    .map(|mut tensor| {
                        // A bias of an own cell is a row.
                        if tensor.shape.len() == 1 {
                            tensor.shape.insert(0, 1);
                        }
                        tensor
                    })
                    .collect();
                general.load(&tensors).unwrap();
                let what = format!("{} {direction:?}, state {with_state}", own.name());
                compare(&what, &run(&general, with_state), &run(&fused, with_state));
            }
        }
    };
    check((&Rnn).into(), Cell::Rnn(Activation::Tanh));
    check((&Lstm).into(), Cell::Lstm);
    check((&Gru).into(), Cell::Gru(Reset::After));
}

fn stack_of(cell: AnyCell, direction: Direction) -> Recurrent {
    stack(cell, 2, direction, &autodiff())
}

/// What own and built-in cells start from is drawn alike, so one seed gives one net.
#[test]
fn weights_are_drawn_as_the_built_in_ones() {
    for init in [
        Init { gates: GateBias::Forget(0.0), ..Init::default() },
        Init::both(WeightInit::Orthogonal { gain: None }),
    ] {
        let draw = |cell: AnyCell| {
            let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_init(init).with_seed(4);
            let tensors = config.init(&Device::default()).unwrap().named_tensors();
            tensors.into_iter().map(|tensor| (tensor.name, tensor.values)).collect::<Vec<_>>()
        };
        assert_eq!(draw((&Gru).into()), draw(Cell::Gru(Reset::After).into()));
    }
}

#[test]
fn a_scan_gives_what_the_steps_give() {
    let check = |cell: AnyCell, steps: AnyCell| {
        for direction in DIRECTIONS {
            for with_state in [false, true] {
                let what = format!("{} {direction:?}, state {with_state}", cell.name());
                let expected = run(&stack_of(steps, direction), with_state);
                let scanned = stack_of(cell, direction);
                compare(&format!("{what}, one pass"), &run(&scanned, with_state), &expected);
                let scanned = scanned.with_path(Path::Portable);
                compare(&format!("{what}, in rounds"), &run(&scanned, with_state), &expected);
            }
        }
    };
    check((&MinGru).into(), (&StepByStep(MinGru)).into());
    check((&MinLstm).into(), (&StepByStep(MinLstm)).into());
}

/// Keeps of nearly 0 and nearly 1 over a thousand steps: no step loses more than rounding.
#[test]
fn a_long_scan_stays_exact() {
    for path in [Path::Auto, Path::Portable] {
        let mut long = RecurrentConfig::new(&MinGru, 1, 2).init(&Device::default()).unwrap().with_path(path);
        let tensor = |name: &str, shape: [usize; 2], values: &[f32]| NamedTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values: values.to_vec(),
        };
        // z follows x; n is 1, and x again. At x = -20 a state is kept, at 20 it is replaced.
        let weights = [
            tensor("weight_ih_l0", [4, 1], &[1.0, 1.0, 0.0, 1.0]),
            tensor("bias_l0", [1, 4], &[0.0, 0.0, 1.0, 0.0]),
        ];
        long.load(&weights).unwrap();
        let mut x = vec![-20f32; 1000];
        (x[0], x[1]) = (20.0, 20.0);
        let (y, _) = long.forward(support::tensor(x, [1, 1000, 1], &Device::default()), None);
        let y = values(&y);
        let last = &y[y.len() - 2..];
        // z = σ(-20) = 2e-9: in 998 steps unit 1 gives up 2e-6 of its 20, of which float32 sees little.
        close("unit 0", &last[..1], &[1.0], 1e-5);
        close("unit 1", &last[1..], &[20.0], 1e-5);
    }
}

/// Of every weight and of what is read, against differences of the loss.
#[test]
fn gradients_are_those_of_differences() {
    for cell in own_cells() {
        let mut net = stack(cell, 2, Direction::Both, &autodiff());
        let x = random(1, [LENGTHS.len(), 6, INPUT], &autodiff());
        let loss = |net: &Recurrent| {
            let (y, last) = net.forward(Ragged::from_padded(x.clone(), &LENGTHS).unwrap(), None);
            weigh(y.frames(), 4) + weigh(last.h(), 5)
        };
        let gradients = net.take_gradients(&mut loss(&net).backward());
        let gradients: Vec<Vec<f32>> = gradients.iter().map(values).collect();
        for (index, gradient) in gradients.iter().enumerate() {
            let largest = gradient.iter().fold(0f32, |most, value| most.max(value.abs()));
            for at in (0..gradient.len()).step_by(1 + gradient.len() / 5) {
                let mut move_by = |step: f32| {
                    let (_, mut parameter) = net.parameters_mut().remove(index);
                    parameter.with_slice_mut(|values| values[at] += step);
                    let moved = f64::from(values(&loss(&net))[0]);
                    let (_, mut parameter) = net.parameters_mut().remove(index);
                    parameter.with_slice_mut(|values| values[at] -= step);
                    moved
                };
                let step = 1e-2;
                let slope = ((move_by(step) - move_by(-step)) / f64::from(2.0 * step)) as f32;
                let apart = (slope - gradient[at]).abs();
                let name = &net.parameters()[index].0;
                // Rounding of float32 over a step of 0.01, and the third derivative.
                assert!(
                    apart < 2e-3 * largest.max(1.0),
                    "{} {name}[{at}]: {} but differences say {slope}",
                    cell.name(),
                    gradient[at]
                );
            }
        }
    }
}

#[test]
fn a_carried_state_goes_on_and_its_gradient_does_not() {
    for cell in own_cells() {
        let net = stack(cell, 2, Direction::Forward, &autodiff());
        let x = random(1, [2, 8, INPUT], &autodiff()).require_grad();
        let part = |from: usize, to: usize| x.clone().slice([0..2, from..to, 0..INPUT]);
        let (whole, _) = net.forward(part(0, 8), None);
        let (_, state) = net.forward(part(0, 5), None);
        let (rest, _) = net.forward(part(5, 8), Some(state.detach()));
        let expected = values(&whole.slice([0..2, 5..8, 0..HIDDEN]));
        close(cell.name(), &values(&rest), &expected, 1e-6);
        let gradient = values(&x.grad(&weigh(rest, 1).backward()).unwrap());
        let early = gradient.chunks_exact(8 * INPUT).flat_map(|row| &row[..5 * INPUT]);
        assert!(early.copied().all(|value| value == 0.0), "{}", cell.name());
        assert!(gradient.iter().any(|&value| value != 0.0), "{}", cell.name());
    }
}

#[test]
fn a_stepper_goes_the_same_way() {
    for cell in own_cells() {
        for residual in [false, true] {
            // A layer's input is as wide as its output, so that both can be added.
            let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_layers(3).with_residual(residual);
            let net = config.init(&Device::default()).unwrap();
            let x = random(1, [2, 5, INPUT], &Device::default());
            let (y, last) = net.forward(x.clone(), None);
            let mut stepper = net.stepper(2).unwrap();
            for t in 0..5 {
                let at = values(&x.clone().slice([0..2, t..t + 1, 0..INPUT]));
                let expected = values(&y.clone().slice([0..2, t..t + 1, 0..HIDDEN]));
                close(cell.name(), stepper.step(&at).unwrap(), &expected, 1e-6);
            }
            close("h", stepper.state(2).h.unwrap(), &values(&last.h())[2 * 2 * HIDDEN..], 1e-6);
            let record = stepper.record(&Keep::signals(["h"]).with_layers([2]));
            close("recorded", &record.series[0].values, stepper.state(2).h.unwrap(), 1e-6);
            // One sequence begins again, the other goes on.
            let at = values(&x.clone().slice([0..2, 0..1, 0..INPUT]));
            stepper.reset_sequence(0);
            let y = stepper.step(&at).unwrap().to_vec();
            let mut fresh = net.stepper(2).unwrap();
            let begun = fresh.step(&at).unwrap();
            close(cell.name(), &y[..HIDDEN], &begun[..HIDDEN], 1e-6);
            assert_ne!(&y[HIDDEN..], &begun[HIDDEN..], "{}", cell.name());
            assert!(stepper.step(&[0.0]).is_err());
            stepper.reset();
            close(cell.name(), stepper.step(&at).unwrap(), fresh.output(), 1e-6);
        }
    }
}

#[test]
fn recordings_hold_what_the_kernels_record() {
    let (fused, mut own) = (
        stack(Cell::Lstm, 2, Direction::Both, &Device::default()),
        stack(&Lstm, 2, Direction::Both, &Device::default()),
    );
    let row = |mut tensor: NamedTensor| {
        if tensor.shape.len() == 1 {
            tensor.shape.insert(0, 1);
        }
        tensor
    };
    own.load(&fused.named_tensors().into_iter().map(row).collect::<Vec<_>>()).unwrap();
    let padded = random(1, [LENGTHS.len(), 6, INPUT], &Device::default());
    let ragged = || Ragged::from_padded(padded.clone(), &LENGTHS).unwrap();
    fn series<S: Sequence>(net: &Recurrent, x: S) -> Vec<(usize, String, Vec<f32>)> {
        let record = net.forward_recorded(x, None, &Keep::signals(["h", "c", "f", "g"])).2;
        let name = |series: &carousel::record::Series| format!("{:?} {}", series.direction, series.name);
        let mut all: Vec<_> =
            record.series.into_iter().map(|series| (series.layer, name(&series), series.values)).collect();
        all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        all
    }
    for (found, expected) in series(&own, ragged()).into_iter().zip(series(&fused, ragged())) {
        assert_eq!((found.0, &found.1), (expected.0, &expected.1));
        close(&found.1, &found.2, &expected.2, 1e-5);
    }
    for (found, expected) in series(&own, padded.clone()).into_iter().zip(series(&fused, padded.clone())) {
        assert_eq!((found.0, &found.1), (expected.0, &expected.1));
        close(&found.1, &found.2, &expected.2, 1e-5);
    }
    // What is scanned is recorded as what is walked.
    let steps = stack(&StepByStep(MinLstm), 2, Direction::Both, &Device::default());
    let scanned = stack(&MinLstm, 2, Direction::Both, &Device::default());
    let (found, expected) = (series(&scanned, ragged()), series(&steps, ragged()));
    assert_eq!(found.len(), 8, "h and f, two layers, two directions");
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!((found.0, &found.1), (expected.0, &expected.1));
        close(&found.1, &found.2, &expected.2, 1e-5);
    }
}

#[test]
fn what_drops_out_changes_what_is_learned() {
    let x = random(1, [2, 6, INPUT], &autodiff());
    let learned = |cell: AnyCell, dropout: Dropout, noise: u64| {
        let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_layers(2).with_dropout(dropout);
        let net = config.init(&autodiff()).unwrap();
        let noisy = NoisySequences { noise: Noise::new(&[noise]), names: &[0, 1] };
        values(&net.forward_noisy(x.clone(), None, Some(noisy)).0)
    };
    let off = Dropout::default();
    for cell in own_cells() {
        let plain = learned(cell, off, 1);
        let mut options = vec![Dropout { between: 0.5, ..off }, Dropout { zoneout: 0.5, ..off }];
        let has_recurrent = ["own rnn", "own lstm", "own gru"].contains(&cell.name());
        options.extend(has_recurrent.then_some(Dropout { weights: 0.5, ..off }));
        options.extend(cell.has_cell_state().then_some(Dropout { zoneout_cell: 0.5, ..off }));
        for option in options {
            let what = format!("{} {option:?}", cell.name());
            assert_ne!(learned(cell, option, 1), plain, "{what}");
            assert_ne!(learned(cell, option, 1), learned(cell, option, 2), "{what}");
            assert_eq!(learned(cell, option, 1), learned(cell, option, 1), "{what}");
        }
        for option in [Dropout { recurrent: 0.5, ..off }, Dropout { update: 0.5, ..off }] {
            let config = RecurrentConfig::new(cell, INPUT, HIDDEN).with_dropout(option);
            let error = config.init(&Device::default()).unwrap_err();
            assert!(matches!(error, ConfigError::NotOf { .. }), "{error}");
        }
    }
}

fn language_model(cell: impl Into<AnyCell>) -> LanguageModel {
    let config = LanguageModelConfig {
        cell: cell.into(),
        vocabulary: 7,
        embedding: 3,
        hidden: HIDDEN,
        layers: 2,
        init: Init::default(),
        residual: false,
        tied: false,
        options: Default::default(),
        regularize: Regularize::default(),
        seed: 5,
    };
    config.init(&autodiff()).unwrap()
}

#[test]
fn whole_models_take_them() {
    let batch = Arc::new(Batch::ragged(&[2, 4, 0, 1], 4).unwrap());
    let (inputs, targets) = ([3, 1, 4, 1, 5, 6, 2], [1, 4, 1, 5, 6, 2, 0]);
    for cell in own_cells() {
        let model = language_model(cell);
        let (loss, state) = model.forward_loss(&inputs, &targets, &batch, None);
        let (loss, state) = (loss, state.detach());
        let gradients = model.take_gradients(&mut loss.backward());
        assert!(gradients.iter().all(|gradient| values(gradient).iter().any(|&value| value != 0.0)));
        // Another model takes its weights over by name, and then says the same.
        let mut other = language_model(cell);
        let nudge = |mut tensor: NamedTensor| {
            tensor.values.iter_mut().for_each(|value| *value += 0.25);
            tensor
        };
        other.load(&model.named_tensors().into_iter().map(nudge).collect::<Vec<_>>()).unwrap();
        let measure =
            |model: &LanguageModel| model.evaluate(&inputs, &targets, &batch, Some(state.clone())).0.nats;
        assert_ne!(measure(&other), measure(&model), "{}", cell.name());
        other.load(&model.named_tensors()).unwrap();
        assert_eq!(measure(&other), measure(&model), "{}", cell.name());
        // And refuses those of another cell.
        let foreign = language_model(Cell::Rnn(Activation::Relu)).named_tensors();
        if cell.name() != "own rnn" {
            assert!(matches!(other.load(&foreign), Err(LoadError::Missing { .. } | LoadError::Shape { .. })));
        }
    }
}

#[test]
#[should_panic(expected = "the cell has no weight wieght, only mix")]
fn a_weight_that_was_not_declared_is_named() {
    #[derive(Debug)]
    struct Typo;
    impl RecurrentCell for Typo {
        fn name(&self) -> &'static str {
            "typo"
        }
        fn weights(&self, sizes: Sizes) -> Vec<Weight> {
            vec![sizes.input("mix", 1)]
        }
        fn step(&self, weights: &Weights<'_>, x: Tensor<2>, _: LayerState, _: &mut Expose) -> LayerState {
            LayerState::of(weights.product(x, "wieght"))
        }
    }
    let net = stack(&Typo, 1, Direction::Forward, &Device::default());
    let _ = net.forward(random(1, [1, 2, INPUT], &Device::default()), None);
}

#[test]
fn chrono_is_of_gates_that_the_library_knows() {
    let init = Init { gates: GateBias::Chrono { longest: 9 }, ..Init::default() };
    let random = &mut Initializer::new(1);
    let found = RecurrentConfig::new(&MinGru, 2, 3).with_init(init).init_with(random, &Device::default());
    assert!(matches!(found, Err(ConfigError::Chrono { .. })));
}
