//! What drops out, what is added and what is shared: each changes the answer as it says, and its gradient is right.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use carousel::cell::{Activation, Cell, CellOptions, GateActivation, Reset};
use carousel::init::{FirstState, Init, Initializer};
use carousel::lens::{Flow, Text, follow_gradients};
use carousel::models::language_model::{LanguageModel, LanguageModelConfig, NoisyOutputs, Regularize};
use carousel::output::Output;
use carousel::parameters::NamedParameters;
use carousel::path::Path;
use carousel::ragged::{Batch, Ragged};
use carousel::record::Keep;
use carousel::recurrent::{Direction, Merge, NoisySequences, RecurrentConfig};
use carousel::regularize::{Dropout, Noise, activation_penalty};
use support::{CELLS, autodiff, close, random, values};

const HIDDEN: usize = 6;

/// The options of a language model that can be combined at will.
const OPTIONS: [&str; 21] = [
    "words",
    "input",
    "between",
    "output",
    "weights",
    "recurrent",
    "update",
    "zoneout",
    "zoneout of c",
    "locked",
    "smoothing",
    "residual",
    "tied",
    "activation",
    "temporal",
    "norm",
    "peephole",
    "hard gates",
    "elu",
    "projection",
    "learned state",
];

struct Case {
    model: LanguageModel,
    activation: f64,
    temporal: f64,
}

fn case(cell: Cell, options: &[&str], path: Path) -> Case {
    let on = |name: &str| options.contains(&name);
    let drop = |name: &str, p: f64| if on(name) { p } else { 0.0 };
    let projection = (on("projection") && cell == Cell::Lstm).then_some(4);
    let state = if on("learned state") { FirstState::Learned } else { FirstState::Zero };
    let config = LanguageModelConfig {
        cell: cell.into(),
        vocabulary: 7,
        // A tied embedding is as wide as what the output layer reads.
        embedding: projection.filter(|_| on("tied")).unwrap_or(HIDDEN),
        hidden: HIDDEN,
        layers: 2,
        init: Init { state, ..Init::default() },
        residual: on("residual"),
        tied: on("tied"),
        options: CellOptions {
            norm: on("norm"),
            peephole: on("peephole") && cell == Cell::Lstm,
            gate: match cell {
                Cell::Lstm | Cell::Gru(_) if on("hard gates") => GateActivation::HardSigmoid,
                _ => GateActivation::Sigmoid,
            },
            activation: match cell {
                Cell::Lstm | Cell::Gru(_) if on("elu") => Activation::Elu,
                _ => Activation::Tanh,
            },
            projection,
        },
        regularize: Regularize {
            words: drop("words", 0.3),
            input: drop("input", 0.3),
            recurrent: Dropout {
                between: drop("between", 0.4),
                locked: on("locked"),
                weights: drop("weights", 0.5),
                recurrent: drop("recurrent", 0.4),
                // What a cell has not cannot be asked of it.
                update: if matches!(cell, Cell::Rnn(_)) { 0.0 } else { drop("update", 0.4) },
                zoneout: drop("zoneout", 0.3),
                zoneout_cell: if cell.has_cell_state() { drop("zoneout of c", 0.4) } else { 0.0 },
            },
            output: drop("output", 0.2),
            label_smoothing: drop("smoothing", 0.2),
        },
        seed: 4,
    };
    let mut model = config.init(&autodiff()).unwrap().with_path(path);
    for (name, mut parameter) in model.parameters_mut() {
        if name.contains(".h0_") || name.contains(".c0_") {
            parameter.with_slice_mut(|row| row.fill(0.4));
        }
    }
    Case { model, activation: drop("activation", 0.5), temporal: drop("temporal", 0.7) }
}

fn window() -> (Vec<u32>, Vec<u32>, Arc<Batch>) {
    let batch = Arc::new(Batch::ragged(&[5, 2, 8, 1], 8).unwrap());
    let token = |place: u32| (place * place + place / 3) % 7;
    let frames = batch.frames() as u32;
    ((0..frames).map(token).collect(), (1..=frames).map(token).collect(), batch)
}

