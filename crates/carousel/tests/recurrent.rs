//! What a stack promises whatever computes it: directions, ragged batches, carried state, steps, names.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Tensor};
use carousel::cell::{Activation, Cell};
use carousel::config_error::ConfigError;
use carousel::init::{GateBias, Init, WeightInit};
use carousel::parameters::{LoadError, NamedParameters, NamedTensor};
use carousel::path::Path;
use carousel::ragged::Ragged;
use carousel::recurrent::{Direction, Recurrent, RecurrentConfig};
use carousel::state::{Row, State};
use carousel::stepper::StepPrecision;
use support::{CELLS, autodiff, close, random, tensor, values};

const PATHS: [Path; 2] = [Path::Auto, Path::Portable];

/// One unit that adds up what it sees: `h = max(x + h, 0)`.
fn adder(direction: Direction, path: Path) -> Recurrent {
    let mut stack = RecurrentConfig::new(Cell::Rnn(Activation::Relu), 1, 1)
        .with_direction(direction)
        .init(&Device::default())
        .unwrap()
        .with_path(path);
    for (name, mut parameter) in stack.parameters_mut() {
        let value = if name.starts_with("weight") { 1.0 } else { 0.0 };
        parameter.with_slice_mut(|values| values.fill(value));
    }
    stack
}

fn check_sums(direction: Direction, expected: &[f32], last: &[f32]) {
    for path in PATHS {
        let rows = [[1.0, 10.0, 100.0], [2.0, f32::NAN, f32::NAN], [f32::NAN; 3], [3.0, 30.0, f32::NAN]];
        let x = tensor(rows.concat(), [4, 3, 1], &Device::default());
        let ragged = Ragged::from_padded(x, &[3, 1, 0, 2]).unwrap();
        let start = State::new(
            tensor(vec![0.5; 4 * last.len() / 4], [last.len() / 4, 4, 1], &Device::default()),
            None,
        );
        let (y, state) = adder(direction, path).forward(ragged, Some(start));
        assert_eq!(values(&y.to_padded(-1.0)), expected, "{direction:?} {path:?}");
        assert_eq!(values(&state.h()), last, "{direction:?} {path:?}");
    }
}

/// Sums from the left or from the right over the real steps; padding is NaN and shows nowhere.
#[test]
fn each_direction_sums_from_its_own_end() {
    check_sums(
        Direction::Forward,
        &[1.5, 11.5, 111.5, 2.5, -1., -1., -1., -1., -1., 3.5, 33.5, -1.],
        &[111.5, 2.5, 0.5, 33.5],
    );
    check_sums(
        Direction::Reverse,
        &[111.5, 110.5, 100.5, 2.5, -1., -1., -1., -1., -1., 33.5, 30.5, -1.],
        &[111.5, 2.5, 0.5, 33.5],
    );
    #[rustfmt::skip]
    check_sums(
        Direction::Both,
        &[
            1.5, 111.5, 11.5, 110.5, 111.5, 100.5,
            2.5, 2.5, -1., -1., -1., -1.,
            -1., -1., -1., -1., -1., -1.,
            3.5, 33.5, 33.5, 30.5, -1., -1.,
        ],
        &[111.5, 2.5, 0.5, 33.5, 111.5, 2.5, 0.5, 33.5],
    );
}

/// A batch gives each sequence what it would get alone.
#[test]
fn sequences_do_not_touch_each_other() {
    let lengths = [2, 5, 1, 5];
    let x = random::<3>(1, [4, 5, 3], &Device::default());
    for cell in CELLS {
        for path in PATHS {
            let stack = RecurrentConfig::new(cell, 3, 4)
                .with_layers(2)
                .with_direction(Direction::Both)
                .init(&Device::default())
                .unwrap()
                .with_path(path);
            let (together, last) = stack.forward(Ragged::from_padded(x.clone(), &lengths).unwrap(), None);
            let together = together.to_padded(0.0);
            for (b, &length) in lengths.iter().enumerate() {
                let alone = x.clone().slice([b..b + 1, 0..length, 0..3]);
                let (alone, alone_last) = stack.forward(alone, None);
                let row = together.clone().slice([b..b + 1, 0..length, 0..8]);
                close(&format!("{cell:?} {path:?} {b}"), &values(&row), &values(&alone), 1e-6);
                close("last", &values(&last.select(&[b]).h()), &values(&alone_last.h()), 1e-6);
            }
        }
    }
}

