//! What a tape and a stepper give away of the last pass: it obeys the cells' equations.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{CELLS, Problem, close, everywhere, wide};

const LENGTHS: [usize; 4] = [3, 0, 6, 5];
const HIDDEN: usize = 33;

/// All signals of a pass in padded rows, by name.
fn record(problem: &Problem, tape: &mut Tape) -> (Vec<f32>, Vec<(&'static str, Vec<f32>)>) {
    let Problem { layer, batch, .. } = problem;
    let mut y = vec![0.0; problem.dy.len()];
    let initial = State {
        h: Some(&problem.initial.h),
        c: layer.cell.has_cell_state().then_some(&problem.initial.c[..]),
    };
    let x = Frames { data: &problem.x, layout: Layout::Padded, stride: layer.input, offset: 0 };
    let to = FramesMut { data: &mut y, layout: Layout::Padded, stride: layer.hidden, offset: 0 };
    forward(layer, batch, problem.weights(), x, initial, to, StateMut::default(), Some(tape)).unwrap();
    let signals = layer.cell.signals().iter().map(|&(name, signal)| {
        let mut values = vec![f32::NAN; y.len()];
        tape.copy_signal(signal, Layout::Padded, &mut values).unwrap();
        (name, values)
    });
    let signals = signals.collect();
    (y, signals)
}

#[test]
fn signals_obey_the_cells_equations() {
    everywhere(|level, threads| {
        for cell in CELLS {
            for direction in [Direction::Forward, Direction::Reverse] {
                let layer = Layer {
                    cell,
                    direction,
                    input: 5,
                    hidden: HIDDEN,
                    precision: Precision::F32,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                };
                let problem = Problem::random(layer, Batch::ragged(&LENGTHS, 7).unwrap(), 3);
                let (y, signals) = record(&problem, &mut Tape::default());
                let of = |name: &str| &signals.iter().find(|(own, _)| *own == name).unwrap().1;
                let what = format!("{cell:?} {direction:?} {level:?} {threads} threads");
                assert_eq!(of("h"), &y, "{what}");
                let mut expected = Vec::new();
                let mut found = Vec::new();
                for (b, &length) in LENGTHS.iter().enumerate() {
                    for t in 0..length {
                        let before = match direction {
                            Direction::Forward => t.checked_sub(1),
                            Direction::Reverse => Some(t + 1).filter(|&t| t < length),
                        };
                        for u in 0..HIDDEN {
                            let at = (b * 7 + t) * HIDDEN + u;
                            let past = |values: &[f32], initial: &[f32]| {
                                before.map_or(initial[b * HIDDEN + u], |t| values[(b * 7 + t) * HIDDEN + u])
                            };
                            match cell {
                                Cell::Rnn(_) => {}
                                Cell::Lstm => {
                                    let c = of("f")[at] * past(of("c"), &problem.initial.c)
                                        + of("i")[at] * of("g")[at];
                                    found.extend([of("c")[at], of("h")[at]]);
                                    expected.extend([c, of("o")[at] * of("c")[at].tanh()]);
                                }
                                Cell::Gru(_) => {
                                    let z = of("z")[at];
                                    let h = (1.0 - z) * of("n")[at] + z * past(of("h"), &problem.initial.h);
                                    found.push(of("h")[at]);
                                    expected.push(h);
                                    assert!((0.0..=1.0).contains(&of("r")[at]));
                                }
                            }
                        }
                    }
                }
                close(&what, &found, &wide(&expected), 2e-6);
            }
        }
    });
}

#[test]
fn packed_rows_are_the_padded_ones_in_another_order() {
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Reverse,
        input: 5,
        hidden: HIDDEN,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let problem = Problem::random(layer, Batch::ragged(&LENGTHS, 7).unwrap(), 3);
    let mut tape = Tape::default();
    let (_, signals) = record(&problem, &mut tape);
    let mut packed = vec![f32::NAN; problem.batch.frames() * HIDDEN];
    tape.copy_signal(Signal::Gate(1), Layout::Packed, &mut packed).unwrap();
    let padded = &signals.iter().find(|(name, _)| *name == "f").unwrap().1;
    for ((b, t), row) in problem.batch.places().zip(packed.chunks_exact(HIDDEN)) {
        assert_eq!(row, &padded[(b * 7 + t) * HIDDEN..][..HIDDEN]);
    }
}

#[test]
fn the_stepper_tells_what_the_sequence_call_tells() {
    let (batch, time) = (3, 4);
    for cell in CELLS {
        let layer = Layer {
            cell,
            direction: Direction::Forward,
            input: 5,
            hidden: HIDDEN,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let mut problem = Problem::random(layer, Batch::full(batch, time), 8);
        problem.initial.h.fill(0.0);
        problem.initial.c.fill(0.0);
        let (_, signals) = record(&problem, &mut Tape::default());
        let mut stepper = Stepper::new(&[(layer, problem.weights())], batch).unwrap();
        for t in 0..time {
            let row = |b: usize| (b * time + t) * layer.input;
            let x: Vec<f32> = (0..batch).flat_map(|b| problem.x[row(b)..][..layer.input].to_vec()).collect();
            stepper.step(&x).unwrap();
            for (&(name, signal), (_, whole)) in cell.signals().iter().zip(&signals) {
                let mut found = vec![f32::NAN; batch * HIDDEN];
                stepper.copy_signal(0, signal, &mut found).unwrap();
                let expected: Vec<f32> =
                    (0..batch).flat_map(|b| whole[(b * time + t) * HIDDEN..][..HIDDEN].to_vec()).collect();
                close(&format!("{cell:?} {name} step {t}"), &found, &wide(&expected), 1e-5);
            }
        }
    }
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Forward,
        input: 5,
        hidden: HIDDEN,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let problem = Problem::random(layer, Batch::full(2, 3), 1);
    let mut tape = Tape::default();
    let mut room = vec![0.0; 2 * 3 * HIDDEN];
    let copy = |tape: &Tape, signal, room: &mut [f32]| tape.copy_signal(signal, Layout::Packed, room);
    assert_eq!(copy(&tape, Signal::Hidden, &mut room), Err(ShapeError::Tape));
    record(&problem, &mut tape);
    assert_eq!(copy(&tape, Signal::Hidden, &mut room), Ok(()));
    assert!(matches!(copy(&tape, Signal::Gate(4), &mut room), Err(ShapeError::State { .. })));
    assert!(matches!(copy(&tape, Signal::Cell, &mut room[1..]), Err(ShapeError::Elements { .. })));
    problem.fused(&mut tape);
    assert_eq!(copy(&tape, Signal::Hidden, &mut room), Err(ShapeError::Tape), "backward used it up");
}
