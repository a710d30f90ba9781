//! The Burn extension over `carousel_kernels`: recurrent layers, embedding and output layer with their own
//! backward passes, for 32-bit floats in CPU memory.
//!
//! An autodiff operation of Burn has one output. A layer has several: its outputs and, per direction, its last
//! state. So the layer itself is an operation whose output is a one-element *handle*, and each real output is a
//! further operation with the handle as its only parent:
//!
//! ```text
//! x, weights, initial state ──> handle ──> y
//!                                  ├─────> h, c of the forward direction
//!                                  └─────> h, c of the reverse direction
//! ```
//!
//! Backward of an output leaves its gradient in a place it shares with the layer and gives the handle a dummy
//! gradient. Burn runs the handle after all its children that take part; what is not there by then is zero.

use std::sync::{Arc, Mutex};

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};
use carousel_kernels::{self as kernels, Batch, Layer, Layout};

use crate::buffers::buffer;
use crate::layer::{LayerInput, LayerNoise, LayerOutput, RecurrentWeights};
use crate::lock::lock;
use crate::operation::{Operands, Tracked, from_tracked, record};
use crate::packed::PackedOnce;
use crate::slices::{dense, flex, on_strategy, primitive, slice};
use crate::state::LayerState;
use crate::tapes::PooledTape;

// --- the recurrent layer ------------------------------------------------------------------------------------

/// What one direction reads, dense.
struct DirectionInputs {
    weight_ih: FlexTensor,
    weight_hh: FlexTensor,
    bias_ih: FlexTensor,
    bias_hh: FlexTensor,
    options: Option<FlexTensor>,
    h: Option<FlexTensor>,
    c: Option<FlexTensor>,
    packed: PackedOnce,
}

impl DirectionInputs {
    fn new(weights: &RecurrentWeights, initial: Option<&LayerState>) -> DirectionInputs {
        DirectionInputs {
            weight_ih: dense(primitive(weights.weight_ih.val())),
            weight_hh: dense(primitive(weights.weight_hh.val())),
            bias_ih: dense(primitive(weights.bias_ih.val())),
            bias_hh: dense(primitive(weights.bias_hh.val())),
            options: weights.options().map(|options| dense(primitive(options))),
            h: initial.map(|state| dense(primitive(state.h.clone()))),
            c: initial.and_then(|state| state.c.clone()).map(|c| dense(primitive(c))),
            packed: weights.packed.clone(),
        }
    }

    /// Its weights as passes without gradients multiply with them.
    fn packed(&self, layer: &Layer) -> Arc<kernels::PackedWeights> {
        let tensors = [&self.weight_ih, &self.weight_hh, &self.bias_ih, &self.bias_hh];
        self.packed.get(layer, tensors, self.weights())
    }

    fn weights(&self) -> kernels::Weights<'_> {
        kernels::Weights {
            input: slice(&self.weight_ih),
            recurrent: slice(&self.weight_hh),
            bias_input: slice(&self.bias_ih),
            bias_recurrent: slice(&self.bias_hh),
            options: self.options.as_ref().map_or(&[], slice),
        }
    }

    fn initial(&self) -> kernels::State<'_> {
        kernels::State { h: self.h.as_ref().map(slice), c: self.c.as_ref().map(slice) }
    }
}

/// A layer's sizes and everything it reads.
struct Run {
    batch: Arc<Batch>,
    layers: Vec<Layer>,
    x: FlexTensor,
    index: Option<Arc<Vec<u32>>>,
    x_layout: Layout,
    y_layout: Layout,
    directions: Vec<DirectionInputs>,
}

/// What a run computes.
struct Outputs {
    y: FlexTensor,
    last: Vec<(FlexTensor, Option<FlexTensor>)>,
}

impl Run {
    /// Columns of `y`, `D·P`.
    fn width(&self) -> usize {
        self.layers.iter().map(Layer::output).sum()
    }