#[test]
fn two_windows_with_carried_state_are_one_sequence() {
    for cell in CELLS {
        for path in PATHS {
            let stack = RecurrentConfig::new(cell, 3, 4)
                .with_layers(2)
                .init(&Device::default())
                .unwrap()
                .with_path(path);
            let x = random::<3>(1, [2, 6, 3], &Device::default());
            let (whole, end) = stack.forward(x.clone(), None);
            let (_, middle) = stack.forward(x.clone().slice([0..2, 0..4, 0..3]), None);
            let (rest, rest_end) = stack.forward(x.slice([0..2, 4..6, 0..3]), Some(middle));
            let whole = whole.slice([0..2, 4..6, 0..4]);
            close(&format!("{cell:?} {path:?}"), &values(&rest), &values(&whole), 1e-6);
            close("end", &values(&rest_end.h()), &values(&end.h()), 1e-6);
        }
    }
}

#[test]
fn detached_state_passes_no_gradient() {
    let stack = RecurrentConfig::new(Cell::Lstm, 3, 4).init(&autodiff()).unwrap();
    let gradient = |detach: bool| {
        let x = random::<3>(1, [2, 3, 3], &autodiff()).require_grad();
        let (_, state) = stack.forward(x.clone(), None);
        let state = if detach { state.detach() } else { state.fork() };
        let (y, _) = stack.forward(random::<3>(2, [2, 3, 3], &autodiff()), Some(state));
        let gradients = y.sum().backward();
        x.grad(&gradients)
    };
    assert!(gradient(false).is_some());
    assert!(gradient(true).is_none());
}

#[test]
fn stepper_agrees_after_a_thousand_steps() {
    let (steps, batch) = (1000, 3);
    for cell in CELLS {
        let stack = RecurrentConfig::new(cell, 2, 9).with_layers(2).init(&Device::default()).unwrap();
        let x = random::<3>(1, [steps, batch, 2], &Device::default());
        let (y, last) = stack.forward(x.clone().swap_dims(0, 1), None);
        let expected = values(&y.swap_dims(0, 1));
        let mut stepper = stack.stepper(batch).unwrap();
        let mut found = Vec::new();
        for x in values(&x).chunks(batch * 2) {
            found.extend_from_slice(stepper.step(x).unwrap());
        }
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= 1e-5, "{cell:?}: {apart} apart");

        // From a state in the middle.
        let mut other = stack.stepper(batch).unwrap();
        other.set_state(&last).unwrap();
        let x = vec![0.25; batch * 2];
        close(&format!("{cell:?}"), other.step(&x).unwrap(), &stack_step(&stack, &x, &last), 1e-6);
    }
}

fn stack_step(stack: &Recurrent, x: &[f32], state: &State) -> Vec<f32> {
    let x = tensor(x.to_vec(), [x.len() / 2, 1, 2], &Device::default());
    values(&stack.forward(x, Some(state.clone())).0)
}

