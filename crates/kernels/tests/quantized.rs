//! Weights of eight bits against their naive version, and what becomes of extreme and broken numbers.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::reference::{self, quantized, quantized_step};
use carousel_kernels::*;
use common::{CELLS, Numbers, Problem, close, everywhere, settings, wide};

fn layer(cell: Cell, input: usize, hidden: usize) -> Layer {
    Layer {
        cell,
        direction: Direction::Forward,
        input,
        hidden,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    }
}

fn rows(values: &[f32], width: usize) -> impl Iterator<Item = Vec<f32>> + '_ {
    values.chunks(width).map(<[f32]>::to_vec)
}

/// What one stream's vector of eight bits can be off by in a product, if one of its values lies so close to
/// the border of two integers that the last bit decides.
fn quantum(problem: &Problem) -> f64 {
    let largest = problem.weights.recurrent.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    f64::from(largest / 127.0)
}

/// One step of `batch` streams from given states at every size.
fn check(cell: Cell, hidden: usize, batch: usize) -> Vec<Vec<f32>> {
    let layer = layer(cell, hidden / 2 + 3, hidden);
    let problem = Problem::random(layer, Batch::full(batch, 1), 5 + hidden as u64);
    let mut stepper =
        Stepper::with_precision(&[(layer, problem.weights())], batch, StepPrecision::Int8).unwrap();
    let has_c = cell.has_cell_state();
    let c = has_c.then_some(&problem.initial.c[..]);
    stepper.set_state(0, State { h: Some(&problem.initial.h), c }).unwrap();
    stepper.step(&problem.x).unwrap();
    let found = stepper.state(0);
    let found = (found.h.unwrap().to_vec(), found.c.unwrap_or_default().to_vec());

    let mut expected = reference::State { h: Vec::new(), c: Vec::new() };
    let states = rows(&problem.initial.h, hidden).zip(rows(&problem.initial.c, hidden));
    for (x, (h, c)) in rows(&problem.x, layer.input).zip(states) {
        let next = quantized_step(&layer, &problem.weights, &x, &reference::State { h, c });
        expected.h.extend(next.h);
        expected.c.extend(next.c);
    }
    // With the reset before the product, r · h is rounded to eight bits after a sigmoid whose last bits differ.
    let slack = if cell == Cell::Gru(Reset::Before) { quantum(&problem) } else { 0.0 };
    let what = format!("{cell:?} H {hidden} B {batch}");
    close(&what, &found.0, &wide(&expected.h), 1e-5 + slack);
    if has_c {
        close(&what, &found.1, &wide(&expected.c), 1e-5);
    }
    vec![found.0, found.1]
}

#[test]
fn a_step_is_what_the_naive_version_computes() {
    let sizes = [(1, 1), (7, 2), (8, 1), (9, 3), (33, 1), (33, 20), (64, 7), (100, 1), (100, 33), (257, 2)];
    let mut first = std::collections::HashMap::new();
    everywhere(|level, threads| {
        for cell in CELLS {
            for (hidden, batch) in sizes {
                let found = check(cell, hidden, batch);
                let bits: Vec<u32> = found.concat().into_iter().map(f32::to_bits).collect();
                let expected = first.entry((level, cell, hidden, batch)).or_insert(bits.clone());
                assert_eq!(*expected, bits, "{cell:?} {level:?} H {hidden} B {batch} {threads} threads");
            }
        }
    });
}

#[test]
fn a_stack_stays_near_its_floats_and_is_not_the_same() {
    let _turn = settings();
    let (batch, hidden, time) = (2, 64, 200);
    for cell in CELLS {
        let problems = [layer(cell, 5, hidden), layer(cell, hidden, hidden)].map(|layer| {
            let mut problem = Problem::random(layer, Batch::full(batch, time), 3);
            problem.weights.recurrent.iter_mut().for_each(|w| *w *= 0.5);
            problem
        });
        let stack: Vec<_> = problems.iter().map(|p| (p.layer, p.weights())).collect();
        let mut floats = Stepper::new(&stack, batch).unwrap();
        let mut bytes = Stepper::with_precision(&stack, batch, StepPrecision::Int8).unwrap();
        let (mut largest, mut apart) = (0.0f32, 0.0f32);
        for x in problems[0].x.chunks(batch * 5) {
            let (y, rounded) = (floats.step(x).unwrap(), bytes.step(x).unwrap());
            for (y, rounded) in y.iter().zip(rounded) {
                largest = largest.max(y.abs());
                apart = apart.max((y - rounded).abs());
            }
        }
        assert!(apart > 0.0 && apart < 0.03 * largest, "{cell:?}: off by {apart} of {largest}");
    }
}

#[test]
fn the_largest_sums_are_exact() {
    let layer = layer(Cell::Rnn(Activation::Relu), 1000, 33);
    let (w, u, b) = layer.weight_lengths();
    everywhere(|level, threads| {
        for (weight, x) in [(0.5, 2.0), (-0.5, -2.0), (-0.5, 2.0), (0.25, 3e30)] {
            let weights = (vec![weight; w], vec![0.0; u], vec![0.0; b]);
            let weights = Weights {
                input: &weights.0,
                recurrent: &weights.1,
                bias_input: &weights.2,
                bias_recurrent: &weights.2,
                options: &[],
            };
            let mut stepper = Stepper::with_precision(&[(layer, weights)], 2, StepPrecision::Int8).unwrap();
            let y = stepper.step(&vec![x; 2000]).unwrap();
            let expected = vec![f64::from((weight * x * 1000.0).max(0.0)); 66];
            close(&format!("{weight} {x} {level:?} {threads} threads"), y, &expected, 1e-6);
        }
    });
}

