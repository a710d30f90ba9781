//! The fused kernels against the reference, at every level this machine has, for every number of threads.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::*;
use common::{
    CELLS, Numbers, Problem, cells_with_options, close, compare, everywhere, projections, settings, wide,
};

fn layers(hidden: usize, input: usize) -> impl Iterator<Item = Layer> {
    CELLS.into_iter().flat_map(move |cell| {
        [Direction::Forward, Direction::Reverse].map(|direction| Layer {
            cell,
            direction,
            input,
            hidden,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        })
    })
}

/// Some lengths up to `time`, one of them zero where there is room.
fn lengths(sequences: usize, time: usize, numbers: &mut Numbers) -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..sequences).map(|_| numbers.integer(time + 1)).collect();
    lengths[sequences / 2] = if sequences > 1 { 0 } else { time - 1 };
    lengths[0] = time;
    lengths
}

#[test]
fn agrees_with_the_reference() {
    let mut expected = Vec::new();
    let mut numbers = Numbers::new(1);
    for hidden in [1, 7, 8, 9, 33, 64, 100] {
        for sequences in [1, 2, 5, 32] {
            let time = if hidden >= 64 && sequences == 32 { 4 } else { 7 };
            for layer in layers(hidden, 1 + (hidden + sequences) % 19) {
                for batch in [
                    Batch::full(sequences, time),
                    Batch::ragged(&lengths(sequences, time, &mut numbers), time).unwrap(),
                ] {
                    let problem = Problem::random(layer, batch, hidden as u64 * 100 + sequences as u64);
                    expected.push((problem.reference(), problem));
                }
            }
        }
    }
    println!("{} problems", expected.len());
    let mut bits: Vec<Option<_>> = Vec::new();
    let mut tape = Tape::default();
    everywhere(|level, threads| {
        if threads == 1 {
            bits = vec![None; expected.len()];
        }
        for ((expected, problem), first) in expected.iter().zip(&mut bits) {
            let mut problem = problem.clone();
            problem.poison(f32::NAN);
            let found = problem.fused(&mut tape);
            let Layer { cell, hidden, .. } = problem.layer;
            let what =
                format!("{level:?} {threads} threads {cell:?} H {hidden} {:?}", problem.batch.lengths());
            let (y, last, _) = &found;
            assert!(problem.infer() == (y.clone(), last.clone()), "{what}: bits without a tape differ");
            match first {
                None => {
                    compare(&what, &found, expected, 2e-5);
                    *first = Some(found);
                }
                Some(first) => assert!(*first == found, "{what}: bits differ from one thread's"),
            }
        }
    });
}

#[test]
fn weights_packed_before_give_the_same_bits() {
    let plain = CELLS.map(|cell| (cell, CellOptions::PLAIN));
    let projected = projections(21).into_iter().map(|options| (Cell::Lstm, options));
    let cells = plain.into_iter().chain(cells_with_options()).chain(projected).map(|cell| (cell, 21));
    // Large weights are split otherwise.
    let cells: Vec<_> = cells.chain(plain.map(|cell| (cell, 200))).collect();
    everywhere(|level, threads| {
        for &((cell, options), hidden) in &cells {
            for precision in [Precision::F32, Precision::Bf16] {
                let layer = Layer {
                    cell,
                    direction: Direction::Reverse,
                    input: 7,
                    hidden,
                    precision,
                    zoneout: Zoneout { hidden: 0.2, cell: if cell.has_cell_state() { 0.1 } else { 0.0 } },
                    options,
                };
                let what = format!("{level:?} {threads} threads {layer:?}");
                let batch = Batch::ragged(&[2, 5, 0, 3], 5).unwrap();
                let mut problem = Problem::random(layer, batch, 5);
                let expected = problem.infer();
                // In memory that held others before.
                let mut others = problem.clone();
                others.weights.recurrent.fill(9.0);
                let mut packed = PackedWeights::new(&layer, others.weights()).unwrap();
                packed.repack(&layer, problem.weights()).unwrap();
                assert!(packed.serves(&layer, &problem.weights.options), "{what}");
                assert!(!packed.serves(&Layer { input: 8, ..layer }, &problem.weights.options), "{what}");
                // They are a copy: what becomes of the weights is none of their business.
                problem.poison(f32::NAN);
                problem.weights.input.fill(f32::NAN);
                problem.weights.recurrent.fill(f32::NAN);
                problem.weights.options.fill(f32::NAN);
                for _ in 0..2 {
                    assert!(problem.infer_packed(&packed) == expected, "{what}");
                }
                if !problem.weights.options.is_empty() {
                    assert!(!packed.serves(&layer, &problem.weights.options), "{what}");
                }
            }
        }
    });
}