    fn x(&self) -> kernels::Inputs<'_> {
        let (data, stride) = (slice(&self.x), self.layers[0].input);
        match &self.index {
            Some(index) => kernels::Inputs::Rows { data, index },
            None => kernels::Frames { data, layout: self.x_layout, stride, offset: 0 }.into(),
        }
    }

    /// Runs the kernel in every direction; each writes its columns of one `y`.
    fn forward(&self, noise: Option<&LayerNoise<'_>>, mut tapes: Option<&mut Vec<PooledTape>>) -> Outputs {
        let width = self.width();
        let rows = self.batch.rows(self.y_layout);
        let mut y = buffer(rows * width);
        let mut last = Vec::with_capacity(self.layers.len());
        let mut offset = 0;
        for (index, (layer, inputs)) in self.layers.iter().zip(&self.directions).enumerate() {
            let [of_h, of_c] = [layer.output(), layer.hidden].map(|width| [self.batch.sequences(), width]);
            let mut h = buffer(of_h.iter().product());
            let mut c = layer.cell.has_cell_state().then(|| buffer(of_c.iter().product()));
            let y = kernels::FramesMut { data: &mut y, layout: self.y_layout, stride: width, offset };
            let end = kernels::StateMut { h: Some(&mut h), c: c.as_deref_mut() };
            let tape = tapes.as_deref_mut().map(|tapes| &mut tapes[index].tape);
            let (batch, weights, start) = (&self.batch, inputs.weights(), inputs.initial());
            match (noise.map(|noise| noise.of(index)), tape) {
                (None, None) => {
                    kernels::forward_packed(&inputs.packed(layer), batch, self.x(), start, y, end)
                }
                (None, tape) => kernels::forward(layer, batch, weights, self.x(), start, y, end, tape),
                (Some(noise), tape) => {
                    kernels::forward_noisy(layer, batch, weights, noise, self.x(), start, y, end, tape)
                }
            }
            .expect("shapes were checked before the call");
            offset += layer.output();
            last.push((h.into_tensor(of_h), c.map(|c| c.into_tensor(of_c))));
        }
        Outputs { y: y.into_tensor([rows, width]), last }
    }
}

/// A run that waits for its backward pass, and the gradients its outputs have brought so far: place 0 is `y`,
/// then `h` and `c` of each direction.
struct Pending {
    run: Run,
    tapes: Vec<PooledTape>,
    gradients: Vec<Option<FlexTensor>>,
}

/// A place shared by the handle and the outputs; empty once the handle's backward pass has run.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Pending>>>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// Backward of an output: leaves its gradient in place `.1`.
#[derive(Debug)]
struct OutputBackward;

impl Backward<Flex, 1> for OutputBackward {
    type State = (Shared, usize);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (Shared(pending), place) = ops.state;
        let gradient = dense(gradients.consume::<Flex>(&ops.node));
        if let Some(pending) = lock(&pending).as_mut() {
            pending.gradients[place] = Some(gradient);
        }
        let [handle] = ops.parents;
        if let Some(handle) = handle {
            gradients.register::<Flex>(handle.id, flex(vec![0.0], [1]));
        }
    }
}

/// Parents of a layer's handle: x, then seven a direction (weight_ih, weight_hh, bias_ih, bias_hh, weights of the
/// cell's options, h, c).
const PARENTS_A_DIRECTION: usize = 7;

/// Backward of the handle: one call of the kernel a direction.
#[derive(Debug)]
struct LayerBackward;

impl<const N: usize> Backward<Flex, N> for LayerBackward {
    type State = Shared;

