//! Cells with options: the fused kernels against the reference, at every level, for every number of threads; each
//! option changes the answer; the stepper; what fits no cell.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{
    CELLS, Numbers, Problem, cells_with_options, close, compare, everywhere, fixtures, projections, settings,
    wide,
};

fn layer(cell: Cell, options: CellOptions, input: usize, hidden: usize) -> Layer {
    Layer {
        cell,
        direction: Direction::Forward,
        input,
        hidden,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options,
    }
}

#[test]
fn agree_with_the_reference() {
    let many: Vec<usize> = (0..19).map(|b| (b * 7) % 6).collect();
    // Probabilities to zone out `h` and `c` and to drop out of `h` and the update, and whether they are drawn.
    let chances = [
        ([0.0; 4], false),
        ([0.2, 0.4, 0.0, 0.0], false),
        ([0.2, 0.3, 0.4, 0.3], true),
        ([0.0, 0.0, 0.3, 0.0], true),
    ];
    let mut problems = Vec::new();
    let shapes = [(1, &[4, 2][..]), (5, &[4, 0, 6, 1]), (33, &many), (40, &[6; 9]), (200, &[4, 3])];
    for (shape, (hidden, lengths)) in shapes.into_iter().enumerate() {
        let projecting = projections(hidden).into_iter().map(|options| (Cell::Lstm, options));
        for (case, (cell, options)) in cells_with_options().into_iter().chain(projecting).enumerate() {
            // Two of the chances a shape, others for the next case.
            for (chance, draws) in [chances[0], chances[1 + (case + shape) % 3]] {
                let direction = [Direction::Forward, Direction::Reverse][(case + shape) % 2];
                let layer = Layer { direction, ..layer(cell, options, 6, hidden) };
                let batch = Batch::ragged(lengths, 6).unwrap();
                let problem = Problem::random(layer, batch, hidden as u64).with_chance(chance, draws);
                problems.push((problem.reference(), problem));
            }
        }
    }
    println!("{} problems", problems.len());
    let mut bits: Vec<Option<_>> = Vec::new();
    let mut tape = Tape::default();
    everywhere(|level, threads| {
        if threads == 1 {
            bits = vec![None; problems.len()];
        }
        for ((expected, problem), bits) in problems.iter().zip(&mut bits) {
            let Layer { cell, hidden, direction, zoneout, options, .. } = problem.layer;
            let what = format!(
                "{cell:?} {options:?} H {hidden} {direction:?} {zoneout:?} {level:?} {threads} threads"
            );
            let mut problem = problem.clone();
            problem.poison(f32::NAN);
            let found = problem.fused(&mut tape);
            let (y, last) = problem.infer();
            assert_eq!((&y, &last.h, &last.c), (&found.0, &found.1.h, &found.1.c), "{what}: without a tape");
            match bits {
                None => {
                    // A norm over few units may divide by a small deviation, which magnifies rounding.
                    compare(&what, &found, expected, if options.norm { 1e-4 } else { 2e-5 });
                    *bits = Some(found);
                }
                Some(first) => assert_eq!(first, &found, "{what}"),
            }
        }
    });
}

/// Frames that share their input rows read them from a table of projected rows.
#[test]
fn shared_rows_agree_with_frames() {
    let mut numbers = Numbers::new(9);
    everywhere(|level, threads| {
        let (rows, hidden) = (3, 20);
        let projecting = projections(hidden).into_iter().map(|options| (Cell::Lstm, options));
        for (cell, options) in cells_with_options().into_iter().chain(projecting) {
            let mut problem = Problem::random(layer(cell, options, 4, hidden), Batch::full(5, 6), 3);
            let batch = problem.batch.clone();
            let data = numbers.floats(rows * 4, 1.0);
            let index: Vec<u32> = (0..batch.frames()).map(|_| numbers.integer(rows) as u32).collect();
            for (frame, (sequence, time)) in batch.places().enumerate() {
                let row = &data[index[frame] as usize * 4..][..4];
                problem.x[(sequence * batch.time() + time) * 4..][..4].copy_from_slice(row);
            }
            let (y, last, d) =
                problem.fused_on(Inputs::Rows { data: &data, index: &index }, &mut Tape::default());
            let (expected, expected_last, expected_d) = problem.reference();
            let what = format!("{cell:?} {options:?} {level:?} {threads} threads");
            close(&format!("{what}: y"), &y, &expected, 1e-4);
            close(&format!("{what}: h"), &last.h, &expected_last.h, 1e-4);
            close(&format!("{what}: w"), &d.weights.input, &expected_d.weights.input, 1e-4);
            close(&format!("{what}: options"), &d.weights.options, &expected_d.weights.options, 1e-4);
        }
    });
}