const NAMES: [u32; 4] = [11, 12, 13, 14];

impl Case {
    fn outputs(&self, noise: Noise) -> NoisyOutputs {
        let (inputs, _, batch) = window();
        self.model.hidden_noisy(&inputs, &batch, None, NoisySequences { noise, names: &NAMES })
    }

    fn loss(&self, noise: Noise) -> Tensor<1> {
        let (_, targets, batch) = window();
        let NoisyOutputs { raw, dropped, .. } = self.outputs(noise);
        let mut loss = self.model.loss(dropped.clone(), &targets);
        if self.activation > 0.0 {
            loss = loss + activation_penalty(dropped, &batch, self.activation, 0.0);
        }
        if self.temporal > 0.0 {
            loss = loss + activation_penalty(raw, &batch, 0.0, self.temporal);
        }
        loss
    }

    fn value(&self, noise: Noise) -> f64 {
        f64::from(values(&self.loss(noise))[0])
    }

    fn shift(&mut self, parameter: usize, element: usize, by: f32) {
        let mut all = self.model.parameters_mut();
        all[parameter].1.with_slice_mut(|values| values[element] += by);
    }
}

/// Gradients of every parameter against central differences at a few elements each.
fn check_gradients(cell: Cell, options: &[&str]) {
    let mut case = case(cell, options, Path::Auto);
    let noise = Noise::new(&[3, 9]);
    let gradients = case.model.take_gradients(&mut case.loss(noise).backward());
    let mut random = Initializer::new(options.len() as u64 + 1);
    for (parameter, gradient) in gradients.iter().map(values).enumerate() {
        let largest = gradient.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for _ in 0..2 {
            let element = (random.uniform(1, 0.5)[0].abs() * 2.0 * gradient.len() as f32) as usize;
            let step = 4e-3f32;
            case.shift(parameter, element, step);
            let up = case.value(noise);
            case.shift(parameter, element, -2.0 * step);
            let down = case.value(noise);
            case.shift(parameter, element, step);
            let expected = (up - down) / f64::from(2.0 * step);
            let found = f64::from(gradient[element]);
            // A loss of about 2 in 32 bits is known to 2e-7, so the difference to 6e-5 or so.
            assert!(
                (found - expected).abs() < 3e-4 + 0.02 * f64::from(largest),
                "{cell:?} {options:?}, parameter {parameter}[{element}]: {found}, by differences {expected}"
            );
        }
    }
}

#[test]
fn gradients_are_right_for_every_pair_of_options() {
    let cells = [Cell::Lstm, Cell::Gru(Reset::After), Cell::Rnn(Activation::Tanh)];
    for (i, a) in OPTIONS.iter().enumerate() {
        for (j, b) in OPTIONS.iter().enumerate().take(i + 1) {
            check_gradients(cells[(i + j) % cells.len()], &[a, b]);
        }
    }
    for cell in CELLS.into_iter().filter(|cell| *cell != Cell::Rnn(Activation::Relu)) {
        check_gradients(cell, &OPTIONS);
    }
}

#[test]
fn each_option_changes_the_loss_and_noise_repeats_it() {
    let plain = case(Cell::Lstm, &[], Path::Auto).value(Noise::new(&[1]));
    for option in OPTIONS.iter().filter(|option| **option != "locked") {
        for path in [Path::Auto, Path::Portable] {
            let case = case(Cell::Lstm, &[option], path);
            let loss = case.value(Noise::new(&[1]));
            assert!((loss - plain).abs() > 1e-4, "{option} {path:?}: {loss} as without");
            assert_eq!(case.value(Noise::new(&[1])), loss, "{option} {path:?}");
            let certain = [
                "smoothing",
                "residual",
                "tied",
                "activation",
                "temporal",
                "norm",
                "peephole",
                "hard gates",
                "elu",
                "projection",
                "learned state",
            ];
            let noisy = !certain.contains(option);
            assert_eq!(case.value(Noise::new(&[2])) != loss, noisy, "{option} {path:?}");
        }
    }
}

