//! The broken step of any task: looks into the recurrent stacks that its model called, one after the other, then at what
//! reads them, then at the gradients; and keeps the calls so that they can be looked at again.
//!
//! A language model's step is followed more closely, back through time too, see
//! [`language_model`](super::language_model).

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use carousel_kernels::Layout;

use crate::calls::{Call, taken_down};
use crate::cell::{Activation, Cell, CellOptions, GateActivation, Reset};
use crate::parameters::{NamedParameters, NamedTensor, Parameter};
use crate::recipe::Recipe;
use crate::record::Series;
use crate::recurrent::{Direction, Merge, Recurrent, RecurrentConfig};
use crate::slices::with_slice;
use crate::state::State;
use crate::statistics::STATISTICS;
use crate::train::TrainError;
use crate::train::checkpoint::{CheckpointError, write_tensors};
use crate::train::divergence::diagnosis::{
    Circumstances, Damage, Diagnosis, Origin, Seen, Way, bad, conclude, in_order,
};
use crate::train::divergence::file::{Saved, flat};
use crate::train::job::Job;

/// Where the calls of a step are found in a saved file.
pub(super) const CALLS: &str = "calls";

/// Looks for what made a step break, and saves what it began with.
pub(in crate::train) fn look_into<J: Job>(
    job: &mut J,
    batches: &[J::Batch],
    path: &Path,
    step: u64,
    told: &Circumstances<'_>,
) -> Diagnosis {
    let mut seen = Seen::default();
    let Damage { largest, origin: damaged } = Damage::of(job.model());
    let mut origin = None;
    let mut kept = Vec::new();
    for batch in batches {
        let (objective, calls) = taken_down(|| job.objective(batch));
        kept = named(job.model(), calls);
        origin = damaged.clone().or_else(|| first_of(&kept, &mut seen));
        if origin.is_none() && !objective.mean.is_finite() {
            origin = Some(Origin::Behind);
        }
        if origin.is_none() {
            let gradients = job.model().take_gradients(&mut objective.whole.backward());
            origin = in_gradients(job.model(), &kept, &gradients);
        }
        if origin.is_some() {
            break;
        }
    }
    let origin = origin.unwrap_or(Origin::Sum);
    let cell = kept.first().map(|(_, call)| call.stack.cell());
    let mut diagnosis = conclude(origin, largest, &seen, cell, told);
    // A disk that is full must not hide what went wrong.
    let saved = save(path, job.model(), step, &kept, &diagnosis.origin);
    diagnosis.replay = saved.is_ok().then(|| path.to_owned());
    diagnosis
}

/// The calls with their stacks' names, `recurrent` or `encoder.recurrent`.
fn named(model: &impl NamedParameters, calls: Vec<Call>) -> Vec<(String, Call)> {
    let matrix = |parameter: Parameter<'_>| match parameter {
        Parameter::Matrix(matrix) => Some(matrix.id),
        _ => None,
    };
    let name = |stack: &Recurrent| {
        let (short, first) = stack.parameters().into_iter().next()?;
        let id = matrix(first)?;
        let found = model.parameters().into_iter().find(|(_, parameter)| matrix(*parameter) == Some(id));
        found.and_then(|(name, _)| Some(name.strip_suffix(&short)?.strip_suffix('.')?.to_owned()))
    };
    calls.into_iter().map(|call| (name(&call.stack).unwrap_or_default(), call)).collect()
}

/// The first number of the calls that is not finite, in the order of computation: the stack's input, then layer
/// after layer, each from the step at which it begins, gates before states.
fn first_of(calls: &[(String, Call)], seen: &mut Seen) -> Option<Origin> {
    let several = calls.iter().any(|(name, _)| *name != calls[0].0);
    calls.iter().find_map(|(name, call)| {
        let stack = if several { name.as_str() } else { "" };
        let batch = &call.batch;
        if let Some(at) = bad(&call.x) {
            let frame = at / call.width();
            let step = batch.starts().partition_point(|&start| start <= frame) - 1;
            let sequence = batch.order()[frame - batch.starts()[step]];
            let (stack, value) = (stack.to_owned(), at % call.width());
            return Some(Origin::Values { stack, value, step, sequence });
        }
        let record = call.record();
        let layer = |a: &Series, b: &Series| (a.layer, a.direction) == (b.layer, b.direction);
        record.series.chunk_by(layer).find_map(|series| first_of_layer(stack, call, series, seen))
    })
}