fn activation_of(name: &str) -> Activation {
    match name {
        "tanh" => Activation::Tanh,
        "relu" => Activation::Relu,
        "leaky-relu" => Activation::LeakyRelu,
        "elu" => Activation::Elu,
        "silu" => Activation::Silu,
        "hard-tanh" => Activation::HardTanh,
        other => panic!("no non-linearity {other}"),
    }
}

/// The same steps written out in PyTorch's operations, float64: see `fixtures/option_fixtures.py`.
#[test]
fn agree_with_pytorch() {
    let cases = fixtures::load("options");
    assert_eq!(cases.len(), 25);
    everywhere(|level, threads| {
        for case in &cases {
            let cell = match case.text("cell") {
                vanilla if vanilla.starts_with("rnn-") => Cell::Rnn(activation_of(&vanilla[4..])),
                "lstm" => Cell::Lstm,
                "gru-after" => Cell::Gru(Reset::After),
                "gru-before" => Cell::Gru(Reset::Before),
                other => panic!("no cell {other}"),
            };
            let has = |option: &str| case.text("options").split(' ').any(|own| own == option);
            let gate = if has("hard") { GateActivation::HardSigmoid } else { GateActivation::Sigmoid };
            let values = case.tensor("h0").shape[1];
            let options = CellOptions {
                norm: has("norm"),
                peephole: has("peephole"),
                gate,
                activation: activation_of(case.text("activation")),
                projection: has("projection").then_some(values),
            };
            let [_, time, input] = case.tensor("x").shape[..] else { panic!("x has three dimensions") };
            let layer = layer(cell, options, input, case.tensor("c0").shape[1]);
            let batch = Batch::ragged(&case.sizes("lengths"), time).unwrap();
            let mut problem = Problem::random(layer, batch, 1);
            let read = |name: &str| case.f32s(name);
            problem.weights = reference::Weights {
                input: read("weight_ih"),
                recurrent: read("weight_hh"),
                bias_input: read("bias_ih"),
                bias_recurrent: read("bias_hh"),
                options: read("options"),
            };
            (problem.x, problem.dy) = (read("x"), read("dy"));
            let none = vec![0.0; problem.initial.c.len()];
            problem.initial = reference::State { h: read("h0"), c: read("c0") };
            problem.dlast = reference::State { h: read("dhn"), c: none };
            let (y, last, d) = problem.fused(&mut Tape::default());
            let mut found: Vec<(&str, &[f32])> = vec![
                ("y", &y),
                ("hn", &last.h),
                ("dx", &d.x),
                ("dh0", &d.initial.h),
                ("dweight_ih", &d.weights.input),
                ("dweight_hh", &d.weights.recurrent),
                ("dbias_ih", &d.weights.bias_input),
                ("dbias_hh", &d.weights.bias_recurrent),
                ("doptions", &d.weights.options),
            ];
            if cell.has_cell_state() {
                found.push(("dc0", &d.initial.c));
            }
            for (name, found) in found {
                let what = format!("{}: {name} {level:?} {threads} threads", case.name);
                close(&what, found, case.f64s(name), 1e-5);
            }
        }
    });
}

