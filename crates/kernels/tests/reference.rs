//! The reference against finite differences: every cell, every input of the gradient, ragged and not.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::reference::{self, State, Weights};
use carousel_kernels::*;
use common::{CELLS, Noise, Numbers, Problem, cells_with_options, projections, wide};

/// All that goes into a pass, as one list of numbers.
#[derive(Clone)]
struct Inputs(Vec<Vec<f64>>);

impl Inputs {
    fn of(p: &Problem) -> Inputs {
        let lists = [
            &p.x,
            &p.initial.h,
            &p.initial.c,
            &p.weights.input,
            &p.weights.recurrent,
            &p.weights.bias_input,
            &p.weights.bias_recurrent,
            &p.weights.options,
        ];
        Inputs(lists.map(|list| wide(list)).to_vec())
    }

    /// `sum(y · dy) + sum(last · dlast)`, whose gradient is what backward gives.
    fn value(&self, p: &Problem) -> f64 {
        let [x, h, c, input, recurrent, bias_input, bias_recurrent, options] = &self.0[..] else {
            unreachable!()
        };
        let weights = Weights {
            input: input.clone(),
            recurrent: recurrent.clone(),
            bias_input: bias_input.clone(),
            bias_recurrent: bias_recurrent.clone(),
            options: options.clone(),
        };
        let initial = State { h: h.clone(), c: c.clone() };
        let (y, last) = reference::forward(
            &p.layer,
            &p.batch,
            &weights,
            x,
            &initial,
            p.noise.as_ref().map(Noise::lend).as_ref(),
        );
        let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
        dot(&y, &p.dy) + dot(&last.h, &p.dlast.h) + dot(&last.c, &p.dlast.c)
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let names = ["x", "h0", "c0", "input", "recurrent", "bias_input", "bias_recurrent", "options"];
    let mut checked = 0;
    let plain = CELLS.map(|cell| (cell, CellOptions::PLAIN));
    let projecting = projections(3).into_iter().map(|options| (Cell::Lstm, options));
    for (cell, options) in plain.into_iter().chain(cells_with_options()).chain(projecting) {
        for direction in [Direction::Forward, Direction::Reverse] {
            for (case, lengths) in
                (0..).zip([[4, 4, 4], [2, 0, 4], [4, 1, 4], [3, 0, 4], [2, 4, 4], [4, 4, 1]])
            {
                // Without chance, with the means of zoneout, and with every draw.
                let chance = if case < 2 { [0.0; 4] } else { [0.3, 0.4, 0.3, 0.4] };
                let layer = Layer {
                    cell,
                    direction,
                    input: 2,
                    hidden: 3,
                    precision: Precision::F32,
                    zoneout: Zoneout::NONE,
                    options,
                };
                let batch = Batch::ragged(&lengths, 4).unwrap();
                let problem = Problem::random(layer, batch, 7).with_chance(chance, case > 3);
                let (_, _, d) = problem.reference();
                let gradients = [
                    &d.x,
                    &d.initial.h,
                    &d.initial.c,
                    &d.weights.input,
                    &d.weights.recurrent,
                    &d.weights.bias_input,
                    &d.weights.bias_recurrent,
                    &d.weights.options,
                ];
                let inputs = Inputs::of(&problem);
                for (which, gradient) in gradients.into_iter().enumerate() {
                    if which == 2 && !cell.has_cell_state() {
                        continue;
                    }
                    for (k, &expected) in gradient.iter().enumerate() {
                        // A norm over three units bends sharply where they nearly agree.
                        let epsilon = if options.norm { 1e-6 } else { 1e-5 };
                        let moved = |by: f64| {
                            let mut inputs = inputs.clone();
                            inputs.0[which][k] += by;
                            inputs.value(&problem)
                        };
                        let slope = (moved(epsilon) - moved(-epsilon)) / (2.0 * epsilon);
                        let what = names[which];
                        assert!(
                            (slope - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                            "{cell:?} {options:?} {direction:?} case {case} {lengths:?} d{what}[{k}]: {slope} by differences, {expected}"
                        );
                        checked += 1;
                    }
                }
            }
        }
    }
    println!("{checked} partial derivatives checked");
}

#[test]
fn f32_and_f64_agree() {
    for cell in CELLS {
        let layer = Layer {
            cell,
            direction: Direction::Forward,
            input: 3,
            hidden: 5,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let problem = Problem::random(layer, Batch::full(2, 6), 3);
        let (y, _) =
            reference::forward(&layer, &problem.batch, &problem.weights, &problem.x, &problem.initial, None);
        common::close(&format!("{cell:?}"), &y, &problem.reference().0, 1e-5);
    }
}

#[test]
fn walking_backwards_equals_walking_reversed_input() {
    let mut numbers = Numbers::new(5);
    for cell in CELLS {
        let layer = Layer {
            cell,
            direction: Direction::Reverse,
            input: 2,
            hidden: 3,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let mut problem = Problem::random(layer, Batch::full(1, 5), numbers.integer(1000) as u64);
        let (reverse, _, _) = problem.reference();
        problem.layer.direction = Direction::Forward;
        let (forward, _, _) = problem.reference();
        assert_ne!(forward, reverse, "the direction must change the answer");
        let reversed: Vec<f32> = problem.x.chunks(2).rev().flatten().copied().collect();
        problem.x = reversed;
        let (forward, _, _) = problem.reference();
        let forward: Vec<f64> = forward.chunks(3).rev().flatten().copied().collect();
        assert_eq!(forward, reverse);
    }
}