#[test]
fn a_stepper_of_bytes_stays_near_and_sequences_restart_alone() {
    for cell in CELLS {
        let stack = RecurrentConfig::new(cell, 2, 9).with_layers(2).init(&Device::default()).unwrap();
        let x = values(&random::<3>(1, [50, 3, 2], &Device::default()));
        let mut floats = stack.stepper(3).unwrap();
        let mut bytes = stack.stepper_with(3, StepPrecision::Int8).unwrap();
        let mut first = Vec::new();
        for x in x.chunks(6) {
            let (y, rounded) = (floats.step(x).unwrap(), bytes.step(x).unwrap());
            assert_ne!(y, rounded, "{cell:?}");
            let apart = y.iter().zip(rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 0.05, "{cell:?}: {apart} apart");
            if first.is_empty() {
                first = rounded.to_vec();
            }
        }
        bytes.reset_sequence(1);
        let again = bytes.step(&x[..6]).unwrap();
        assert_eq!(again[9..18], first[9..18], "{cell:?}");
        assert_ne!(again[..9], first[..9], "{cell:?}");
        assert_eq!(bytes.output(), bytes.state(1).h.unwrap());
        for layer in 0..2 {
            assert_eq!(bytes.state(layer).c.is_some(), cell.has_cell_state());
        }
    }
}

#[test]
fn only_a_forward_stack_has_a_stepper() {
    let stepper = |direction| {
        let config = RecurrentConfig::new(Cell::Lstm, 2, 3).with_direction(direction);
        config.init(&Device::default()).unwrap().stepper(1).is_some()
    };
    assert!(stepper(Direction::Forward));
    assert!(!stepper(Direction::Reverse));
    assert!(!stepper(Direction::Both));
}

#[test]
fn stepper_refuses_what_does_not_fit() {
    let stack = |layers, hidden| {
        RecurrentConfig::new(Cell::Lstm, 2, hidden).with_layers(layers).init(&Device::default()).unwrap()
    };
    let state = |stack: &Recurrent, batch| {
        stack.forward(Tensor::<3>::ones([batch, 1, 2], &Device::default()), None).1
    };
    let mut stepper = stack(2, 4).stepper(3).unwrap();
    assert!(stepper.step(&[0.0; 5]).is_err());
    assert!(stepper.set_state(&state(&stack(1, 4), 3)).is_err());
    assert!(stepper.set_state(&state(&stack(2, 5), 3)).is_err());
    assert!(stepper.set_state(&state(&stack(2, 4), 2)).is_err());
    let fits = state(&stack(2, 4), 3);
    assert!(stepper.set_state(&State::new(fits.h(), None)).is_err());
    assert!(stepper.set_state(&fits).is_ok());
}

// --- state --------------------------------------------------------------------------------------------------

#[test]
fn state_rows_are_selected_and_reset() {
    let h = tensor((0..12).map(|v| v as f32).collect(), [2, 3, 2], &Device::default());
    let state = State::new(h.clone(), Some(h * 10.0));
    assert_eq!(values(&state.select(&[2, 0]).h()), [4., 5., 0., 1., 10., 11., 6., 7.]);
    assert_eq!(values(&state.select(&[1, 1]).c().unwrap()), [20., 30., 20., 30., 80., 90., 80., 90.]);
    let arranged = state.arrange(&[Row::Zero, Row::Carried(1)]);
    assert_eq!(values(&arranged.h()), [0., 0., 2., 3., 0., 0., 8., 9.]);
    let same = state.arrange(&[Row::Carried(0), Row::Carried(1), Row::Carried(2)]);
    assert_eq!(values(&same.h()), values(&state.h()));
}

fn forward_from(stack: &Recurrent, state: State) {
    let _ = stack.forward(Tensor::<3>::ones([2, 1, 2], &Device::default()), Some(state));
}

/// A stack of two LSTM layers, and the state of one with other sizes.
fn with_foreign_state(layers: usize, sequences: usize, hidden: usize) -> (Recurrent, State) {
    let stack = |layers, hidden| {
        RecurrentConfig::new(Cell::Lstm, 2, hidden).with_layers(layers).init(&Device::default()).unwrap()
    };
    let x = Tensor::<3>::ones([sequences, 1, 2], &Device::default());
    (stack(2, 5), stack(layers, hidden).forward(x, None).1)
}