/// The same of all signals of a layer in one direction.
fn first_of_layer(stack: &str, call: &Call, series: &[Series], seen: &mut Seen) -> Option<Origin> {
    let (batch, cell) = (&call.batch, call.stack.cell());
    for walked in 0..batch.steps() {
        let mut largest = 0f64;
        for rank in 0..batch.alive(walked) {
            let row = batch.row(Layout::Packed, series[0].direction, walked, rank);
            for name in in_order(cell) {
                let Some(signal) = series.iter().find(|series| series.name == name) else { continue };
                let values = &signal.values[row * signal.units..][..signal.units];
                if let Some(unit) = bad(values) {
                    let step = batch.starts().partition_point(|&start| start <= row) - 1;
                    return Some(Origin::Layer {
                        way: Way::Forward,
                        stack: stack.to_owned(),
                        layer: signal.layer,
                        signal: name.to_owned(),
                        step,
                        sequence: Some(batch.order()[rank]),
                        unit,
                    });
                }
                largest = largest.max(seen.see(cell, name, values));
            }
        }
        if walked == 0 && seen.hidden[0] == 0.0 {
            seen.hidden[0] = largest;
        }
        seen.hidden[1] = largest;
    }
    None
}

/// The parameter nearest to the loss whose gradient is not finite.
fn in_gradients(
    model: &impl NamedParameters,
    calls: &[(String, Call)],
    gradients: &[Tensor<1>],
) -> Option<Origin> {
    model.parameters().into_iter().zip(gradients).rev().find_map(|((name, parameter), gradient)| {
        let at = with_slice(gradient, bad)?;
        let place = calls.iter().find(|(stack, _)| name.starts_with(&format!("{stack}.")));
        let gate = place.and_then(|(_, call)| {
            let cell = call.stack.cell().fused()?;
            let hidden = call.stack.weights().first()?.bias_ih.dims()[0] / cell.gates();
            let short = name.rsplit('.').next()?;
            // Other weights have rows of their own.
            let by_gates = ["weight_ih", "weight_hh", "bias"].iter().any(|own| short.starts_with(own));
            let row = by_gates.then(|| at / parameter.shape().get(1).copied().unwrap_or(1))?;
            let gates = call.stack.cell().signals().into_iter().map(|signal| signal.name);
            let gate = gates.filter(|name| !["h", "c"].contains(name)).nth(row / hidden);
            Some((gate.unwrap_or("h").to_owned(), row % hidden))
        });
        Some(Origin::Gradient { parameter: name, gate })
    })
}

/// Saves the calls of a step and the weights they met, in one file of a run's folder.
fn save(
    path: &Path,
    model: &impl NamedParameters,
    step: u64,
    calls: &[(String, Call)],
    origin: &Origin,
) -> Result<(), CheckpointError> {
    let text = |text: &str| text.bytes().map(f32::from).collect::<Vec<f32>>();
    let mut tensors = model.named_tensors();
    tensors.push(flat("step", vec![step as f32]));
    tensors.push(flat(CALLS, vec![calls.len() as f32]));
    let origin = serde_json::to_string(origin).expect("an origin is plain data");
    tensors.push(flat("origin", text(&origin)));
    for (index, (name, call)) in calls.iter().enumerate() {
        let mut keep = |what: &str, values: Vec<f32>| tensors.push(flat(&format!("{index}.{what}"), values));
        let stack = &call.stack;
        keep("stack", text(name));
        keep("x", call.x.clone());
        keep("lengths", call.batch.lengths().iter().map(|&length| length as f32).collect());
        let direction = match stack.direction() {
            Direction::Forward => 0,
            Direction::Reverse => 1,
            Direction::Both => 2,
        };
        let flags = [direction, u8::from(stack.merge() == Merge::Sum), u8::from(stack.is_residual())];
        keep("wiring", flags.map(f32::from).to_vec());
        for (place, entry) in call.state.iter().flat_map(|state| state.layers.iter().enumerate()) {
            keep(&format!("h{place}"), with_slice(&entry.h, <[f32]>::to_vec));
            if let Some(c) = &entry.c {
                keep(&format!("c{place}"), with_slice(c, <[f32]>::to_vec));
            }
        }
    }
    write_tensors(path, &tensors)
}