#[test]
fn each_option_changes_the_answer() {
    let _turn = settings();
    for (cell, options) in cells_with_options() {
        let problem = Problem::random(layer(cell, options, 4, 12), Batch::full(2, 5), 3);
        let (y, _) = problem.infer();
        let mut others = Vec::new();
        if options.norm {
            others.push((cell, CellOptions { norm: false, ..options }));
        }
        if options.peephole {
            others.push((cell, CellOptions { peephole: false, ..options }));
        }
        if options.activation != Activation::Tanh {
            others.push((cell, CellOptions { activation: Activation::Tanh, ..options }));
        }
        if options.gate != GateActivation::Sigmoid {
            others.push((cell, CellOptions { gate: GateActivation::Sigmoid, ..options }));
        }
        if let Cell::Rnn(own) = cell {
            let all = Activation::ALL.into_iter().filter(|&other| other != own);
            others.extend(all.map(|other| (Cell::Rnn(other), options)));
        }
        for (other, without) in others {
            let mut changed = problem.clone();
            (changed.layer.cell, changed.layer.options) = (other, without);
            let kept = changed.layer.option_length();
            // Gains stand in front, peepholes behind.
            let all = &problem.weights.options;
            changed.weights.options =
                if without.norm { all[..kept].to_vec() } else { all[all.len() - kept..].to_vec() };
            assert_ne!(changed.infer().0, y, "{cell:?} {options:?} as {other:?} {without:?}");
        }
    }
}

/// With gains and peepholes of its own making, an option can be the plain cell.
#[test]
fn peepholes_of_zero_are_the_plain_cell() {
    let _turn = settings();
    let options = CellOptions { peephole: true, ..CellOptions::PLAIN };
    let mut problem = Problem::random(layer(Cell::Lstm, options, 4, 12), Batch::full(2, 5), 3);
    problem.weights.options.fill(0.0);
    let (y, ..) = problem.infer();
    problem.layer.options = CellOptions::PLAIN;
    problem.weights.options.clear();
    close("y", &y, &wide(&problem.infer().0), 1e-6);
}

/// A projection that takes over the first units is an LSTM whose other units nothing reads.
#[test]
fn a_projection_of_the_first_units_leaves_the_others_unread() {
    let _turn = settings();
    let (hidden, values) = (12, 7);
    let options = CellOptions { projection: Some(values), ..CellOptions::PLAIN };
    let mut problem = Problem::random(layer(Cell::Lstm, options, 4, hidden), Batch::full(2, 5), 3);
    problem.weights.options.fill(0.0);
    (0..values).for_each(|k| problem.weights.options[k * hidden + k] = 1.0);
    let mut plain = problem.clone();
    plain.layer.options = CellOptions::PLAIN;
    plain.weights.options.clear();
    // Rows of `width` values as rows of `hidden`.
    let widened = |rows: &[f32]| -> Vec<f32> {
        let row = |row: &[f32]| [row, &vec![0.0; hidden - values]].concat();
        rows.chunks_exact(values).flat_map(row).collect()
    };
    plain.weights.recurrent = widened(&problem.weights.recurrent);
    plain.initial.h = widened(&problem.initial.h);
    plain.dy = widened(&problem.dy);
    let expected: Vec<f32> =
        plain.infer().0.chunks_exact(hidden).flat_map(|row| row[..values].to_vec()).collect();
    close("y", &problem.infer().0, &wide(&expected), 1e-6);
}