/// Where an update reads its sequences piece by piece, what is locked stays and the rest is drawn anew.
#[test]
fn readings_of_an_update_share_what_is_locked() {
    let losses = |options: &[&str], path| {
        let case = case(Cell::Lstm, options, path);
        [0, 1].map(|reading| values(&case.loss(Noise::new(&[7]).reading(reading)))[0])
    };
    for path in [Path::Auto, Path::Portable] {
        for free in ["input", "between", "output", "update", "zoneout", "zoneout of c"] {
            let [first, second] = losses(&[free], path);
            assert_ne!(first, second, "{free}");
        }
        for kept in [&["words"][..], &["weights"], &["recurrent"], &["input", "between", "output", "locked"]]
        {
            let [first, second] = losses(kept, path);
            assert_eq!(first, second, "{kept:?}");
        }
    }
}

/// The kernels and plain Burn operations drop the same, and mean the same.
#[test]
fn both_paths_agree_with_everything_on() {
    for cell in CELLS {
        let noise = Noise::new(&[5]);
        let run = |path| {
            let case = case(cell, &OPTIONS, path);
            let loss = case.loss(noise);
            let value = values(&loss);
            let gradients = case.model.take_gradients(&mut loss.backward());
            (value, gradients.iter().flat_map(values).collect::<Vec<_>>())
        };
        let ((a, da), (b, db)) = (run(Path::Auto), run(Path::Portable));
        close(&format!("{cell:?} loss"), &a, &b, 1e-5);
        close(&format!("{cell:?} gradients"), &da, &db, 2e-5);
    }
}

#[test]
fn nothing_drops_out_of_a_model_that_is_used() {
    let (inputs, targets, batch) = window();
    let noisy = ["words", "input", "between", "output", "weights", "recurrent", "update", "locked"];
    let (plain, with) = (case(Cell::Lstm, &[], Path::Auto).model, case(Cell::Lstm, &noisy, Path::Auto).model);
    assert_eq!(
        plain.evaluate(&inputs, &targets, &batch, None).0,
        with.evaluate(&inputs, &targets, &batch, None).0
    );
    assert!(with.is_noisy() && !plain.is_noisy());
    let smoothed = case(Cell::Lstm, &["smoothing"], Path::Auto).model;
    assert_eq!(
        plain.evaluate(&inputs, &targets, &batch, None).0,
        smoothed.evaluate(&inputs, &targets, &batch, None).0
    );
}

/// A model that is used takes the mean of the last and the new value, on either path, as a whole and by steps.
#[test]
fn zoneout_takes_its_mean_in_a_model_that_is_used() {
    let (inputs, targets, batch) = window();
    for cell in CELLS {
        let model = |options: &[&str], path| case(cell, options, path).model;
        let loss = |model: &LanguageModel| model.evaluate(&inputs, &targets, &batch, None).0.nats;
        let zoned = model(&["zoneout", "zoneout of c"], Path::Auto);
        let (found, portable) = (loss(&zoned), loss(&model(&["zoneout", "zoneout of c"], Path::Portable)));
        assert!((found - portable).abs() < 1e-4, "{cell:?}: {found}, portable {portable}");
        assert!((found - loss(&model(&[], Path::Auto))).abs() > 1e-3, "{cell:?}");
        let steps = Arc::new(Batch::full(1, 5));
        let expected = values(&zoned.logits(&inputs[..5], &steps, None).0);
        let mut stepper = zoned.stepper(1).unwrap();
        let stepped: Vec<f32> =
            inputs[..5].iter().flat_map(|&token| stepper.step(&[token]).unwrap().to_vec()).collect();
        close(&format!("{cell:?} stepped"), &stepped, &expected, 1e-5);
        let (y, ..) = zoned.forward_recorded(&inputs[..5], &steps, None, &Keep::signals(["h"]));
        close(&format!("{cell:?} recorded"), &values(&zoned.valid().output().logits(y)), &expected, 1e-5);
    }
}