/// Looks again at saved calls. What lies outside the stacks is told as it was found then.
pub(super) fn look_again(
    saved: &Saved,
    weights: &[NamedTensor],
    told: &Circumstances<'_>,
) -> Result<Diagnosis, TrainError> {
    let damaged = |reason: &str| saved.damaged(reason.to_owned());
    let text = |values: &[f32]| -> String { values.iter().map(|&value| char::from(value as u8)).collect() };
    let count = saved.numbers(CALLS)?.first().copied().unwrap_or_default();
    let calls = (0..count).map(|index| -> Result<(String, Call), TrainError> {
        let of = |what: &str| saved.values(&format!("{index}.{what}"));
        let name = text(of("stack")?);
        let own: Vec<NamedTensor> = weights
            .iter()
            .filter_map(|tensor| {
                let short = tensor.name.strip_prefix(&name)?.strip_prefix('.')?;
                Some(NamedTensor { name: short.to_owned(), ..tensor.clone() })
            })
            .collect();
        let x = of("x")?.to_vec();
        let wiring = of("wiring")?;
        let lengths = saved.numbers(&format!("{index}.lengths"))?;
        let frames: usize = lengths.into_iter().map(|length| length as usize).sum();
        let stack = own_stack(&own, wiring, x.len() / frames.max(1), told.recipe)
            .or_else(|| stack(&own, wiring, told.recipe))
            .ok_or_else(|| damaged(&format!("its weights of {name} are those of no stack")))?;
        let width = stack.input_width();
        if x.len() % width != 0 {
            return Err(damaged("its inputs do not fit its weights").into());
        }
        let batch = saved.batch(&format!("{index}.lengths"), x.len() / width)?;
        let (of_h, of_c) = stack.state_widths(0);
        let state = |signal: &str| -> Result<Tensor<3>, TrainError> {
            let width = if signal == "c" { of_c.unwrap_or_default() } else { of_h };
            let shape = [stack.entries(), batch.sequences(), width];
            let mut values = Vec::new();
            for place in 0..shape[0] {
                values.extend_from_slice(of(&format!("{signal}{place}"))?);
            }
            if values.len() != shape.iter().product::<usize>() {
                return Err(damaged("its state does not fit its lengths").into());
            }
            Ok(Tensor::from_data(TensorData::new(values, shape), &Device::default()))
        };
        let state = match of("h0") {
            Err(_) => None,
            Ok(_) => {
                let c = stack.cell().has_cell_state().then(|| state("c")).transpose()?;
                Some(State::new(state("h")?, c))
            }
        };
        Ok((name, Call { stack, x, batch: Arc::new(batch), state }))
    });
    let calls = calls.collect::<Result<Vec<_>, _>>()?;
    let mut seen = Seen::default();
    let mut damage = Damage::default();
    // Running statistics have seen the step that broke; it was not they that broke it.
    let drawn = weights.iter().filter(|tensor| !STATISTICS.iter().any(|own| tensor.name.ends_with(own)));
    drawn.for_each(|tensor| damage.see(&tensor.name, &tensor.values));
    let origin = match damage.origin.or_else(|| first_of(&calls, &mut seen)) {
        Some(origin) => origin,
        None => serde_json::from_str(&text(saved.values("origin")?))
            .map_err(|error| damaged(&error.to_string()))?,
    };
    let cell = calls.first().map(|(_, call)| call.stack.cell());
    Ok(conclude(origin, damage.largest, &seen, cell, told))
}

/// How a stack is put together beside its sizes, from three numbers.
fn wired(config: RecurrentConfig, wiring: &[f32]) -> Option<RecurrentConfig> {
    let &[direction, sum, residual] = wiring else { return None };
    let direction = match direction as u8 {
        0 => Direction::Forward,
        1 => Direction::Reverse,
        _ => Direction::Both,
    };
    let merge = if sum == 0.0 { Merge::Concat } else { Merge::Sum };
    Some(config.with_direction(direction).with_merge(merge).with_residual(residual != 0.0))
}