#[test]
fn steps_agree_with_the_sequence_call() {
    let (batch, time, hidden) = (3, 50, 36);
    everywhere(|level, threads| {
        for (cell, options) in cells_with_options() {
            let zoneout = Zoneout { hidden: 0.1, cell: if cell == Cell::Lstm { 0.2 } else { 0.0 } };
            let bottom = Layer { zoneout, ..layer(cell, options, 5, hidden) };
            let problems = [bottom, layer(cell, options, hidden, hidden)]
                .map(|l| Problem::random(l, Batch::full(batch, time), 11));
            let mut x = problems[0].x.clone();
            for problem in &problems {
                let mut own = problem.clone();
                own.x = x;
                own.initial.h.fill(0.0);
                own.initial.c.fill(0.0);
                x = own.infer().0;
            }
            let layers: Vec<_> = problems.iter().map(|p| (p.layer, p.weights())).collect();
            let mut stepper = Stepper::new(&layers, batch).unwrap();
            let mut rounded = Stepper::with_precision(&layers, batch, StepPrecision::Int8).unwrap();
            for t in 0..time {
                let rows = |of: &[f32], width: usize| -> Vec<f32> {
                    (0..batch).flat_map(|b| of[(b * time + t) * width..][..width].to_vec()).collect()
                };
                let input = rows(&problems[0].x, 5);
                let what = format!("{cell:?} {options:?} {level:?} {threads} threads step {t}");
                let expected = wide(&rows(&x, hidden));
                close(&what, stepper.step(&input).unwrap(), &expected, 5e-5);
                if t < 3 {
                    close(&format!("{what}, eight bits"), rounded.step(&input).unwrap(), &expected, 0.2);
                }
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |cell: Cell, options: CellOptions, change: fn(&mut Problem)| -> String {
        let mut problem = Problem::random(layer(cell, options, 2, 3), Batch::full(1, 1), 1);
        change(&mut problem);
        let mut y = [0.0; 3];
        let frames = |data| Frames { data, layout: Layout::Packed, stride: 2, offset: 0 };
        let to = FramesMut { data: &mut y, layout: Layout::Packed, stride: 3, offset: 0 };
        let (state, end) = (State::default(), StateMut::default());
        forward(&problem.layer, &problem.batch, problem.weights(), frames(&problem.x), state, to, end, None)
            .unwrap_err()
            .to_string()
    };
    let peephole = CellOptions { peephole: true, ..CellOptions::PLAIN };
    let hard = CellOptions { gate: GateActivation::HardSigmoid, ..CellOptions::PLAIN };
    let norm = CellOptions { norm: true, ..CellOptions::PLAIN };
    assert_eq!(
        refused(Cell::Gru(Reset::After), peephole, |_| {}),
        "peepholes were asked for, but only an LSTM has them"
    );
    assert_eq!(
        refused(Cell::Rnn(Activation::Tanh), hard, |_| {}),
        "a gate's non-linearity was given, but a vanilla cell has none"
    );
    let silu = CellOptions { activation: Activation::Silu, ..CellOptions::PLAIN };
    assert_eq!(
        refused(Cell::Rnn(Activation::Tanh), silu, |_| {}),
        "a candidate's non-linearity was given, but a vanilla cell has its own alone"
    );
    assert_eq!(
        refused(Cell::Lstm, norm, |p| p.weights.options.truncate(4)),
        "weights of the cell's options has 4 elements, expected 18"
    );
    let projection = |values| CellOptions { projection: Some(values), ..CellOptions::PLAIN };
    assert_eq!(
        refused(Cell::Gru(Reset::After), projection(2), |_| {}),
        "a projection was asked for, but only an LSTM has one"
    );
    assert_eq!(refused(Cell::Lstm, projection(3), |_| {}), "the projection is 3, expected less than 3");
    assert_eq!(refused(Cell::Lstm, projection(0), |_| {}), "projection is 0, expected at least 1");
    let problem = Problem::random(layer(Cell::Lstm, projection(2), 2, 3), Batch::full(1, 1), 1);
    let refusal = Stepper::new(&[(problem.layer, problem.weights())], 1).err().unwrap();
    assert_eq!(refusal.to_string(), "a layer that projects cannot run step by step");
}

/// bfloat16 is not for these cells: they multiply floats, as the documentation says.
#[test]
fn pairs_of_bfloat16_are_floats_here() {
    let _turn = settings();
    for cell in CELLS {
        let options = CellOptions { norm: true, ..CellOptions::PLAIN };
        let mut problem = Problem::random(layer(cell, options, 4, 12), Batch::full(2, 5), 3);
        let floats = problem.fused(&mut Tape::default());
        problem.layer.precision = Precision::Bf16;
        assert!(floats == problem.fused(&mut Tape::default()), "{cell:?}");
    }
}