#[test]
fn a_cell_without_the_part_is_refused() {
    let make = |cell, dropout| {
        RecurrentConfig::new(cell, 2, 3)
            .with_dropout(dropout)
            .init(&Device::default())
            .map(|_| ())
            .unwrap_err()
    };
    let rnn = Cell::Rnn(Activation::Tanh);
    assert_eq!(
        make(rnn, Dropout { update: 0.1, ..Dropout::default() }).to_string(),
        "dropout of updates needs a cell that has it, found rnn"
    );
    assert_eq!(
        make(Cell::Gru(Reset::After), Dropout { zoneout_cell: 0.1, ..Dropout::default() }).to_string(),
        "zoneout of c needs a cell that has it, found gru"
    );
    assert_eq!(
        make(rnn, Dropout { zoneout: 1.0, ..Dropout::default() }).to_string(),
        "dropout of h by zoneout is 1, expected a probability from 0 and below 1"
    );
}

/// What the mask of the outputs multiplied each unit of each sequence with, step by step.
fn factors(options: &[&str]) -> Vec<Vec<Vec<f32>>> {
    let case = case(Cell::Lstm, options, Path::Auto);
    let NoisyOutputs { raw, dropped, .. } = case.outputs(Noise::new(&[8]));
    let (_, _, batch) = window();
    let factors: Vec<f32> =
        values(&dropped).iter().zip(values(&raw)).map(|(d, r)| (d / r * 100.0).round()).collect();
    let mut all = vec![Vec::new(); batch.sequences()];
    for ((sequence, _), row) in batch.places().zip(factors.chunks_exact(HIDDEN)) {
        all[sequence].push(row.to_vec());
    }
    all
}

#[test]
fn a_locked_mask_is_one_a_sequence() {
    let locked = factors(&["output", "locked"]);
    for sequence in &locked {
        assert!(sequence.iter().all(|row| row == &sequence[0]), "{sequence:?}");
        assert!(sequence[0].iter().all(|&factor| factor == 0.0 || factor == 125.0), "{sequence:?}");
    }
    assert!(locked[0][0] != locked[2][0] || locked[1][0] != locked[2][0], "sequences differ: {locked:?}");
    let free = factors(&["output"]);
    assert!(free[2].iter().any(|row| row != &free[2][0]), "each step has its own: {free:?}");
}

#[test]
fn words_drop_out_whole_and_weights_one_by_one() {
    let gradient_of = |options: &[&str], name: &str| {
        let case = case(Cell::Lstm, options, Path::Auto);
        let place = case.model.parameters().iter().position(|(found, _)| found == name).unwrap();
        values(&case.model.take_gradients(&mut case.loss(Noise::new(&[2])).backward())[place])
    };
    let silent = |options: &[&str]| -> Vec<bool> {
        let rows = gradient_of(options, "embedding.weight");
        rows.chunks_exact(HIDDEN).map(|row| row.iter().all(|&d| d == 0.0)).collect()
    };
    let (all, some) = (silent(&[]), silent(&["words"]));
    let heard = all.iter().filter(|silent| !**silent).count();
    let left = some.iter().filter(|silent| !**silent).count();
    assert!(left > 0 && left < heard, "{heard} words are read, {left} of them heard");

    let zero = |options: &[&str]| {
        let gradient = gradient_of(options, "recurrent.weight_hh_l0");
        gradient.iter().filter(|&&d| d == 0.0).count() as f64 / gradient.len() as f64
    };
    assert_eq!(zero(&[]), 0.0);
    assert!((zero(&["weights"]) - 0.5).abs() < 0.2, "{}", zero(&["weights"]));
}