    fn backward(self, ops: Ops<Shared, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        gradients.consume::<Flex>(&ops.node);
        let Some(pending) = lock(&ops.state.0).take() else { return };
        let Pending { run, mut tapes, gradients: outputs } = pending;
        let width = run.width();
        let parent = |index: usize| ops.parents[index].as_ref().map(|node| node.id);

        let mut dx = parent(0).map(|_| buffer(slice(&run.x).len()));
        let mut offset = 0;
        for (index, (layer, inputs)) in run.layers.iter().zip(&run.directions).enumerate() {
            let first = 1 + PARENTS_A_DIRECTION * index;
            let (input, recurrent, bias) = layer.weight_lengths();
            let mut weights = [input, recurrent, bias, bias, layer.option_length()].map(buffer);
            let [d_input, d_recurrent, d_bias_input, d_bias_recurrent, d_options] = &mut weights;
            let [of_h, of_c] = [layer.output(), layer.hidden].map(|width| [run.batch.sequences(), width]);
            let mut dh = parent(first + 5).map(|_| buffer(of_h.iter().product()));
            let mut dc = parent(first + 6).map(|_| buffer(of_c.iter().product()));
            kernels::backward(
                layer,
                &run.batch,
                inputs.weights(),
                &mut tapes[index].tape,
                run.x(),
                outputs[0].as_ref().map(|dy| kernels::Frames {
                    data: slice(dy),
                    layout: run.y_layout,
                    stride: width,
                    offset,
                }),
                kernels::State {
                    h: outputs[1 + 2 * index].as_ref().map(slice),
                    c: outputs[2 + 2 * index].as_ref().map(slice),
                },
                match dx.as_mut() {
                    None => kernels::InputGradients::None,
                    Some(dx) => {
                        let into = kernels::FramesMut {
                            data: dx,
                            layout: run.x_layout,
                            stride: layer.input,
                            offset: 0,
                        };
                        match index {
                            0 => kernels::InputGradients::Write(into),
                            _ => kernels::InputGradients::Add(into),
                        }
                    }
                },
                kernels::StateMut { h: dh.as_deref_mut(), c: dc.as_deref_mut() },
                kernels::WeightGradients {
                    input: d_input,
                    recurrent: d_recurrent,
                    bias_input: d_bias_input,
                    bias_recurrent: d_bias_recurrent,
                    options: d_options,
                },
            )
            .expect("shapes were checked by the forward pass");
            offset += layer.output();

            let rows = bias;
            let shapes: [Shape; 5] = [
                [rows, layer.input].into(),
                [rows, layer.output()].into(),
                [rows].into(),
                [rows].into(),
                [layer.option_length() / layer.hidden, layer.hidden].into(),
            ];
            for (place, (values, shape)) in weights.into_iter().zip(shapes).enumerate() {
                if let Some(id) = parent(first + place) {
                    gradients.register::<Flex>(id, values.into_tensor(shape));
                }
            }
            for (place, values, shape) in [(5, dh, of_h), (6, dc, of_c)] {
                if let (Some(id), Some(values)) = (parent(first + place), values) {
                    gradients.register::<Flex>(id, values.into_tensor(shape));
                }
            }
        }
        if let (Some(id), Some(dx)) = (parent(0), dx) {
            let rows = dx.len() / run.layers[0].input;
            gradients.register::<Flex>(id, dx.into_tensor([rows, run.layers[0].input]));
        }
    }
}

/// One layer in all its directions. Shapes are checked by the caller.
pub(crate) fn layer(
    input: LayerInput<'_>,
    directions: &[(Layer, &RecurrentWeights)],
    initial: Option<&[LayerState]>,
) -> LayerOutput {
    let initial = |index: usize| initial.map(|all| &all[index]);
    let noise = input.noise.as_ref();
    let run = Run {
        batch: input.batch.clone(),
        layers: directions.iter().map(|(layer, _)| *layer).collect(),
        x: dense(primitive(input.x.clone())),
        index: input.index,
        x_layout: input.x_layout,
        y_layout: input.y_layout,
        directions: directions
            .iter()
            .enumerate()
            .map(|(index, (_, weights))| DirectionInputs::new(weights, initial(index)))
            .collect(),
    };

    let mut operands = Operands::default();
    let mut parents = vec![operands.add(input.x)];
    for (index, (_, weights)) in directions.iter().enumerate() {
        parents.push(operands.add(weights.weight_ih.val()));
        parents.push(operands.add(weights.weight_hh.val()));
        parents.push(operands.add(weights.bias_ih.val()));
        parents.push(operands.add(weights.bias_hh.val()));
        parents.push(operands.add_optional(weights.options()));
        let state = initial(index);
        parents.push(operands.add_optional(state.map(|state| state.h.clone())));
        parents.push(operands.add_optional(state.and_then(|state| state.c.clone())));
    }

    let Some(strategy) = operands.graph() else {
        let Outputs { y, last } = run.forward(noise, None);
        let wrap = |values| on_strategy(Tensor::from_primitive::<Flex>(values), operands.strategy);
        let last = last.into_iter().map(|(h, c)| LayerState { h: wrap(h), c: c.map(wrap) }).collect();
        return LayerOutput { y: wrap(y), last };
    };

    for (_, weights) in directions {
        weights.packed.forget();
    }
    let mut tapes: Vec<_> = directions.iter().map(|(_, weights)| weights.tapes.take()).collect();
    let Outputs { y, last } = run.forward(noise, Some(&mut tapes));
    let gradients = (0..1 + 2 * directions.len()).map(|_| None).collect();
    let shared = Shared(Arc::new(Mutex::new(Some(Pending { run, tapes, gradients }))));
    let handle = match directions.len() {
        1 => handle::<{ 1 + PARENTS_A_DIRECTION }>(parents, shared.clone()),
        _ => handle::<{ 1 + 2 * PARENTS_A_DIRECTION }>(parents, shared.clone()),
    };
    let output = |place: usize, values: FlexTensor| {
        from_tracked(record(OutputBackward, [handle.node()], (shared.clone(), place), values), strategy)
    };
    let y = output(0, y);
    let last = last
        .into_iter()
        .enumerate()
        .map(|(index, (h, c))| LayerState {
            h: output(1 + 2 * index, h),
            c: c.map(|c| output(2 + 2 * index, c)),
        })
        .collect();
    LayerOutput { y, last }
}