/// The stack of the recipe's cell that has these weights, where the kernels do not know that cell.
fn own_stack(weights: &[NamedTensor], wiring: &[f32], input: usize, recipe: &Recipe) -> Option<Recurrent> {
    let model = &recipe.model;
    let cell = model.recurrence_if_any().filter(|cell| cell.fused().is_none())?;
    let learned = weights.iter().any(|tensor| tensor.name == "h0_l0");
    let config = RecurrentConfig::new(cell, input, model.hidden).with_layers(model.layers);
    let mut stack = wired(config, wiring)?.with_learned_state(learned).init(&Device::default()).ok()?;
    stack.load(weights).ok()?;
    Some(stack)
}

/// The stack that has these weights.
fn stack(weights: &[NamedTensor], wiring: &[f32], recipe: &Recipe) -> Option<Recurrent> {
    let shape =
        |name: &str| weights.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.shape[..]);
    let (&[rows, input], &[_, values]) = (shape("weight_ih_l0")?, shape("weight_hh_l0")?) else {
        return None;
    };
    let projection = shape("weight_hr_l0");
    let hidden = projection.map_or(values, |shape| shape[shape.len() - 1]);
    let told = recipe.model.recurrence_if_any().and_then(|cell| cell.fused());
    let cell = match (rows.checked_div(hidden)?, told) {
        (1, Some(told @ Cell::Rnn(_))) | (3, Some(told @ Cell::Gru(_))) | (4, Some(told @ Cell::Lstm)) => {
            told
        }
        (1, _) => Cell::Rnn(Activation::Tanh),
        (3, _) => Cell::Gru(Reset::After),
        (4, _) => Cell::Lstm,
        _ => return None,
    };
    let layers = (0..).take_while(|layer| shape(&format!("weight_hh_l{layer}")).is_some()).count();
    let options = CellOptions {
        norm: shape("norm_l0").is_some(),
        peephole: shape("peephole_l0").is_some(),
        gate: if Some(cell) == told { recipe.model.options().gate } else { GateActivation::Sigmoid },
        activation: if Some(cell) == told { recipe.model.options().activation } else { Activation::Tanh },
        projection: projection.map(|_| values),
    };
    let config = RecurrentConfig::new(cell, input, hidden).with_options(options).with_layers(layers);
    let learned = shape("h0_l0").is_some();
    let mut stack = wired(config, wiring)?.with_learned_state(learned).init(&Device::default()).ok()?;
    stack.load(weights).ok()?;
    Some(stack)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use carousel_kernels::Batch;

    use super::*;
    use crate::models::classifier::{Classifier, ClassifierConfig};
    use crate::models::reader::{RecurrenceConfig, StepKind, Steps};
    use crate::recipe::Task;

    /// Sequences of 2, 4 and 3 steps of two numbers.
    const LENGTHS: [usize; 3] = [2, 4, 3];

    fn model(cell: Cell, direction: Direction) -> Classifier {
        let recurrence = RecurrenceConfig { layers: 2, direction, ..RecurrenceConfig::new(cell, 3) };
        ClassifierConfig::new(StepKind::Numbers(2), recurrence, 2).init(&Device::default()).unwrap()
    }

    fn calls(model: &Classifier, change: impl FnOnce(&mut [f32], &Batch)) -> Vec<(String, Call)> {
        let batch = Arc::new(Batch::ragged(&LENGTHS, 4).unwrap());
        let mut x = vec![0.5; batch.frames() * 2];
        change(&mut x, &batch);
        let loss = || model.loss(Steps::Numbers(&x), &batch, &[0, 1, 0], None, None);
        named(model, taken_down(loss).1)
    }

    fn change(model: &mut Classifier, wanted: &str, f: impl FnOnce(&mut [f32])) {
        let mut parameters = model.parameters_mut().into_iter();
        let (_, mut parameter) = parameters.find(|(name, _)| name == wanted).unwrap();
        parameter.with_slice_mut(f);
    }

    #[test]
    fn a_value_that_is_no_number_is_named_where_it_is_read() {
        for direction in [Direction::Forward, Direction::Both] {
            let calls = calls(&model(Cell::Lstm, direction), |x, batch| {
                // Sequence 2 has rank 1.
                x[batch.frame(2, 1) * 2 + 1] = f32::NAN;
            });
            assert_eq!(calls[0].0, "recurrent");
            let expected = Origin::Values { stack: String::new(), value: 1, step: 2, sequence: 2 };
            assert_eq!(first_of(&calls, &mut Seen::default()), Some(expected), "{direction:?}");
        }
    }

    #[test]
    fn a_relu_net_that_explodes_is_named_by_layer_and_step() {
        let mut model = model(Cell::Rnn(Activation::Relu), Direction::Both);
        change(&mut model, "recurrent.weight_hh_l1_reverse", |values| values.fill(1e20));
        for name in
            ["recurrent.weight_ih_l0", "recurrent.weight_ih_l0_reverse", "recurrent.weight_ih_l1_reverse"]
        {
            change(&mut model, name, |values| values.fill(1.0));
        }
        let calls = calls(&model, |_, _| {});
        let origin = first_of(&calls, &mut Seen::default()).unwrap();
        // Backward through the longest sequence: about 1 at step 3, 1e20 at 2, too large at 1.
        let Origin::Layer { way: Way::Forward, layer: 1, signal, step, sequence: Some(sequence), .. } =
            origin
        else {
            panic!("{origin:?}")
        };
        assert_eq!((signal.as_str(), step, sequence), ("h", 1, 1));
    }

    #[test]
    fn a_gradient_that_overflows_is_named_with_its_gate() {
        let model = model(Cell::Lstm, Direction::Forward);
        let calls = calls(&model, |_, _| {});
        let gradients: Vec<Tensor<1>> = model
            .parameters()
            .into_iter()
            .map(|(name, parameter)| {
                let mut values = vec![0.0; parameter.shape().into_iter().product()];
                if name == "recurrent.weight_hh_l1" {
                    values[3 * 4 + 2] = f32::INFINITY; // row 4 of 12: unit 1 of the second gate
                }
                Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &Device::default())
            })
            .collect();
        let expected = Origin::Gradient {
            parameter: "recurrent.weight_hh_l1".to_owned(),
            gate: Some(("f".to_owned(), 1)),
        };
        assert_eq!(in_gradients(&model, &calls, &gradients), Some(expected));
        assert_eq!(first_of(&calls, &mut Seen::default()), None, "all values are finite");
    }

    #[test]
    fn what_was_saved_is_what_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("diverged-7.safetensors");
        let recipe = Recipe::default_for(Task::Classify);
        let told = Circumstances { recipe: &recipe, gradient_norm: 0.5, checkpoint: None };
        let model = model(Cell::Gru(Reset::After), Direction::Both);
        for (place, bad) in [(5, f32::NAN), (0, 1.0)] {
            let calls = calls(&model, |x, _| x[place] = bad);
            let found = first_of(&calls, &mut Seen::default());
            let origin = found.unwrap_or(Origin::Behind);
            save(&path, &model, 7, &calls, &origin).unwrap();
            let (tensors, weights) = crate::train::checkpoint::read_tensors(&path)
                .unwrap()
                .into_iter()
                .partition(|tensor| tensor.name.starts_with("batch."));
            let saved = Saved { path: path.clone(), tensors };
            assert_eq!(look_again(&saved, &weights, &told).unwrap().origin, origin);
        }
    }

    /// Lengths of a damaged file, beyond all memory among them, are refused before anything is made of them.
    #[test]
    fn lengths_that_are_not_those_of_the_inputs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("diverged-7.safetensors");
        let recipe = Recipe::default_for(Task::Classify);
        let told = Circumstances { recipe: &recipe, gradient_norm: 0.5, checkpoint: None };
        let model = model(Cell::Lstm, Direction::Forward);
        save(&path, &model, 7, &calls(&model, |_, _| {}), &Origin::Behind).unwrap();
        for lengths in [vec![1e15], vec![2.0, 4.0, 4.0], vec![f32::NAN, 5.0]] {
            let (mut tensors, weights): (Vec<NamedTensor>, Vec<NamedTensor>) =
                crate::train::checkpoint::read_tensors(&path)
                    .unwrap()
                    .into_iter()
                    .partition(|tensor| tensor.name.starts_with("batch."));
            let own = tensors.iter_mut().find(|tensor| tensor.name == "batch.0.lengths").unwrap();
            own.values = lengths.clone();
            let saved = Saved { path: path.clone(), tensors };
            let error = look_again(&saved, &weights, &told).unwrap_err().to_string();
            assert!(error.contains("batch.0.lengths is not that of its 9 inputs"), "{lengths:?}: {error}");
        }
    }
}
