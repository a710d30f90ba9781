//! The broken step of a language model, followed closely.
//!
//! The batch is walked once more, step by step and layer by layer. Forward, the first value that is not finite is
//! looked for in the order of computation: the input, the gates, the cell value, the hidden value, the output
//! layer. If all are finite, so is the loss, and the gradients are walked back in the same way.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use carousel_kernels::Batch;
use carousel_kernels::loss::{
    IGNORE, Objective, Output as KernelOutput, OutputGradients, counted, cross_entropy_backward, logits,
};

use crate::models::language_model::LanguageModel;
use crate::one_step::{Net, Pair, Step};
use crate::parameters::{NamedParameters, NamedTensor};
use crate::run::RunFolder;
use crate::slices::with_slice;
use crate::state::State;
use crate::train::TrainError;
use crate::train::checkpoint::{CheckpointError, find_tensor, write_tensors};
use crate::train::divergence::diagnosis::{
    Circumstances, Damage, Diagnosis, Origin, Seen, Way, bad, conclude, in_order,
};
use crate::train::divergence::file::{Saved, flat};

/// A batch of a language model and all that its step started from.
#[derive(Clone, Debug)]
pub(in crate::train) struct BrokenBatch {
    /// The update that it was for.
    pub(in crate::train) step: u64,
    /// Token ids and targets in packed order.
    pub(in crate::train) inputs: Vec<u32>,
    /// See `inputs`.
    pub(in crate::train) targets: Vec<u32>,
    /// Lengths of the sequences.
    pub(in crate::train) batch: Batch,
    /// The state that the sequences started from.
    pub(in crate::train) state: Option<State>,
}

/// Looks for what made a step break.
pub(in crate::train) fn diagnose(
    model: &LanguageModel,
    broken: &BrokenBatch,
    told: &Circumstances<'_>,
) -> Diagnosis {
    let mut seen = Seen::default();
    let Damage { largest, origin } = Damage::of(model);
    let origin = origin.unwrap_or_else(|| walk(model, broken, &mut seen));
    conclude(origin, largest, &seen, Some(model.recurrent().cell()), told)
}