#[test]
fn weights_packed_at_another_level_are_refused() {
    let _turn = settings();
    let layer = layers(4, 3).last().unwrap();
    let problem = Problem::random(layer, Batch::full(2, 3), 6);
    let before = Level::current();
    assert!(Level::Scalar.force());
    let packed = PackedWeights::new(&layer, problem.weights()).unwrap();
    for &level in Level::available() {
        assert!(level.force());
        let x = Frames { data: &problem.x, layout: Layout::Padded, stride: 3, offset: 0 };
        let mut y = vec![0.0; 2 * 3 * 4];
        let y = FramesMut { data: &mut y, layout: Layout::Padded, stride: 4, offset: 0 };
        let done = forward_packed(&packed, &problem.batch, x, State::default(), y, StateMut::default());
        assert_eq!(done.is_ok(), level == Level::Scalar, "{level:?}: {done:?}");
        assert_eq!(packed.serves(&layer, &[]), level == Level::Scalar);
    }
    assert!(before.force());
}

#[test]
fn large_weights_are_split_by_units_and_give_the_same_bits() {
    // In the second one products are taken by pieces of their depth.
    for (cell, (input, hidden)) in
        CELLS.into_iter().flat_map(|cell| [(40, 200), (1030, 270)].map(|sizes| (cell, sizes)))
    {
        let layer = Layer {
            cell,
            direction: Direction::Forward,
            input,
            hidden,
            precision: Precision::F32,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let problem = Problem::random(layer, Batch::ragged(&[9, 3, 0, 11, 8], 11).unwrap(), 4);
        let expected = problem.reference();
        let mut first = None;
        everywhere(|level, threads| {
            let found = problem.fused(&mut Tape::default());
            if threads == 1 {
                compare(&format!("{level:?} {cell:?} I {input}"), &found, &expected, 2e-5);
                first = Some(found);
            } else {
                assert!(first.as_ref() == Some(&found), "{level:?} {cell:?} I {input} {threads} threads");
            }
        });
    }
}

#[test]
fn both_directions_share_one_output_and_add_their_input_gradients() {
    let _turn = settings();
    let (input, hidden) = (5, 9);
    let batch = Batch::ragged(&[3, 6, 0], 6).unwrap();
    let layer = |direction| Layer {
        cell: Cell::Lstm,
        direction,
        input,
        hidden,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let mut tape = Tape::default();
    let mut y = vec![f32::NAN; 3 * 6 * 2 * hidden];
    let mut dx = vec![f32::NAN; 3 * 6 * input];
    let mut apart = Vec::new();
    for (k, direction) in [Direction::Forward, Direction::Reverse].into_iter().enumerate() {
        let layer = layer(direction);
        let mut problem = Problem::random(layer, batch.clone(), 9);
        problem.weights.input.iter_mut().for_each(|w| *w += k as f32);
        let x = Frames { data: &problem.x, layout: Layout::Padded, stride: input, offset: 0 };
        let (w, u, b) = layer.weight_lengths();
        let (mut dw, mut du, mut db, mut dc) = (vec![0.0; w], vec![0.0; u], vec![0.0; b], vec![0.0; b]);
        let place =
            FramesMut { data: &mut y, layout: Layout::Padded, stride: 2 * hidden, offset: k * hidden };
        let none = StateMut::default;
        let zero = State::default();
        forward(&layer, &batch, problem.weights(), x, zero, place, none(), Some(&mut tape)).unwrap();
        let dy = Frames { data: &problem.dy, layout: Layout::Padded, stride: hidden, offset: 0 };
        let to = FramesMut { data: &mut dx, layout: Layout::Padded, stride: input, offset: 0 };
        let to = if k == 0 { InputGradients::Write(to) } else { InputGradients::Add(to) };
        let gradients = WeightGradients {
            input: &mut dw,
            recurrent: &mut du,
            bias_input: &mut db,
            bias_recurrent: &mut dc,
            options: &mut [],
        };
        backward(&layer, &batch, problem.weights(), &mut tape, x, Some(dy), zero, to, none(), gradients)
            .unwrap();
        problem.initial.h.fill(0.0);
        problem.initial.c.fill(0.0);
        problem.dlast.h.fill(0.0);
        problem.dlast.c.fill(0.0);
        apart.push(problem.reference());
    }
    for row in 0..3 * 6 {
        for (k, half) in y[row * 2 * hidden..][..2 * hidden].chunks(hidden).enumerate() {
            common::close("y", half, &apart[k].0[row * hidden..][..hidden], 1e-5);
        }
    }
    let sum: Vec<f64> = apart[0].2.x.iter().zip(&apart[1].2.x).map(|(a, b)| a + b).collect();
    common::close("dx", &dx, &sum, 1e-5);
}

#[test]
fn a_packed_layout_holds_the_same_frames() {
    let _turn = settings();
    let layer = Layer {
        cell: Cell::Gru(Reset::After),
        direction: Direction::Reverse,
        input: 3,
        hidden: 10,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let batch = Batch::ragged(&[2, 5, 0, 5], 5).unwrap();
    let problem = Problem::random(layer, batch.clone(), 2);
    let (padded, _, _) = problem.fused(&mut Tape::default());
    let rows: Vec<usize> = batch.places().map(|(b, t)| b * batch.time() + t).collect();
    assert_eq!(rows.len(), batch.frames());
    let x: Vec<f32> = rows.iter().flat_map(|r| &problem.x[r * 3..][..3]).copied().collect();
    let mut y = vec![f32::NAN; batch.frames() * 10];
    let frames = Frames { data: &x, layout: Layout::Packed, stride: 3, offset: 0 };
    let out = FramesMut { data: &mut y, layout: Layout::Packed, stride: 10, offset: 0 };
    let initial = State { h: Some(&problem.initial.h), c: None };
    forward(&layer, &batch, problem.weights(), frames, initial, out, StateMut::default(), None).unwrap();
    for (packed, row) in y.chunks(10).zip(rows) {
        assert_eq!(packed, &padded[row * 10..][..10]);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let layer = Layer {
        cell: Cell::Gru(Reset::After),
        direction: Direction::Forward,
        input: 2,
        hidden: 3,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let batch = Batch::full(2, 4);
    let problem = Problem::random(layer, batch.clone(), 1);
    let check = |change: &dyn Fn(&mut Problem) -> Option<Layer>, c: Option<&[f32]>, expected: &str| {
        let mut problem = problem.clone();
        let layer = change(&mut problem).unwrap_or(layer);
        let mut y = vec![0.0; problem.dy.len()];
        let error = forward(
            &layer,
            &batch,
            problem.weights(),
            Frames { data: &problem.x, layout: Layout::Padded, stride: 2, offset: 0 },
            State { h: Some(&problem.initial.h), c },
            FramesMut { data: &mut y, layout: Layout::Padded, stride: 3, offset: 0 },
            StateMut::default(),
            None,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let short = |list: &mut Vec<f32>| {
        list.pop();
        None
    };
    check(&|p| short(&mut p.x), None, "input has 15 elements, expected 16");
    check(&|p| short(&mut p.dy), None, "output has 23 elements, expected 24");
    check(&|p| short(&mut p.initial.h), None, "initial h has 5 elements, expected 6");
    check(&|p| short(&mut p.weights.input), None, "input weight has 17 elements, expected 18");
    check(&|p| short(&mut p.weights.bias_recurrent), None, "recurrent bias has 8 elements, expected 9");
    check(&|_| Some(Layer { hidden: 0, ..layer }), None, "hidden size is 0, expected at least 1");
    check(&|_| None, Some(&[0.0; 6]), "a cell state was given, but only an LSTM has one");
    assert_eq!(
        Batch::ragged(&[1, 9], 8).unwrap_err().to_string(),
        "sequence 1 has 9 steps, but the batch has room for 8"
    );
}

#[test]
fn sizes_that_wrap_around_are_refused() {
    let layer = Layer {
        cell: Cell::Rnn(Activation::Tanh),
        direction: Direction::Forward,
        input: 1,
        hidden: 1,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let batch = Batch::full(1, 1);
    let weights = Weights {
        input: &[1.0],
        recurrent: &[1.0],
        bias_input: &[0.0],
        bias_recurrent: &[0.0],
        options: &[],
    };
    let check = |offset| {
        let mut y = [0.0];
        let x = Frames { data: &[1.0], layout: Layout::Packed, stride: 1, offset: 0 };
        let y = FramesMut { data: &mut y, layout: Layout::Packed, stride: 1, offset };
        let error =
            forward(&layer, &batch, weights, x, State::default(), y, StateMut::default(), None).unwrap_err();
        assert_eq!(error.to_string(), "a row's part from the offset on has 0 elements, expected 1");
    };
    check(usize::MAX);
    check(1);
    let error = Batch::ragged(&[3, 1, 1], usize::MAX / 2).unwrap_err();
    assert_eq!(error.to_string(), "the padded batch is too large for any memory");
    let wide = Layer { input: usize::MAX / 2, hidden: 4, ..layer };
    let error = Stepper::new(&[(wide, weights)], 1).err().unwrap();
    assert_eq!(error.to_string(), "the size of the weights is too large for any memory");
}

#[test]
fn nothing_at_all_is_a_batch_too() {
    let _turn = settings();
    for cell in CELLS {
        for batch in [
            Batch::full(0, 5),
            Batch::ragged(&[], 5).unwrap(),
            Batch::full(3, 0),
            Batch::ragged(&[0, 0], 4).unwrap(),
        ] {
            let layer = Layer {
                cell,
                direction: Direction::Forward,
                input: 3,
                hidden: 4,
                precision: Precision::F32,
                zoneout: Zoneout::NONE,
                options: CellOptions::PLAIN,
            };
            let problem = Problem::random(layer, batch, 6);
            compare("empty", &problem.fused(&mut Tape::default()), &problem.reference(), 1e-6);
        }
    }
}

#[test]
fn a_tape_serves_one_backward_pass() {
    let _turn = settings();
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Forward,
        input: 2,
        hidden: 3,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let problem = Problem::random(layer, Batch::full(2, 4), 1);
    let mut tape = Tape::default();
    assert!(!tape.is_full());
    problem.fused(&mut tape);
    assert!(!tape.is_full(), "backward uses the tape up");
    let (w, u, b) = layer.weight_lengths();
    let (mut w, mut u, mut b, mut c) = (vec![0.0; w], vec![0.0; u], vec![0.0; b], vec![0.0; b]);
    let x = Frames { data: &problem.x, layout: Layout::Padded, stride: 2, offset: 0 };
    let gradients = WeightGradients {
        input: &mut w,
        recurrent: &mut u,
        bias_input: &mut b,
        bias_recurrent: &mut c,
        options: &mut [],
    };
    let again = backward(
        &layer,
        &problem.batch,
        problem.weights(),
        &mut tape,
        x,
        None,
        State::default(),
        InputGradients::None,
        StateMut::default(),
        gradients,
    );
    assert_eq!(again, Err(ShapeError::Tape));
}

/// A layer over rows that frames share gives what it gives over the rows' copies, and the gradient of a row is
/// the sum over its frames.
#[test]
fn frames_that_share_input_rows_agree_with_copies() {
    let mut numbers = Numbers::new(5);
    // Fewer rows than frames, and more.
    // In the last one products are taken by pieces of their depth.
    for (rows, hidden, input) in [(1, 9, 3), (5, 33, 20), (5, 64, 7), (70, 16, 5), (5, 270, 1030)] {
        for cell in CELLS {
            for direction in [Direction::Forward, Direction::Reverse] {
                let layer = Layer {
                    cell,
                    direction,
                    input,
                    hidden,
                    precision: Precision::F32,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                };
                let batch = Batch::ragged(&[9, 3, 0, 11, 8], 11).unwrap();
                let mut problem = Problem::random(layer, batch.clone(), hidden as u64);
                let table = numbers.floats(rows * input, 1.0);
                let index: Vec<u32> = (0..batch.frames()).map(|_| numbers.integer(rows) as u32).collect();
                problem.poison(0.0);
                for (&row, (sequence, time)) in index.iter().zip(batch.places()) {
                    let at = (sequence * batch.time() + time) * input;
                    problem.x[at..at + input].copy_from_slice(&table[row as usize * input..][..input]);
                }
                let (ey, elast, mut ed) = problem.reference();
                let mut dx = vec![0.0; rows * input];
                for (&row, (sequence, time)) in index.iter().zip(batch.places()) {
                    let at = (sequence * batch.time() + time) * input;
                    for (sum, d) in dx[row as usize * input..][..input].iter_mut().zip(&ed.x[at..]) {
                        *sum += d;
                    }
                }
                ed.x = dx;
                let expected = (ey, elast, ed);
                let mut first = None;
                everywhere(|level, threads| {
                    let found =
                        problem.fused_on(Inputs::Rows { data: &table, index: &index }, &mut Tape::default());
                    let what = format!("{level:?} {threads} threads {layer:?} {rows} rows");
                    if threads == 1 {
                        compare(&what, &found, &expected, 2e-5);
                        first = Some(found);
                    } else {
                        assert!(first.as_ref() == Some(&found), "{what}: bits differ from one thread's");
                    }
                });
            }
        }
    }
}

#[test]
fn an_index_past_the_input_rows_is_refused() {
    let layer = Layer {
        cell: Cell::Lstm,
        direction: Direction::Forward,
        input: 2,
        hidden: 3,
        precision: Precision::F32,
        zoneout: Zoneout::NONE,
        options: CellOptions::PLAIN,
    };
    let problem = Problem::random(layer, Batch::full(1, 2), 1);
    let data = [0.0; 4];
    let run = |index: &[u32]| {
        forward(
            &layer,
            &problem.batch,
            problem.weights(),
            Inputs::Rows { data: &data, index },
            State::default(),
            FramesMut { data: &mut [0.0; 6], layout: Layout::Padded, stride: 3, offset: 0 },
            StateMut::default(),
            None,
        )
    };
    assert_eq!(run(&[0, 1]), Ok(()));
    assert_eq!(run(&[0, 2]), Err(ShapeError::Index { what: "a frame's input row", found: 2, limit: 2 }));
    let short = ShapeError::Elements { what: "index of the input rows", found: 1, expected: 2 };
    assert_eq!(run(&[0]), Err(short));
}

/// Products of bfloat16 pairs lose about three digits each; everything else is as it was.
#[test]
fn bfloat16_products_stay_near_the_reference() {
    if !Precision::Bf16.is_available() {
        println!("not checked: this processor has no bfloat16 products");
        return;
    }
    // Not ReLU: where rounding moves a unit across its kink, the gradient is another one.
    let cells = [Cell::Rnn(Activation::Tanh), Cell::Lstm, Cell::Gru(Reset::After)];
    for cell in cells {
        for (hidden, input) in [(7, 4), (33, 20), (64, 7), (100, 65)] {
            for direction in [Direction::Forward, Direction::Reverse] {
                let layer = Layer {
                    cell,
                    direction,
                    input,
                    hidden,
                    precision: Precision::Bf16,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                };
                let batch = Batch::ragged(&[9, 3, 0, 11, 8], 11).unwrap();
                let mut problem = Problem::random(layer, batch, hidden as u64);
                problem.poison(f32::NAN);
                let mut plain = problem.clone();
                plain.layer.precision = Precision::F32;
                let mut clean = problem.clone();
                clean.poison(0.0);
                let expected = clean.reference();
                let mut first = None;
                let _turn = settings();
                assert!(Level::Avx512.force());
                for threads in [1, 2, 3, 8] {
                    set_threads(threads);
                    let found = problem.fused(&mut Tape::default());
                    let what = format!("{threads} threads {layer:?}");
                    let (y, last, _) = &found;
                    assert!(problem.infer() == (y.clone(), last.clone()), "{what}: bits without a tape");
                    if threads == 1 {
                        compare(&what, &found, &expected, 5e-2);
                        assert_ne!(
                            found.0,
                            plain.fused(&mut Tape::default()).0,
                            "{what}: precision has no effect"
                        );
                        first = Some(found);
                    } else {
                        assert!(first.as_ref() == Some(&found), "{what}: bits differ from one thread's");
                    }
                }
            }
        }
    }
}

/// Frames that share rows, and a GRU that has no kernel over pairs.
#[test]
fn bfloat16_serves_shared_rows_and_leaves_the_older_gru_alone() {
    let _turn = settings();
    let mut numbers = Numbers::new(6);
    for cell in CELLS {
        let layer = Layer {
            cell,
            direction: Direction::Reverse,
            input: 20,
            hidden: 40,
            precision: Precision::Bf16,
            zoneout: Zoneout::NONE,
            options: CellOptions::PLAIN,
        };
        let batch = Batch::ragged(&[9, 3, 0, 11, 8], 11).unwrap();
        let problem = Problem::random(layer, batch.clone(), 3);
        let table = numbers.floats(5 * 20, 1.0);
        let index: Vec<u32> = (0..batch.frames()).map(|_| numbers.integer(5) as u32).collect();
        let mut plain = problem.clone();
        plain.layer.precision = Precision::F32;
        let inputs = Inputs::Rows { data: &table, index: &index };
        let found = problem.fused_on(inputs, &mut Tape::default());
        let expected = plain.fused_on(inputs, &mut Tape::default());
        if cell == Cell::Gru(Reset::Before) {
            assert!(found == expected);
            continue;
        }
        for (what, found, expected) in [
            ("y", &found.0, &expected.0),
            ("dx", &found.2.x, &expected.2.x),
            ("d input weight", &found.2.weights.input, &expected.2.weights.input),
        ] {
            close(&format!("{cell:?} {what}"), found, &wide(expected), 3e-2);
        }
    }
}