#[test]
fn residual_layers_add_what_they_read() {
    for cell in CELLS {
        let build = |layers: usize, input: usize, residual| {
            RecurrentConfig::new(cell, input, HIDDEN).with_layers(layers).with_residual(residual)
        };
        let stack = build(3, 4, true).init(&Device::default()).unwrap();
        let mut alone: Vec<_> = [4, HIDDEN, HIDDEN]
            .iter()
            .map(|&input| build(1, input, false).init(&Device::default()).unwrap())
            .collect();
        for (layer, single) in alone.iter_mut().enumerate() {
            let own = stack.named_tensors().into_iter().filter(|t| t.name.ends_with(&format!("_l{layer}")));
            let renamed = own.map(|mut tensor| {
                tensor.name = tensor.name.replace(&format!("_l{layer}"), "_l0");
                tensor
            });
            single.load(&renamed.collect::<Vec<_>>()).unwrap();
        }
        let x = random::<3>(1, [3, 5, 4], &Device::default());
        let (first, _) = alone[0].forward(x.clone(), None);
        let second = alone[1].forward(first.clone(), None).0 + first;
        let third = alone[2].forward(second.clone(), None).0 + second;
        let (y, last) = stack.forward(x.clone(), None);
        close(&format!("{cell:?}"), &values(&y), &values(&third), 1e-6);
        let ragged = Ragged::from_padded(x.clone(), &[5, 5, 5]).unwrap();
        let (packed, _) = stack.forward(ragged, None);
        assert_eq!(values(&packed.to_padded(0.0)), values(&y), "{cell:?}: rows in either order");

        let mut stepper = stack.stepper(3).unwrap();
        let mut found = Vec::new();
        for step in 0..5 {
            let x = x.clone().slice([0..3, step..step + 1, 0..4]);
            found.extend_from_slice(stepper.step(&values(&x)).unwrap());
        }
        close(&format!("{cell:?} stepped"), &found, &values(&y.clone().swap_dims(0, 1)), 1e-5);
        let (recorded, end, _) = stack.forward_recorded(x.clone(), None, &Keep::signals(["h"]));
        close("recorded", &values(&recorded), &values(&y), 1e-5);
        close("recorded state", &values(&end.h()), &values(&last.h()), 1e-5);
        let from_state = values(&stack.forward(x.clone().slice([0..3, 0..1, 0..4]), Some(last.clone())).0);
        stepper.set_state(&last).unwrap();
        let x = values(&x.slice([0..3, 0..1, 0..4]));
        close(&format!("{cell:?} from a state"), stepper.step(&x).unwrap(), &from_state, 1e-5);
    }
}

#[test]
fn directions_are_summed() {
    let both = |merge, layers| {
        let config = RecurrentConfig::new(Cell::Lstm, 4, HIDDEN).with_direction(Direction::Both);
        config.with_merge(merge).with_layers(layers).init(&Device::default()).unwrap()
    };
    let x = random::<3>(1, [3, 5, 4], &Device::default());
    let (beside, _) = both(Merge::Concat, 1).forward(x.clone(), None);
    let (summed, _) = both(Merge::Sum, 1).forward(x.clone(), None);
    let half = |from: usize| beside.clone().slice([0..3, 0..5, from..from + HIDDEN]);
    assert_eq!(values(&summed), values(&(half(0) + half(HIDDEN))));
    let deep = both(Merge::Sum, 3);
    assert_eq!(deep.output_width(), HIDDEN);
    assert_eq!(deep.weights()[4].weight_ih.dims()[1], HIDDEN, "layers read sums");
    let (y, _) = deep.forward(x.clone(), None);
    assert_eq!(y.dims(), [3, 5, HIDDEN]);
    let (recorded, ..) = deep.forward_recorded(x, None, &Keep::signals(["h"]));
    close("recorded", &values(&recorded), &values(&y), 1e-5);
}