fn handle<const N: usize>(parents: Vec<Tracked>, shared: Shared) -> Tracked {
    let nodes: Vec<_> = parents.iter().map(Tracked::node).collect();
    let nodes: [_; N] =
        nodes.try_into().unwrap_or_else(|_| unreachable!("seven parents a direction and x were listed"));
    record(LayerBackward, nodes, shared, flex(vec![0.0], [1]))
}

// --- embedding ----------------------------------------------------------------------------------------------

/// What backward of an embedding needs.
#[derive(Clone, Debug)]
struct Looked {
    ids: Arc<Vec<u32>>,
    vocabulary: usize,
    width: usize,
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    type State = Looked;

    fn backward(self, ops: Ops<Looked, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(gradients.consume::<Flex>(&ops.node));
        let [table] = ops.parents;
        let Some(table) = table else { return };
        let Looked { ids, vocabulary, width } = ops.state;
        let mut sums = buffer(vocabulary * width);
        kernels::embedding::scatter(width, &ids, slice(&dy), &mut sums)
            .expect("shapes were checked by the forward pass");
        gradients.register::<Flex>(table.id, sums.into_tensor([vocabulary, width]));
    }
}

/// Rows `ids` of `table` `[V, E]`: `[ids, E]`. Every id is below `V`, checked by the caller.
pub(crate) fn embedding(table: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let [vocabulary, width] = table.dims();
    let values = dense(primitive(table.clone()));
    let mut rows = buffer(ids.len() * width);
    kernels::embedding::gather(slice(&values), width, ids, &mut rows)
        .expect("ids were checked before the call");
    let mut operands = Operands::default();
    let parents = [operands.add(table)];
    let state = || Looked { ids: Arc::new(ids.to_vec()), vocabulary, width };
    operands.finish(parents, EmbeddingBackward, state, rows.into_tensor([ids.len(), width]))
}

// --- output layer with its loss -----------------------------------------------------------------------------

/// Backward of the loss: its gradients were computed with it, and only wait for the factor.
#[derive(Debug)]
struct LossBackward;

