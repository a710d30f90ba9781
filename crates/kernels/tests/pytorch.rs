//! Agreement with PyTorch: outputs, final states and every gradient, on the fixtures in `tests/fixtures`,
//! at every instruction level this machine has, with one thread and with two.

#[path = "common/fixtures.rs"]
mod fixtures;

use std::sync::{Mutex, PoisonError};

use carousel_kernels::optim::{Clip, Decay};
use carousel_kernels::{
    Activation, Batch, Cell, CellOptions, Direction, Frames, FramesMut, InputGradients, Layer, Layout, Level,
    Precision, Reset, State, StateMut, Tape, WeightGradients, Weights, Zoneout, backward, embedding, forward,
    loss, optim, reference, set_threads,
};
use fixtures::{DOUBLE, Fixture, SINGLE, close};

/// Runs `check` on every fixture of a kind in every setting, and reports all disagreements at once.
fn check(kind: &str, check: impl Fn(&Fixture) -> Vec<Result<(), String>>) {
    // Level and thread count belong to the process, and tests run side by side.
    static SETTING: Mutex<()> = Mutex::new(());
    let _alone = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
    let cases = fixtures::load(kind);
    let before = Level::current();
    let mut failures = Vec::new();
    for &level in Level::available() {
        assert!(level.force(), "{level:?} is available");
        for threads in [1, 2] {
            set_threads(threads);
            println!("{kind}: {} fixtures at level {level:?}, {threads} threads", cases.len());
            for case in &cases {
                let wrong = check(case).into_iter().filter_map(Result::err);
                failures.extend(wrong.map(|why| format!("{level:?}, {threads} threads: {why}")));
            }
        }
    }
    assert!(before.force(), "{before:?} is available");
    assert!(failures.is_empty(), "{} disagreements:\n{}", failures.len(), failures.join("\n"));
}

/// The parameters of one layer and direction.
struct Parameters {
    input: Vec<f32>,
    recurrent: Vec<f32>,
    bias_input: Vec<f32>,
    bias_recurrent: Vec<f32>,
}

impl Parameters {
    const NAMES: [&str; 4] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];

    fn read(case: &Fixture, end: &str) -> Parameters {
        let [input, recurrent, bias_input, bias_recurrent] =
            Self::NAMES.map(|name| case.f32s(&format!("{name}{end}")));
        Parameters { input, recurrent, bias_input, bias_recurrent }
    }

    /// Of the same sizes, full of NaN: whatever is not written shows.
    fn unwritten(&self) -> Parameters {
        let nan = |like: &Vec<f32>| vec![f32::NAN; like.len()];
        Parameters {
            input: nan(&self.input),
            recurrent: nan(&self.recurrent),
            bias_input: nan(&self.bias_input),
            bias_recurrent: nan(&self.bias_recurrent),
        }
    }

    fn weights(&self) -> Weights<'_> {
        Weights {
            input: &self.input,
            recurrent: &self.recurrent,
            bias_input: &self.bias_input,
            bias_recurrent: &self.bias_recurrent,
            options: &[],
        }
    }

    fn gradients(&mut self) -> WeightGradients<'_> {
        WeightGradients {
            input: &mut self.input,
            recurrent: &mut self.recurrent,
            bias_input: &mut self.bias_input,
            bias_recurrent: &mut self.bias_recurrent,
            options: &mut [],
        }
    }
}

fn cell(name: &str) -> Cell {
    match name {
        "rnn-tanh" => Cell::Rnn(Activation::Tanh),
        "rnn-relu" => Cell::Rnn(Activation::Relu),
        "lstm" => Cell::Lstm,
        "gru-after" => Cell::Gru(Reset::After),
        "gru-before" => Cell::Gru(Reset::Before),
        _ => panic!("unknown cell {name}"),
    }
}