#[test]
#[should_panic(expected = "layer 0: state has 4 units, expected 5")]
fn state_of_another_width_is_refused() {
    let (stack, state) = with_foreign_state(2, 2, 4);
    forward_from(&stack, state);
}

#[test]
#[should_panic(expected = "layer 0: state has 3 sequences, expected 2")]
fn state_of_another_batch_is_refused() {
    let (stack, state) = with_foreign_state(2, 3, 5);
    forward_from(&stack, state);
}

#[test]
#[should_panic(expected = "the state has 1 entries (layers · directions), expected 2")]
fn state_of_another_depth_is_refused() {
    let (stack, state) = with_foreign_state(1, 2, 5);
    forward_from(&stack, state);
}

#[test]
#[should_panic(expected = "layer 0: the state has none of c, expected 5 values; the cell is lstm")]
fn state_of_another_cell_is_refused() {
    let (stack, state) = with_foreign_state(2, 2, 5);
    forward_from(&stack, State::new(state.h(), None));
}

#[test]
#[should_panic(expected = "the input has 3 values a step, expected 2")]
fn input_of_another_width_is_refused() {
    let (stack, _) = with_foreign_state(1, 1, 1);
    let _ = stack.forward(Tensor::<3>::ones([1, 1, 3], &Device::default()), None);
}

#[test]
fn a_batch_without_steps_keeps_its_state() {
    for path in PATHS {
        let (stack, state) = with_foreign_state(2, 2, 5);
        let nothing = Tensor::<3>::zeros([2, 0, 2], &Device::default());
        let (y, last) = stack.with_path(path).forward(nothing, Some(state.clone()));
        assert_eq!(y.dims(), [2, 0, 5]);
        assert_eq!(values(&last.h()), values(&state.h()), "{path:?}");
    }
}

// --- configuration and names --------------------------------------------------------------------------------

#[test]
fn impossible_sizes_are_refused() {
    let check = |config: RecurrentConfig, message: &str| {
        assert_eq!(config.init(&Device::default()).unwrap_err().to_string(), message);
    };
    check(RecurrentConfig::new(Cell::Lstm, 0, 1), "input is 0, expected at least 1");
    check(RecurrentConfig::new(Cell::Lstm, 1, 0), "hidden is 0, expected at least 1");
    check(RecurrentConfig::new(Cell::Lstm, 1, 1).with_layers(0), "layers is 0, expected at least 1");
    assert!(matches!(
        RecurrentConfig::new(Cell::Lstm, 1, 1).with_forget_bias(f64::NAN).init(&Device::default()),
        Err(ConfigError::ForgetBias { .. })
    ));
    let drawn = |cell, init| RecurrentConfig::new(cell, 1, 1).with_init(init);
    check(
        drawn(Cell::Lstm, Init { recurrent: WeightInit::Uniform { range: -1.0 }, ..Init::default() }),
        "the size of the recurrent weights' distribution is -1, expected a finite number above 0",
    );
    check(
        drawn(Cell::Lstm, Init::both(WeightInit::XavierNormal { gain: Some(f64::INFINITY) })),
        "the size of the input weights' distribution is inf, expected a finite number above 0",
    );
    let chrono = |longest| Init { gates: GateBias::Chrono { longest }, ..Init::default() };
    check(
        drawn(Cell::Rnn(Activation::Tanh), chrono(100)),
        "chrono initialisation of an rnn over 100 steps; it takes an lstm or a gru and at least 2",
    );
    check(
        drawn(Cell::Lstm, chrono(1)),
        "chrono initialisation of an lstm over 1 steps; it takes an lstm or a gru and at least 2",
    );
}

fn named(config: &RecurrentConfig) -> Vec<NamedTensor> {
    config.init(&Device::default()).unwrap().named_tensors()
}