impl Backward<Flex, 3> for LossBackward {
    /// Gradients of x, weight and bias.
    type State = [FlexTensor; 3];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let incoming = dense(gradients.consume::<Flex>(&ops.node));
        let factor = slice(&incoming)[0];
        for (parent, mut gradient) in ops.parents.into_iter().zip(ops.state) {
            if let Some(parent) = parent {
                // A loss that is the root of its graph has factor one: nothing to do.
                if factor != 1.0 {
                    gradient.storage_mut::<f32>().iter_mut().for_each(|value| *value *= factor);
                }
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// The output layer's parameters, dense.
struct OutputInputs {
    weight: FlexTensor,
    bias: FlexTensor,
}

impl OutputInputs {
    fn new(weight: &Tensor<2>, bias: &Tensor<1>) -> OutputInputs {
        OutputInputs { weight: dense(primitive(weight.clone())), bias: dense(primitive(bias.clone())) }
    }

    fn kernels(&self) -> kernels::loss::Output<'_> {
        kernels::loss::Output { weight: slice(&self.weight), bias: Some(slice(&self.bias)) }
    }
}

/// Mean cross-entropy in nats, `[1]`, of `x` `[N, H]` through the output layer `weight` `[V, H]`, `bias` `[V]`
/// over the targets that are not [`IGNORE`](kernels::loss::IGNORE): `counted`, at least one.
pub(crate) fn cross_entropy(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    targets: &[u32],
    counted: usize,
    smoothing: f32,
) -> Tensor<1> {
    let [rows, hidden] = x.dims();
    let vocabulary = weight.dims()[0];
    let inputs = OutputInputs::new(&weight, &bias);
    let values = dense(primitive(x.clone()));
    let mean = |loss: kernels::loss::Loss| flex(vec![(loss.nats / counted as f64) as f32], [1]);

    let mut operands = Operands::default();
    let parents = [operands.add(x), operands.add(weight), operands.add(bias)];
    let graph = operands.graph();
    // Only the pass with gradients knows label smoothing.
    if graph.is_none() && smoothing == 0.0 {
        let loss = kernels::loss::cross_entropy(inputs.kernels(), hidden, slice(&values), targets)
            .expect("shapes were checked before the call");
        return Tensor::from_primitive::<Flex>(mean(loss));
    }
    let mut dx = buffer(rows * hidden);
    let mut dweight = buffer(vocabulary * hidden);
    let mut dbias = buffer(vocabulary);
    let loss = kernels::loss::cross_entropy_backward(
        inputs.kernels(),
        hidden,
        slice(&values),
        targets,
        kernels::loss::Objective { scale: (1.0 / counted as f64) as f32, smoothing },
        kernels::loss::OutputGradients { x: &mut dx, weight: &mut dweight, bias: Some(&mut dbias) },
    )
    .expect("shapes were checked before the call");
    let state = [
        dx.into_tensor([rows, hidden]),
        dweight.into_tensor([vocabulary, hidden]),
        dbias.into_tensor([vocabulary]),
    ];
    let Some(strategy) = graph else { return Tensor::from_primitive::<Flex>(mean(loss)) };
    let nodes = parents.each_ref().map(Tracked::node);
    from_tracked(record(LossBackward, nodes, state, mean(loss)), strategy)
}

/// The summed loss of `x` `[N, H]`, without a gradient.
pub(crate) fn evaluate(
    x: &Tensor<2>,
    weight: &Tensor<2>,
    bias: &Tensor<1>,
    targets: &[u32],
) -> kernels::loss::Loss {
    let inputs = OutputInputs::new(weight, bias);
    let values = dense(primitive(x.clone()));
    kernels::loss::cross_entropy(inputs.kernels(), x.dims()[1], slice(&values), targets)
        .expect("shapes were checked before the call")
}

/// `x` `[N, H]` through the output layer, `[N, V]`. Without a gradient.
pub(crate) fn logits(x: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) -> Tensor<2> {
    let [rows, hidden] = x.dims();
    let vocabulary = weight.dims()[0];
    let inputs = OutputInputs::new(weight, bias);
    let values = dense(primitive(x.clone()));
    let mut logits = buffer(rows * vocabulary);
    kernels::loss::logits(inputs.kernels(), hidden, slice(&values), &mut logits)
        .expect("shapes were checked before the call");
    Tensor::from_primitive::<Flex>(logits.into_tensor([rows, vocabulary]))
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::cell::Cell;
    use crate::parameters::NamedParameters;
    use crate::recurrent::{Direction, Recurrent, RecurrentConfig};
    use crate::slices::with_slice;

    fn stack() -> Recurrent {
        RecurrentConfig::new(Cell::Lstm, 3, 4)
            .with_direction(Direction::Both)
            .with_layers(2)
            .init(&Device::default().autodiff())
            .expect("sizes are not zero")
    }

    fn run(stack: &Recurrent) -> Tensor<3> {
        let x = Tensor::<3>::ones([2, 5, 3], &Device::default());
        stack.forward(x, None).0
    }

    fn waiting(stack: &Recurrent) -> Vec<usize> {
        stack.weights().iter().map(|weights| weights.tapes.waiting()).collect()
    }

    #[test]
    fn tapes_are_used_again() {
        let stack = stack();
        for _ in 0..3 {
            let loss = run(&stack).sum();
            assert!(waiting(&stack).iter().all(|&count| count == 0), "in use: {:?}", waiting(&stack));
            loss.backward();
            assert_eq!(waiting(&stack), [1; 4]);
        }
    }

    #[test]
    fn a_pass_without_gradients_takes_no_tape() {
        let stack = stack();
        let y = run(&stack.valid());
        assert!(!y.is_autodiff());
        assert_eq!(waiting(&stack), [0; 4]);
    }

    #[test]
    fn a_graph_that_is_given_up_gives_its_tapes_back() {
        let stack = stack();
        drop(run(&stack));
        run(&stack).sum().backward();
        assert_eq!(waiting(&stack), [2; 4]);
    }

    fn packed(stack: &Recurrent) -> Vec<Option<*const kernels::PackedWeights>> {
        stack.weights().iter().map(|weights| weights.packed.place()).collect()
    }

    fn values(stack: &Recurrent) -> Vec<f32> {
        with_slice(&run(stack), <[f32]>::to_vec)
    }

    /// With peepholes, whose weights are copied for every pass, and without.
    #[test]
    fn weights_are_packed_once_for_as_long_as_they_stay_what_they_are() {
        for peephole in [false, true] {
            let options = kernels::CellOptions { peephole, ..kernels::CellOptions::PLAIN };
            let config = RecurrentConfig::new(Cell::Lstm, 3, 4).with_layers(2).with_options(options);
            let mut stack = config.init(&Device::default()).expect("sizes are not zero");
            let first = values(&stack);
            let places = packed(&stack);
            assert!(places.iter().all(Option::is_some));
            assert_eq!(values(&stack), first);
            assert_eq!(packed(&stack), places, "packed again");

            for index in 0..stack.parameters().len() {
                // A clone shares what is packed, but not what becomes of the weights.
                let before = stack.clone();
                let expected = values(&stack);
                let (name, mut parameter) = stack.parameters_mut().swap_remove(index);
                parameter.with_slice_mut(|values| values[1] += 0.5);
                let changed = values(&stack);
                assert_ne!(changed, expected, "{name} was changed");
                assert_eq!(values(&before), expected, "{name} of the clone was not");
                assert_eq!(values(&stack), changed);
            }
        }
    }

    #[test]
    fn a_pass_with_gradients_lets_go_of_packed_weights() {
        let stack = stack();
        run(&stack.valid());
        assert!(packed(&stack).iter().all(Option::is_some));
        run(&stack).sum().backward();
        assert_eq!(packed(&stack), [None; 4]);
    }

    /// An optimiser changes the same memory step after step, whatever was evaluated in between, and the next pass
    /// sees the change.
    #[test]
    fn parameters_change_in_place() {
        let mut stack = stack();
        let mut places = Vec::new();
        let mut losses = Vec::new();
        for _ in 0..3 {
            run(&stack.valid());
            let loss = run(&stack).sum();
            losses.push(with_slice(&loss, |values| values[0]));
            let gradients = stack.take_gradients(&mut loss.backward());
            let place: Vec<usize> = stack
                .parameters_mut()
                .into_iter()
                .zip(&gradients)
                .map(|((_, mut parameter), gradient)| {
                    parameter.with_slice_mut(|values| {
                        with_slice(gradient, |gradient| {
                            values.iter_mut().zip(gradient).for_each(|(value, d)| *value -= 0.01 * d);
                        });
                        values.as_ptr().addr()
                    })
                })
                .collect();
            places.push(place);
        }
        assert_eq!(places[0], places[1]);
        assert_eq!(places[1], places[2]);
        assert!(losses[0] > losses[1] && losses[1] > losses[2], "{losses:?}");
    }

    #[test]
    fn changing_a_shared_parameter_leaves_the_other_holder_alone() {
        let mut stack = stack();
        let snapshot = stack.valid();
        for (_, mut parameter) in stack.parameters_mut() {
            parameter.with_slice_mut(|values| values.fill(7.0));
        }
        for (name, parameter) in snapshot.parameters() {
            parameter.with_slice(|values| assert!(values.iter().all(|&value| value != 7.0), "{name}"));
        }
    }
}