fn walk(model: &LanguageModel, broken: &BrokenBatch, seen: &mut Seen) -> Origin {
    let net = Net::new(model);
    let batch = &broken.batch;
    let Some(cell) = net.layers.first().map(|(sizes, _)| sizes.cell) else { return Origin::Sum };
    let mut states = initial(&net, broken);
    let mut walked: Vec<Vec<Step>> = Vec::new();
    let mut tops: Vec<f32> = Vec::new();
    for step in 0..batch.steps() {
        let frames = batch.starts()[step]..batch.starts()[step + 1];
        let tokens = &broken.inputs[frames];
        let alive = tokens.len();
        let x = net.embed(tokens.iter().copied());
        if let Some(at) = bad(&x) {
            let rank = at / net.width;
            return Origin::Input { token: tokens[rank], step, sequence: batch.order()[rank] };
        }
        let before: Vec<Pair> = states
            .iter()
            .zip(&net.layers)
            .map(|(state, (sizes, _))| state.first(alive, sizes.hidden))
            .collect();
        let mut steps = net.step(x, &before);
        let mut largest = 0f64;
        for (layer, taken) in steps.iter_mut().enumerate() {
            let (sizes, weights) = &net.layers[layer];
            for name in in_order(cell.into()) {
                let signal = cell.signals().iter().find(|(own, _)| *own == name);
                let &(_, signal) = signal.expect("the name is one of them");
                let values = taken.signal(weights, signal);
                if let Some(at) = bad(&values) {
                    return Origin::Layer {
                        way: Way::Forward,
                        stack: String::new(),
                        layer,
                        signal: name.to_owned(),
                        step,
                        sequence: Some(batch.order()[at / sizes.hidden]),
                        unit: at % sizes.hidden,
                    };
                }
                largest = largest.max(seen.see(cell.into(), name, &values));
            }
        }
        if step == 0 {
            seen.hidden[0] = largest;
        }
        seen.hidden[1] = largest;
        for (state, taken) in states.iter_mut().zip(&steps) {
            state.put_first(&taken.after);
        }
        tops.extend(net.top(&steps));
        walked.push(steps);
    }
    let hidden = net.layers.last().map_or(1, |(sizes, _)| sizes.hidden);
    let output = KernelOutput { weight: &net.output.0, bias: Some(&net.output.1) };
    let vocabulary = net.output.1.len();
    let place = |frame: usize| {
        let step = batch.starts().partition_point(|&start| start <= frame) - 1;
        Origin::Output { step, sequence: batch.order()[frame - batch.starts()[step]] }
    };
    let mut scores = vec![0.0; broken.inputs.len() * vocabulary];
    logits(output, hidden, &tops, &mut scores).expect("the model's sizes fit each other");
    if let Some(at) = bad(&scores) {
        return place(at / vocabulary);
    }

    let mut dtops = vec![0.0; tops.len()];
    let (mut dweight, mut dbias) = (vec![0.0; net.output.0.len()], vec![0.0; vocabulary]);
    let mean = Objective::scaled(1.0 / counted(&broken.targets).max(1) as f32);
    let gradients = OutputGradients { x: &mut dtops, weight: &mut dweight, bias: Some(&mut dbias) };
    cross_entropy_backward(output, hidden, &tops, &broken.targets, mean, gradients)
        .expect("the model's sizes fit each other");
    if let Some(at) = bad(&dtops) {
        return place(at / hidden);
    }
    let mut carried: Vec<Pair> =
        net.layers.iter().map(|(sizes, _)| Pair::zeros(sizes, batch.sequences())).collect();
    for (step, mut steps) in walked.into_iter().enumerate().rev() {
        let frames = batch.starts()[step]..batch.starts()[step + 1];
        let mut dy = dtops[frames.start * hidden..frames.end * hidden].to_vec();
        for (layer, (sizes, weights)) in net.layers.iter().enumerate().rev() {
            let pulled =
                steps[layer].pull(weights, Some(&dy), &carried[layer].first(frames.len(), sizes.hidden));
            let found = |signal: &str, unit: usize| Origin::Layer {
                way: Way::Backward,
                stack: String::new(),
                layer,
                signal: signal.to_owned(),
                step,
                sequence: None,
                unit: unit % sizes.hidden,
            };
            if let Some(at) = bad(&pulled.gates) {
                let names: Vec<&str> = cell
                    .signals()
                    .iter()
                    .map(|(name, _)| *name)
                    .filter(|name| !["h", "c"].contains(name))
                    .collect();
                return found(names.get(at / sizes.hidden).copied().unwrap_or("h"), at);
            }
            for (signal, values) in [("h", &pulled.before.h), ("c", &pulled.before.c), ("h", &pulled.x)] {
                if let Some(at) = bad(values) {
                    return found(signal, at);
                }
            }
            carried[layer].put_first(&pulled.before);
            dy = net.passed_down(layer, Some(&dy), pulled.x);
        }
    }
    Origin::Sum
}

/// The states that the sequences start from, by rank.
fn initial(net: &Net, broken: &BrokenBatch) -> Vec<Pair> {
    let sequences = broken.batch.sequences();
    let ranked = |values: &[f32], width: usize| -> Vec<f32> {
        broken.batch.order().iter().flat_map(|&b| values[b * width..][..width].to_vec()).collect()
    };
    let mut all = net.first(sequences);
    let Some(state) = &broken.state else { return all };
    let begins: Vec<bool> =
        broken.batch.order().iter().map(|&b| state.begins().is_some_and(|all| all[b])).collect();
    for ((pair, (sizes, _)), entry) in all.iter_mut().zip(&net.layers).zip(&state.layers) {
        let put = |to: &mut Vec<f32>, from: &Tensor<2>| {
            let from = with_slice(from, |values| ranked(values, sizes.hidden));
            let rows = to.chunks_exact_mut(sizes.hidden).zip(from.chunks_exact(sizes.hidden));
            rows.zip(&begins)
                .filter(|(_, begins)| !**begins)
                .for_each(|((to, from), _)| to.copy_from_slice(from));
        };
        put(&mut pair.h, &entry.h);
        if let Some(c) = &entry.c {
            put(&mut pair.c, c);
        }
    }
    all
}

/// Saves a batch and the weights it met, in one file of a run's folder.
pub(in crate::train) fn save(
    path: &Path,
    model: &LanguageModel,
    broken: &BrokenBatch,
) -> Result<(), CheckpointError> {
    // Exact: a vocabulary is far smaller than 2^24, and IGNORE, the largest of all, comes back as the largest.
    let numbers = |values: &[u32]| values.iter().map(|&value| value as f32).collect();
    let lengths: Vec<u32> = broken.batch.lengths().iter().map(|&length| length as u32).collect();
    let mut tensors = model.named_tensors();
    tensors.push(flat("step", vec![broken.step as f32]));
    tensors.push(flat("inputs", numbers(&broken.inputs)));
    tensors.push(flat("targets", numbers(&broken.targets)));
    tensors.push(flat("lengths", numbers(&lengths)));
    if let Some(state) = &broken.state {
        for (layer, entry) in state.layers.iter().enumerate() {
            tensors.push(flat(&format!("h{layer}"), with_slice(&entry.h, <[f32]>::to_vec)));
            if let Some(c) = &entry.c {
                tensors.push(flat(&format!("c{layer}"), with_slice(c, <[f32]>::to_vec)));
            }
        }
    }
    write_tensors(path, &tensors)
}