#[test]
fn names_and_shapes_are_those_of_pytorch() {
    let config = RecurrentConfig::new(Cell::Lstm, 3, 4).with_layers(2).with_direction(Direction::Both);
    let list: Vec<(String, Vec<usize>)> =
        named(&config).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
    let expected = |ending: &str, input: usize| {
        [
            (format!("weight_ih{ending}"), vec![16, input]),
            (format!("weight_hh{ending}"), vec![16, 4]),
            (format!("bias_ih{ending}"), vec![16]),
            (format!("bias_hh{ending}"), vec![16]),
        ]
    };
    let expected =
        [expected("_l0", 3), expected("_l0_reverse", 3), expected("_l1", 8), expected("_l1_reverse", 8)]
            .concat();
    assert_eq!(list, expected);
}

#[test]
fn seed_and_init_decide_the_weights() {
    let config = RecurrentConfig::new(Cell::Lstm, 3, 4);
    assert_eq!(named(&config), named(&config.clone().with_seed(0)));
    assert_ne!(named(&config), named(&config.clone().with_seed(1)));
    assert_ne!(
        named(&config),
        named(&config.clone().with_init(Init::both(WeightInit::XavierUniform { gain: None })))
    );
    assert!(named(&config).iter().filter(|t| t.name.starts_with("weight")).all(|t| {
        t.values.iter().all(|value| value.abs() <= 0.5) && t.values.iter().any(|value| value.abs() > 0.25)
    }));
}

#[test]
fn forget_bias_stands_in_bias_ih() {
    let forget = |config: RecurrentConfig, name: &str| {
        let all = named(&config);
        all.iter().find(|tensor| tensor.name == name).unwrap().values[4..8].to_vec()
    };
    let lstm = RecurrentConfig::new(Cell::Lstm, 3, 4);
    assert_eq!(forget(lstm.clone(), "bias_ih_l0"), [1.0; 4]);
    assert_eq!(forget(lstm.clone().with_forget_bias(2.5), "bias_ih_l0"), [2.5; 4]);
    assert_eq!(forget(lstm, "bias_hh_l0"), [0.0; 4]);
    let gru = RecurrentConfig::new(Cell::Gru(carousel::cell::Reset::After), 3, 4);
    assert_ne!(forget(gru, "bias_ih_l0"), [1.0; 4]);
}

#[test]
fn loading_checks_names_and_shapes_before_it_changes_anything() {
    let config = RecurrentConfig::new(Cell::Lstm, 3, 4);
    let good = named(&config.clone().with_seed(5));
    let check = |change: &dyn Fn(&mut Vec<NamedTensor>), message: &str| {
        let mut stack = config.init(&Device::default()).unwrap();
        let before = stack.named_tensors();
        let mut tensors = good.clone();
        change(&mut tensors);
        let error: LoadError = stack.load(&tensors).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(stack.named_tensors(), before);
    };
    check(
        &|all| drop(all.remove(1)),
        "tensor weight_hh_l0 is missing; the model has other layers or directions than what is loaded",
    );
    check(&|all| all[2].shape = vec![4, 4], "tensor bias_ih_l0 has shape [4, 4], expected [16]");
    check(&|all| all[3].values.truncate(15), "tensor bias_hh_l0 has 15 values, but shape [16]");
    check(
        &|all| all.push(NamedTensor { name: "extra".into(), shape: vec![1], values: vec![0.0] }),
        "tensor extra does not belong to this model",
    );

    let mut stack = config.init(&autodiff()).unwrap();
    let shuffled: Vec<NamedTensor> = good.iter().rev().cloned().collect();
    stack.load(&shuffled).unwrap();
    assert_eq!(stack.named_tensors(), good);
    let (y, _) = stack.forward(Tensor::<3>::ones([1, 2, 3], &autodiff()), None);
    assert!(stack.take_gradients(&mut y.sum().backward()).iter().any(|d| values(d)[0] != 0.0));
}