#[test]
fn zeros_and_tiny_numbers_leave_the_bias() {
    everywhere(|_, _| {
        for cell in CELLS {
            for (weight, x, h) in [(0.0, 1.0, 0.5), (0.3, 0.0, 0.0), (1e-44, 1.0, 0.5), (0.3, 1e-44, 0.0)] {
                let layer = layer(cell, 9, 33);
                let (w, u, b) = layer.weight_lengths();
                let bias: Vec<f32> = Numbers::new(4).floats(b, 1.0);
                let weights = |weight: f32| reference::Weights {
                    input: vec![weight; w],
                    recurrent: vec![weight; u],
                    bias_input: bias.clone(),
                    bias_recurrent: bias.clone(),
                    options: Vec::new(),
                };
                let state = reference::State { h: vec![h; 33], c: vec![0.0; 33] };
                let expected = quantized_step(&layer, &weights(0.0), &[0.0; 9], &state);
                let packed = weights(weight);
                let packed = Weights {
                    input: &packed.input,
                    recurrent: &packed.recurrent,
                    bias_input: &packed.bias_input,
                    bias_recurrent: &packed.bias_recurrent,
                    options: &[],
                };
                let mut stepper =
                    Stepper::with_precision(&[(layer, packed)], 1, StepPrecision::Int8).unwrap();
                stepper.set_state(0, State { h: Some(&state.h), c: None }).unwrap();
                let y = stepper.step(&[x; 9]).unwrap();
                close(&format!("{cell:?} {weight} {x} {h}"), y, &wide(&expected.h), 1e-5);
            }
        }
    });
}

#[test]
fn broken_numbers_show_and_stay_in_their_stream() {
    everywhere(|level, threads| {
        for cell in CELLS {
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let layer = layer(cell, 9, 33);
                let problem = Problem::random(layer, Batch::full(3, 2), 8);
                let stack = [(layer, problem.weights())];
                let mut stepper = Stepper::with_precision(&stack, 3, StepPrecision::Int8).unwrap();
                let (x, next) = problem.x.split_at(27);
                let sound = stepper.step(x).unwrap().to_vec();
                let sound_next = stepper.step(next).unwrap().to_vec();
                stepper.reset();
                let mut x = x.to_vec();
                x[9 + 4] = broken;
                let what = format!("{cell:?} {broken} {level:?} {threads} threads");
                let y = stepper.step(&x).unwrap();
                assert!(y[33..66].iter().all(|y| y.is_nan()), "{what}: {:?}", &y[33..66]);
                assert_eq!((&y[..33], &y[66..]), (&sound[..33], &sound[66..]), "{what}");
                let y = stepper.step(next).unwrap();
                assert!(y[33..66].iter().all(|y| y.is_nan()), "{what}");
                assert_eq!((&y[..33], &y[66..]), (&sound_next[..33], &sound_next[66..]), "{what}");
                stepper.reset_stream(1);
                assert!(stepper.step(next).unwrap().iter().all(|y| y.is_finite()), "{what}");

                // A weight that is not finite breaks its unit alone, in the first step. (The first gate may be
                // one that all units see.)
                let mut problem = problem.clone();
                let row = (cell.gates() - 1).min(1) * 33 + 5;
                problem.weights.input[row * 9 + 1] = broken;
                let stack = [(layer, problem.weights())];
                let mut stepper = Stepper::with_precision(&stack, 3, StepPrecision::Int8).unwrap();
                let y = stepper.step(&problem.x[..27]).unwrap();
                for (unit, (y, sound)) in y.iter().zip(&sound).enumerate() {
                    assert!(if unit % 33 == 5 { y.is_nan() } else { y == sound }, "{what} unit {unit}: {y}");
                }
            }
        }
    });
}

#[test]
fn a_row_too_long_for_its_sums_is_refused() {
    let layer = layer(Cell::Rnn(Activation::Tanh), 133_145, 1);
    let (w, u, b) = layer.weight_lengths();
    let (w, u, b) = (vec![1.0; w], vec![1.0; u], vec![0.0; b]);
    let weights = Weights { input: &w, recurrent: &u, bias_input: &b, bias_recurrent: &b, options: &[] };
    let error = Stepper::with_precision(&[(layer, weights)], 1, StepPrecision::Int8).err().unwrap();
    assert_eq!(error, ShapeError::TooLarge { what: "a row of 8-bit weights" });
    assert!(Stepper::new(&[(layer, weights)], 1).is_ok());
}

#[test]
fn the_longest_row_is_summed_right() {
    let length = 133_144;
    let layer = layer(Cell::Rnn(Activation::Relu), length, 1);
    let (w, x) = (vec![1.0; length], vec![1.0; length]);
    let weights =
        Weights { input: &w, recurrent: &[0.0], bias_input: &[0.0], bias_recurrent: &[0.0], options: &[] };
    everywhere(|_, _| {
        let mut stepper = Stepper::with_precision(&[(layer, weights)], 1, StepPrecision::Int8).unwrap();
        close("sum", stepper.step(&x).unwrap(), &[length as f64], 1e-6);
    });
}

#[test]
fn rounding_is_to_the_nearest_and_even() {
    let check = |values: &[f32], integers: &[i32], scale: f32| {
        assert_eq!(quantized(values), (integers.to_vec(), scale));
    };
    check(&[127.0, 1.5, 2.5, -0.5, -127.0], &[127, 2, 2, 0, -127], 1.0);
    check(&[0.0, 0.0], &[0, 0], 0.0);
    check(&[-254.0, 127.0, 3.0], &[-127, 64, 2], 2.0);
    assert!(quantized(&[1.0, f32::NAN]).1.is_nan() && quantized(&[f32::INFINITY]).1.is_nan());
}