/// From a fixture's padded rows to the rows of a layout.
fn lay_out(batch: &Batch, layout: Layout, padded: Vec<f32>, width: usize) -> Vec<f32> {
    match layout {
        Layout::Padded => padded,
        Layout::Packed => batch
            .places()
            .flat_map(|(sequence, t)| &padded[(sequence * batch.time() + t) * width..][..width])
            .copied()
            .collect(),
    }
}

/// And back, padding 0.
fn to_padded(batch: &Batch, layout: Layout, rows: Vec<f32>, width: usize) -> Vec<f32> {
    if layout == Layout::Padded {
        return rows;
    }
    let mut padded = vec![0.0; batch.rows(Layout::Padded) * width];
    for ((sequence, t), row) in batch.places().zip(rows.chunks_exact(width)) {
        padded[(sequence * batch.time() + t) * width..][..width].copy_from_slice(row);
    }
    padded
}

/// Stacks layers and directions of the kernels as `nn.LSTM` does, forward and backward.
fn recurrent(case: &Fixture, layout: Layout) -> Vec<Result<(), String>> {
    let cell = cell(case.text("cell"));
    let hidden = case.size("hidden");
    let lengths = case.sizes("lengths");
    let batch = Batch::ragged(&lengths, case.size("time")).expect("the lengths fit the buffer");
    let directions: &[Direction] = match case.text("direction") {
        "forward" => &[Direction::Forward],
        "both" => &[Direction::Forward, Direction::Reverse],
        other => panic!("unknown direction {other}"),
    };
    let stack: Vec<(Layer, usize, Parameters)> = (0..case.size("layers"))
        .flat_map(|level| directions.iter().enumerate().map(move |(d, &direction)| (level, d, direction)))
        .map(|(level, d, direction)| {
            let input = if level == 0 { case.size("input") } else { directions.len() * hidden };
            let end = format!("_l{level}{}", if direction == Direction::Reverse { "_reverse" } else { "" });
            (
                Layer {
                    cell,
                    direction,
                    input,
                    hidden,
                    precision: Precision::F32,
                    zoneout: Zoneout::NONE,
                    options: CellOptions::PLAIN,
                },
                d * hidden,
                Parameters::read(case, &end),
            )
        })
        .collect();

    let width = directions.len() * hidden;
    let states = lengths.len() * hidden;
    let rows = batch.rows(layout);
    let read = |name: &str| if case.has(name) { case.f32s(name) } else { Vec::new() };
    let (h0, c0, dhn, dcn) = (read("h0"), read("c0"), read("dhn"), read("dcn"));
    let unwritten = |like: &Vec<f32>| vec![f32::NAN; like.len()];
    let (mut hn, mut cn) = (unwritten(&h0), unwritten(&c0));
    let (mut dh0, mut dc0) = (unwritten(&h0), unwritten(&c0));
    let part =
        |all: &'_ [f32], index: usize| all.get(index * states..(index + 1) * states).map(<[f32]>::to_vec);

    // What each level of the stack reads; the last is the output.
    let mut values = vec![lay_out(&batch, layout, case.f32s("x"), case.size("input"))];
    let mut tapes: Vec<Tape> = stack.iter().map(|_| Tape::default()).collect();
    for (level, members) in stack.chunks(directions.len()).enumerate() {
        let mut y = vec![f32::NAN; rows * width];
        for (d, (layer, offset, parameters)) in members.iter().enumerate() {
            let index = level * directions.len() + d;
            let (h, c) = (part(&h0, index), part(&c0, index));
            let span = index * states..(index + 1) * states;
            forward(
                layer,
                &batch,
                parameters.weights(),
                Frames { data: &values[level], layout, stride: layer.input, offset: 0 },
                State { h: h.as_deref(), c: c.as_deref() },
                FramesMut { data: &mut y, layout, stride: width, offset: *offset },
                StateMut { h: hn.get_mut(span.clone()), c: cn.get_mut(span) },
                Some(&mut tapes[index]),
            )
            .expect("all sizes fit");
        }
        values.push(y);
    }

    let mut dy = lay_out(&batch, layout, case.f32s("dy"), width);
    let mut found = Vec::new();
    for (level, members) in stack.chunks(directions.len()).enumerate().rev() {
        let mut dx = vec![f32::NAN; rows * members[0].0.input];
        for (d, (layer, offset, parameters)) in members.iter().enumerate() {
            let index = level * directions.len() + d;
            let (dh, dc) = (part(&dhn, index), part(&dcn, index));
            let span = index * states..(index + 1) * states;
            let mut gradients = parameters.unwritten();
            let into = FramesMut { data: &mut dx, layout, stride: layer.input, offset: 0 };
            backward(
                layer,
                &batch,
                parameters.weights(),
                &mut tapes[index],
                Frames { data: &values[level], layout, stride: layer.input, offset: 0 },
                Some(Frames { data: &dy, layout, stride: width, offset: *offset }),
                State { h: dh.as_deref(), c: dc.as_deref() },
                if d == 0 { InputGradients::Write(into) } else { InputGradients::Add(into) },
                StateMut { h: dh0.get_mut(span.clone()), c: dc0.get_mut(span) },
                gradients.gradients(),
            )
            .expect("all sizes fit");
            let end =
                format!("_l{level}{}", if layer.direction == Direction::Reverse { "_reverse" } else { "" });
            let Parameters { input, recurrent, bias_input, bias_recurrent } = gradients;
            for (name, values) in Parameters::NAMES.iter().zip([input, recurrent, bias_input, bias_recurrent])
            {
                found.push((format!("d{name}{end}"), values));
            }
        }
        dy = dx;
    }

    let y = values.pop().expect("a stack has at least one level");
    found.push(("y".into(), to_padded(&batch, layout, y, width)));
    found.push(("dx".into(), to_padded(&batch, layout, dy, case.size("input"))));
    found.push(("hn".into(), hn));
    found.push(("dh0".into(), dh0));
    if cell.has_cell_state() {
        found.push(("cn".into(), cn));
        found.push(("dc0".into(), dc0));
    }
    found
        .iter()
        .map(|(name, values)| case.agrees(name, values, SINGLE).map_err(|why| format!("{layout:?}: {why}")))
        .collect()
}