#[test]
fn a_tied_embedding_is_one_parameter_in_two_places() {
    let (inputs, _, batch) = window();
    let mut model = case(Cell::Lstm, &["tied"], Path::Auto).model;
    let names: Vec<String> = model.parameters().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"embedding.weight".to_owned()) && !names.contains(&"output.weight".to_owned()));
    let before = values(&model.logits(&inputs, &batch, None).0);
    let mut tensors = model.named_tensors();
    tensors[0].values.iter_mut().for_each(|value| *value *= 2.0);
    model.load(&tensors).unwrap();
    assert_ne!(
        values(&model.valid().logits(&inputs, &batch, None).0),
        before,
        "the scores follow the embedding"
    );
    let steps = Arc::new(Batch::full(1, 4));
    let expected = values(&model.logits(&inputs[..4], &steps, None).0);
    let mut stepper = model.stepper(1).unwrap();
    let found: Vec<f32> =
        inputs[..4].iter().flat_map(|&token| stepper.step(&[token]).unwrap().to_vec()).collect();
    close("stepped", &found, &expected, 1e-5);
    let untied = model.untied();
    assert!(untied.parameters().iter().any(|(name, _)| name == "output.weight"));
    assert_eq!(
        values(&untied.logits(&inputs, &batch, None).0),
        values(&model.logits(&inputs, &batch, None).0)
    );
    let (y, ..) = model.forward_recorded(&inputs, &batch, None, &Keep::signals(["h"]));
    let scores = values(&model.valid().output().logits(y));
    close("from the recorded output", &scores, &values(&model.logits(&inputs, &batch, None).0), 1e-5);
}

/// The gradient's way back, walked by hand, goes past residual layers as well as through them.
#[test]
fn the_lens_follows_residual_and_tied_models() {
    let tokens: String = (0..60u32).map(|place| char::from((place * place % 7) as u8)).collect();
    let text = Text::of_characters(&tokens);
    let flow = |options: &[&str]| {
        let model = case(Cell::Lstm, options, Path::Auto).model;
        let how = Flow { lags: 5, places: 3, warm_up: 2, ..Flow::default() };
        follow_gradients(&model, &text, &how, |_| {}).layers[0].h.clone()
    };
    let plain = flow(&[]);
    assert_ne!(flow(&["residual"]), plain);
    assert!(flow(&["tied"]).iter().all(|norm| norm.is_finite() && *norm > 0.0));
}

#[test]
fn label_smoothing_is_a_mean_over_the_vocabulary() {
    let layer = |smoothing, path| {
        let random = &mut Initializer::new(1);
        Output::init(4, 9, random, &autodiff()).unwrap().with_label_smoothing(smoothing).with_path(path)
    };
    let (x, targets) = (random::<2>(2, [5, 4], &autodiff()), [0, 8, 3, 3, 1]);
    let logits = values(&layer(0.0, Path::Auto).logits(x.clone()));
    let expected: f32 = logits
        .chunks_exact(9)
        .zip(targets)
        .map(|(row, target)| {
            let sum: f32 = row.iter().map(|logit| logit.exp()).sum();
            let loss = |logit: f32| sum.ln() - logit;
            0.7 * loss(row[target]) + 0.3 / 9.0 * row.iter().map(|&logit| loss(logit)).sum::<f32>()
        })
        .sum::<f32>()
        / 5.0;
    let targets = targets.map(|target| target as u32);
    for path in [Path::Auto, Path::Portable] {
        close("smoothed", &values(&layer(0.3, path).cross_entropy(x.clone(), &targets)), &[expected], 1e-5);
    }
    let plain = layer(0.3, Path::Auto).valid().cross_entropy(x.valid(), &targets);
    close("without gradients", &values(&plain), &[expected], 1e-5);
}

trait Valid {
    fn valid(self) -> Self;
}

impl Valid for Tensor<2> {
    fn valid(self) -> Tensor<2> {
        self.without_autodiff()
    }
}