/// Looks again at a saved batch, with the weights that it met.
pub(super) fn look_again(
    saved: &Saved,
    weights: &[NamedTensor],
    run: &RunFolder,
    step: u64,
    told: &Circumstances<'_>,
) -> Result<Diagnosis, TrainError> {
    let recipe = told.recipe;
    let damaged = |reason: String| saved.damaged(reason);
    let numbers = |name: &str| saved.numbers(name);
    let vocabulary = run.read_vocab()?.len();
    let mut model = crate::saved::language_model_config(recipe, vocabulary).init(&Device::default())?;
    model.load(weights)?;
    let (inputs, targets) = (numbers("inputs")?, numbers("targets")?);
    let batch = saved.batch("lengths", inputs.len())?;
    let known = |&id: &u32| (id as usize) < vocabulary;
    // Steps that are read for what follows them have no target.
    let wanted = |id: &u32| *id == IGNORE || known(id);
    let whole = inputs.len() == batch.frames() && targets.len() == batch.frames();
    if !whole || !inputs.iter().all(known) || !targets.iter().all(wanted) {
        return Err(damaged("its tokens do not fit its lengths or the run's vocabulary".to_owned()).into());
    }
    let (layers, hidden) = (recipe.model.layers, recipe.model.hidden);
    let carried = saved.values("h0").is_ok();
    let state = |signal: &str| -> Result<Tensor<3>, TrainError> {
        let mut values: Vec<f32> = Vec::new();
        for layer in 0..layers {
            let shape = [batch.sequences() * hidden];
            values.extend(&find_tensor(&saved.tensors, &format!("batch.{signal}{layer}"), &shape)?.values);
        }
        let shape = [layers, batch.sequences(), hidden];
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::default()))
    };
    let state = match carried {
        true => {
            let c = if recipe.model.recurrence().has_cell_state() { Some(state("c")?) } else { None };
            Some(State::new(state("h")?, c))
        }
        false => None,
    };
    let broken = BrokenBatch { step, inputs, targets, batch, state };
    Ok(diagnose(&model, &broken, told))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cell::{Activation, Cell, Reset};
    use crate::models::language_model::LanguageModelConfig;
    use crate::recipe::{Recipe, Task};

    fn model(cell: Cell) -> LanguageModel {
        LanguageModelConfig {
            cell: cell.into(),
            vocabulary: 6,
            embedding: 3,
            hidden: 5,
            layers: 2,
            init: Default::default(),
            residual: false,
            tied: false,
            options: Default::default(),
            regularize: Default::default(),
            seed: 3,
        }
        .init(&Device::default())
        .unwrap()
    }

    /// Two sequences, of 4 and 6 steps; the longer one is the second.
    fn batch() -> BrokenBatch {
        let batch = Batch::ragged(&[4, 6], 6).unwrap();
        // Packed, longest first: sequence 1 reads 0 1 2 3 4 5, sequence 0 reads 1 1 1 2.
        let inputs = vec![0, 1, 1, 1, 2, 1, 3, 2, 4, 5];
        BrokenBatch { step: 7, targets: inputs.clone(), inputs, batch, state: None }
    }

    fn change(model: &mut LanguageModel, wanted: &str, f: impl FnOnce(&mut [f32])) {
        let mut parameters = model.parameters_mut().into_iter();
        let (_, mut parameter) = parameters.find(|(name, _)| name == wanted).unwrap();
        parameter.with_slice_mut(f);
    }

    fn look(model: &LanguageModel, broken: &BrokenBatch) -> Diagnosis {
        let recipe = Recipe::default_for(Task::Lm);
        diagnose(model, broken, &Circumstances { recipe: &recipe, gradient_norm: 0.5, checkpoint: None })
    }

    #[test]
    fn a_nan_in_the_features_is_named_where_it_is_first_read() {
        for cell in [Cell::Lstm, Cell::Gru(Reset::After), Cell::Rnn(Activation::Relu)] {
            let mut model = model(cell);
            change(&mut model, "embedding.weight", |values| values[2 * 3 + 1] = f32::NAN);
            let origin = look(&model, &batch()).origin;
            assert_eq!(origin, Origin::Input { token: 2, step: 2, sequence: 1 }, "{cell:?}");
        }
    }

    #[test]
    fn a_state_that_is_no_number_is_named_with_layer_gate_and_step() {
        let mut broken = batch();
        // Only unit 4 of layer 1 of sequence 0, which all gates of that layer read.
        let mut h = vec![0.0; 2 * 2 * 5];
        h[10 + 4] = f32::INFINITY;
        let tensor =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [2, 2, 5]), &Device::default());
        broken.state = Some(State::new(tensor(h), Some(tensor(vec![0.0; 20]))));
        let mut model = model(Cell::Lstm);
        // Of the gates, f alone reads it.
        change(&mut model, "recurrent.weight_hh_l1", |values| {
            for (row, values) in values.chunks_exact_mut(5).enumerate() {
                values[4] = if row == 7 { f32::MIN_POSITIVE * 0.0 } else { 1.0 };
            }
        });
        let Origin::Layer { way, layer, signal, step, sequence, unit, .. } = look(&model, &broken).origin
        else {
            panic!("expected a layer")
        };
        // 0 · inf is no number: unit 2 of the forget gate.
        assert_eq!(
            (way, layer, signal.as_str(), step, sequence, unit),
            (Way::Forward, 1, "f", 0, Some(0), 2)
        );
    }

    #[test]
    fn a_relu_net_that_explodes_is_named_by_step() {
        let mut model = model(Cell::Rnn(Activation::Relu));
        change(&mut model, "recurrent.weight_hh_l0", |values| values.fill(1e13));
        change(&mut model, "recurrent.weight_ih_l0", |values| values.fill(1.0));
        change(&mut model, "embedding.weight", |values| values.fill(1.0));
        let found = look(&model, &batch());
        // 3, then times 5e13 a step: beyond 3e38 at the third product.
        let Origin::Layer { way: Way::Forward, layer: 0, signal, step: 3, .. } = &found.origin else {
            panic!("{:?}", found.origin)
        };
        assert_eq!(signal, "h");
        assert!(found.advice[0].contains("ReLU"), "{:?}", found.advice);
        assert!(found.hidden[1] > 1e20 && found.hidden[0] < 1e3, "{:?}", found.hidden);
    }

    #[test]
    fn an_output_layer_that_overflows_is_named() {
        let mut model = model(Cell::Lstm);
        change(&mut model, "output.weight", |values| values[..5].fill(f32::MAX));
        change(&mut model, "output.bias", |values| values[0] = f32::MAX);
        change(&mut model, "recurrent.bias_ih_l1", |values| values.fill(50.0));
        assert_eq!(look(&model, &batch()).origin, Origin::Output { step: 0, sequence: 1 });
    }

    #[test]
    fn a_gradient_that_overflows_is_found_on_the_way_back() {
        // Nothing goes in, so all is zero on the way forward, whatever it is multiplied with. Not so on the way back.
        let mut model = model(Cell::Rnn(Activation::Tanh));
        change(&mut model, "embedding.weight", |values| values.fill(0.0));
        for layer in [0, 1] {
            for name in ["bias_ih", "bias_hh"] {
                change(&mut model, &format!("recurrent.{name}_l{layer}"), |values| values.fill(0.0));
            }
        }
        change(&mut model, "recurrent.weight_hh_l1", |values| values.fill(1e25));
        change(&mut model, "output.weight", |values| {
            values.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
        });
        let found = look(&model, &batch());
        let Origin::Layer { way: Way::Backward, layer: 1, .. } = &found.origin else {
            panic!("{:?}", found.origin)
        };
    }

    #[test]
    fn a_broken_parameter_comes_first() {
        let mut model = model(Cell::Gru(Reset::After));
        change(&mut model, "recurrent.weight_hh_l1", |values| values[3] = f32::NAN);
        let expected = Origin::Parameter { name: "recurrent.weight_hh_l1".to_owned(), values: 1 };
        assert_eq!(look(&model, &batch()).origin, expected);
    }

    #[test]
    fn a_sound_batch_has_no_origin() {
        for cell in [Cell::Lstm, Cell::Gru(Reset::Before), Cell::Rnn(Activation::Tanh)] {
            assert_eq!(look(&model(cell), &batch()).origin, Origin::Sum, "{cell:?}");
        }
    }
}