#[test]
fn recurrent_layers() {
    check("recurrent", |case| {
        [Layout::Padded, Layout::Packed].into_iter().flat_map(|layout| recurrent(case, layout)).collect()
    });
}

/// The reference has no stack, so one layer (both directions of it) stands for all.
#[test]
fn the_reference_in_f64() {
    let mut cases = fixtures::load("recurrent");
    cases.retain(|case| case.text("layers") == "1");
    let mut results = Vec::new();
    for case in &cases {
        let cell = cell(case.text("cell"));
        let (input, hidden) = (case.size("input"), case.size("hidden"));
        let batch =
            Batch::ragged(&case.sizes("lengths"), case.size("time")).expect("the lengths fit the buffer");
        let states = batch.sequences() * hidden;
        let mut dx = vec![0.0; case.f64s("x").len()];
        for (d, direction) in [Direction::Forward, Direction::Reverse].into_iter().enumerate() {
            let end = ["_l0", "_l0_reverse"][d];
            if !case.has(&format!("weight_ih{end}")) {
                continue;
            }
            let layer = Layer {
                cell,
                direction,
                input,
                hidden,
                precision: Precision::F32,
                zoneout: Zoneout::NONE,
                options: CellOptions::PLAIN,
            };
            let width = case.tensor("y").shape[2];
            let read = |name: &str| case.f64s(&format!("{name}{end}")).to_vec();
            let weights = reference::Weights {
                input: read("weight_ih"),
                recurrent: read("weight_hh"),
                bias_input: read("bias_ih"),
                bias_recurrent: read("bias_hh"),
                options: Vec::new(),
            };
            let state = |name: &str| {
                if case.has(name) {
                    case.f64s(name)[d * states..][..states].to_vec()
                } else {
                    vec![0.0; states]
                }
            };
            let half = |name: &str| -> Vec<f64> {
                case.f64s(name)
                    .chunks_exact(width)
                    .flat_map(|row| &row[d * hidden..][..hidden])
                    .copied()
                    .collect()
            };
            let initial = reference::State { h: state("h0"), c: state("c0") };
            let dlast = reference::State { h: state("dhn"), c: state("dcn") };
            let x = case.f64s("x");
            let (y, last) = reference::forward(&layer, &batch, &weights, x, &initial, None);
            let gradients =
                reference::backward(&layer, &batch, &weights, x, &initial, &half("dy"), &dlast, None);
            dx.iter_mut().zip(&gradients.x).for_each(|(sum, part)| *sum += part);
            let mut agrees = |what: &str, found: &[f64], expected: &[f64]| {
                let result = close(found, expected, DOUBLE);
                results.push(result.map_err(|why| format!("{}: {what}{end}: {why}", case.name)));
            };
            agrees("y", &y, &half("y"));
            agrees("hn", &last.h, &state("hn"));
            agrees("dh0", &gradients.initial.h, &state("dh0"));
            if cell.has_cell_state() {
                agrees("cn", &last.c, &state("cn"));
                agrees("dc0", &gradients.initial.c, &state("dc0"));
            }
            let reference::Weights { input, recurrent, bias_input, bias_recurrent, .. } = gradients.weights;
            for (name, found) in Parameters::NAMES.iter().zip([input, recurrent, bias_input, bias_recurrent])
            {
                agrees(name, &found, &read(&format!("d{name}")));
            }
        }
        results.push(case.agrees("dx", &dx, DOUBLE));
    }
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} disagreements:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_combination_has_a_fixture() {
    let names: Vec<String> = fixtures::load("recurrent").into_iter().map(|case| case.name).collect();
    for cell in ["rnn-tanh", "rnn-relu", "lstm", "gru-after", "gru-before"] {
        for layers in [1, 2] {
            for direction in ["forward", "both"] {
                for lengths in ["equal", "ragged"] {
                    let name = format!("{cell}-{layers}layer-{direction}-{lengths}-h7");
                    assert!(names.contains(&name), "{name} is missing");
                }
            }
        }
    }
}

#[test]
fn output_layer_with_cross_entropy() {
    check("cross-entropy", |case| {
        let (rows, hidden, vocabulary) = (case.size("rows"), case.size("hidden"), case.size("vocabulary"));
        let (x, weight, targets) = (case.f32s("x"), case.f32s("weight"), case.u32s("targets"));
        let bias = case.has("bias").then(|| case.f32s("bias"));
        let output = || loss::Output { weight: &weight, bias: bias.as_deref() };
        let guesses = case.f64s("logits").chunks_exact(vocabulary).map(|row| {
            let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            best.expect("a vocabulary has a token") as u32
        });
        let wanted = (
            targets.iter().filter(|&&target| target != loss::IGNORE).count(),
            guesses.zip(&targets).filter(|(guess, target)| guess == *target).count(),
        );

        let mut logits = vec![f32::NAN; rows * vocabulary];
        loss::logits(output(), hidden, &x, &mut logits).expect("all sizes fit");
        let measured = loss::cross_entropy(output(), hidden, &x, &targets).expect("all sizes fit");
        let mut dx = vec![f32::NAN; x.len()];
        let mut dweight = vec![f32::NAN; weight.len()];
        let mut dbias = bias.as_ref().map(|bias| vec![f32::NAN; bias.len()]);
        let gradients =
            loss::OutputGradients { x: &mut dx, weight: &mut dweight, bias: dbias.as_deref_mut() };
        let objective = loss::Objective { scale: case.number("scale"), smoothing: case.number("smoothing") };
        let trained = loss::cross_entropy_backward(output(), hidden, &x, &targets, objective, gradients)
            .expect("all sizes fit");

        let mut results = vec![
            case.agrees("logits", &logits, SINGLE),
            case.agrees("dx", &dx, SINGLE),
            case.agrees("dweight", &dweight, SINGLE),
        ];
        results.extend(dbias.map(|dbias| case.agrees("dbias", &dbias, SINGLE)));
        for (name, loss::Loss { nats, count, correct }) in [("loss", measured), ("objective", trained)] {
            results.push(case.agrees(name, &[nats], SINGLE));
            let same = (count, correct) == wanted;
            let why = format!(
                "{}: {:?} targets counted and guessed, expected {wanted:?}",
                case.name,
                (count, correct)
            );
            results.push(same.then_some(()).ok_or(why));
        }
        results
    });
}

#[test]
fn embedding_with_its_gradient() {
    check("embedding", |case| {
        let (vocabulary, width) = (case.size("vocabulary"), case.size("width"));
        let ids = case.u32s("ids");
        let mut y = vec![f32::NAN; ids.len() * width];
        embedding::gather(&case.f32s("table"), width, &ids, &mut y).expect("all sizes fit");
        let mut dtable = vec![f32::NAN; vocabulary * width];
        embedding::scatter(width, &ids, &case.f32s("dy"), &mut dtable).expect("all sizes fit");
        vec![case.agrees("y", &y, SINGLE), case.agrees("dtable", &dtable, SINGLE)]
    });
}

#[test]
fn optimisers() {
    check("optim", |case| {
        let mut parameters = case.f32s("parameters");
        let size = parameters.len();
        let (learning_rate, clip) = (case.number("learning_rate"), Clip::by(case.number("gradient_scale")));
        let (mut first, mut second) = (vec![0.0; size], vec![0.0; size]);
        let gradients = case.f32s("gradients");
        let expected = case.f64s("trajectory").chunks_exact(size);
        (1u64..)
            .zip(gradients.chunks_exact(size).zip(expected))
            .map(|(step, (gradients, expected))| {
                let parameters = &mut parameters;
                match case.text("optimizer") {
                    name @ ("adam" | "adam-l2" | "adamw") => {
                        let adam = optim::Adam {
                            learning_rate,
                            beta1: case.number("beta1"),
                            beta2: case.number("beta2"),
                            epsilon: case.number("epsilon"),
                            weight_decay: case.number("weight_decay"),
                            decay: if name == "adamw" { Decay::Decoupled } else { Decay::Gradient },
                        };
                        adam.step(step, clip, parameters, gradients, &mut first, &mut second)
                    }
                    name @ ("sgd" | "momentum") => {
                        let (momentum, weight_decay) = (case.number("momentum"), case.number("weight_decay"));
                        let velocity = (name == "momentum").then_some(&mut first[..]);
                        let sgd = optim::Sgd { learning_rate, momentum, weight_decay };
                        sgd.step(clip, parameters, gradients, velocity)
                    }
                    "rmsprop" => {
                        let (alpha, epsilon) = (case.number("alpha"), case.number("epsilon"));
                        let weight_decay = case.number("weight_decay");
                        let rmsprop = optim::RmsProp { learning_rate, alpha, epsilon, weight_decay };
                        rmsprop.step(clip, parameters, gradients, &mut second)
                    }
                    other => panic!("unknown optimizer {other}"),
                }
                .expect("all sizes fit");
                close(parameters, expected, SINGLE)
                    .map_err(|why| format!("{}: step {step}: {why}", case.name))
            })
            .collect()
    });
}

#[test]
fn a_disagreement_is_seen() {
    assert!(close(&[1.0, 2.0], &[1.0, 2.00001], SINGLE).is_ok());
    for wrong in [&[1.0, 2.0001][..], &[1.0, f64::NAN], &[1.0], &[1.0, -2.0]] {
        assert!(close(wrong, &[1.0, 2.0], SINGLE).is_err(), "{wrong:?}");
    }
}
