//! One step of one layer with its backward pass, on plain numbers: for whoever walks through time himself, to
//! watch gradients on their way or to find the place where a number went wrong.

use carousel_kernels::{
    Batch, Frames, FramesMut, InputGradients, Layer, Layout, Precision, Signal, State, StateMut, Tape,
    WeightGradients, backward, forward,
};

use burn::module::Module;
use burn::tensor::Tensor;

use crate::layer::PlainWeights;
use crate::models::language_model::LanguageModel;
use crate::slices::with_slice;

/// States of some sequences, or vectors in their place: `[B, H]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pair {
    pub(crate) h: Vec<f32>,
    /// Empty for cells without one.
    pub(crate) c: Vec<f32>,
}

impl Pair {
    /// Zeros in the place of a layer's states.
    pub(crate) fn zeros(layer: &Layer, sequences: usize) -> Pair {
        let zeros = vec![0.0; sequences * layer.hidden];
        Pair { c: if layer.cell.has_cell_state() { zeros.clone() } else { Vec::new() }, h: zeros }
    }

    /// Those of the first sequences.
    pub(crate) fn first(&self, sequences: usize, hidden: usize) -> Pair {
        let floats = sequences * hidden;
        Pair { h: self.h[..floats].to_vec(), c: self.c[..floats.min(self.c.len())].to_vec() }
    }

    /// Puts others in the place of the first ones.
    pub(crate) fn put_first(&mut self, first: &Pair) {
        self.h[..first.h.len()].copy_from_slice(&first.h);
        self.c[..first.c.len()].copy_from_slice(&first.c);
    }

    fn lend(&self) -> State<'_> {
        State { h: Some(&self.h), c: (!self.c.is_empty()).then_some(&self.c[..]) }
    }

    fn lend_mut(&mut self) -> StateMut<'_> {
        StateMut { h: Some(&mut self.h), c: (!self.c.is_empty()).then_some(&mut self.c[..]) }
    }
}

/// The gradients that a step gives back.
pub(crate) struct Pulled {
    /// Of the state before it.
    pub(crate) before: Pair,
    /// Of its input, `[B, I]`.
    pub(crate) x: Vec<f32>,
    /// Of the gates before their non-linearities, summed over the sequences: `[G·H]`.
    pub(crate) gates: Vec<f32>,
}

/// One step of one layer for some sequences, and all that its derivatives need.
pub(crate) struct Step {
    pub(crate) layer: Layer,
    pub(crate) sequences: usize,
    pub(crate) x: Vec<f32>,
    pub(crate) before: Pair,
    /// The state after it.
    pub(crate) after: Pair,
    tape: Tape,
}

impl Step {
    /// Takes the step from `before` with `x` `[B, I]`.
    pub(crate) fn take(layer: Layer, weights: &PlainWeights, x: Vec<f32>, before: Pair) -> Step {
        let sequences = x.len() / layer.input;
        let mut step = Step {
            after: Pair::zeros(&layer, sequences),
            layer,
            sequences,
            x,
            before,
            tape: Tape::default(),
        };
        step.run(weights);
        step
    }

    fn frames(&self) -> Frames<'_> {
        Frames { data: &self.x, layout: Layout::Packed, stride: self.layer.input, offset: 0 }
    }

    fn run(&mut self, weights: &PlainWeights) {
        let hidden = self.layer.hidden;
        let mut y = vec![0.0; self.sequences * hidden];
        forward(
            &self.layer,
            &Batch::full(self.sequences, 1),
            weights.lend(),
            Frames { data: &self.x, layout: Layout::Packed, stride: self.layer.input, offset: 0 },
            self.before.lend(),
            FramesMut { data: &mut y, layout: Layout::Packed, stride: hidden, offset: 0 },
            self.after.lend_mut(),
            Some(&mut self.tape),
        )
        .expect("the model's sizes fit each other");
    }

    /// From the gradient of the state after the step (and of the output) to those of what went in.
    pub(crate) fn pull(&mut self, weights: &PlainWeights, dy: Option<&[f32]>, after: &Pair) -> Pulled {
        if !self.tape.is_full() {
            self.run(weights);
        }
        let hidden = self.layer.hidden;
        let mut dx = vec![0.0; self.x.len()];
        let mut before = Pair::zeros(&self.layer, self.sequences);
        let (input, recurrent, bias) = self.layer.weight_lengths();
        let lengths = [input, recurrent, bias, bias, self.layer.option_length()];
        let mut scratch = lengths.map(|length| vec![0.0; length]);
        let [input, recurrent, bias_input, bias_recurrent, options] = &mut scratch;
        let mut tape = std::mem::take(&mut self.tape);
        backward(
            &self.layer,
            &Batch::full(self.sequences, 1),
            weights.lend(),
            &mut tape,
            self.frames(),
            dy.map(|data| Frames { data, layout: Layout::Packed, stride: hidden, offset: 0 }),
            after.lend(),
            InputGradients::Write(FramesMut {
                data: &mut dx,
                layout: Layout::Packed,
                stride: self.layer.input,
                offset: 0,
            }),
            before.lend_mut(),
            WeightGradients { input, recurrent, bias_input, bias_recurrent, options },
        )
        .expect("the step was just taken with the same sizes");
        self.tape = tape;
        let [_, _, gates, ..] = scratch;
        Pulled { before, x: dx, gates }
    }

    /// A signal of the cell in this step, `[B, H]`.
    pub(crate) fn signal(&mut self, weights: &PlainWeights, signal: Signal) -> Vec<f32> {
        if !self.tape.is_full() {
            self.run(weights);
        }
        let mut values = vec![0.0; self.sequences * self.layer.hidden];
        self.tape.copy_signal(signal, Layout::Packed, &mut values).expect("the cell has it");
        values
    }
}

/// A model's numbers, copied.
pub(crate) struct Net {
    pub(crate) layers: Vec<(Layer, PlainWeights)>,
    /// `[V, E]`.
    pub(crate) table: Vec<f32>,
    /// `E`.
    pub(crate) width: usize,
    /// Weight and bias.
    pub(crate) output: (Vec<f32>, Vec<f32>),
    /// Whether each layer but the first adds what it reads to what it gives.
    residual: bool,
    /// What each layer begins from, one sequence.
    begin: Vec<Pair>,
}

impl Net {
    /// Copies of a model's weights. Its recurrence is one that the kernels know and that does not project, see
    /// [`Recurrent::walks_by_units`](crate::recurrent::Recurrent::walks_by_units).
    pub(crate) fn new(model: &LanguageModel) -> Net {
        let cell =
            model.recurrent().cell().fused().expect("callers look only into cells that the kernels know");
        let (zoneout, options) = (model.recurrent().zoneout(), model.recurrent().options());
        let layers = model.recurrent().weights().iter().map(|weights| {
            let input = weights.weight_ih.dims()[1];
            let hidden = weights.weight_hh.dims()[1];
            let direction = carousel_kernels::Direction::Forward;
            (
                Layer { cell, direction, input, hidden, precision: Precision::F32, zoneout, options },
                weights.plain(),
            )
        });
        let (embedding, output) = (model.embedding(), model.output());
        let first = model.recurrent().valid().first_state(1);
        let copy = |values: &Tensor<2>| with_slice(values, <[f32]>::to_vec);
        Net {
            layers: layers.collect(),
            table: with_slice(&embedding.weight.val(), <[f32]>::to_vec),
            width: embedding.weight.dims()[1],
            output: (
                with_slice(&output.weight.val(), <[f32]>::to_vec),
                with_slice(&output.bias.val(), <[f32]>::to_vec),
            ),
            residual: model.recurrent().is_residual(),
            begin: first
                .layers
                .iter()
                .map(|layer| Pair { h: copy(&layer.h), c: layer.c.as_ref().map_or(Vec::new(), copy) })
                .collect(),
        }
    }

    /// The states of sequences that have read nothing, layer by layer.
    pub(crate) fn first(&self, sequences: usize) -> Vec<Pair> {
        let repeat = |pair: &Pair| Pair { h: pair.h.repeat(sequences), c: pair.c.repeat(sequences) };
        self.begin.iter().map(repeat).collect()
    }

    /// Rows of the table.
    pub(crate) fn embed(&self, tokens: impl Iterator<Item = u32>) -> Vec<f32> {
        tokens.flat_map(|token| self.table[token as usize * self.width..][..self.width].to_vec()).collect()
    }

    /// One step of all layers.
    pub(crate) fn step(&self, mut x: Vec<f32>, states: &[Pair]) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::with_capacity(self.layers.len());
        for (index, ((layer, weights), before)) in self.layers.iter().zip(states).enumerate() {
            let step = Step::take(*layer, weights, x, before.clone());
            x = self.given(index, &step);
            steps.push(step);
        }
        steps
    }

    /// What a layer gives to the next.
    fn given(&self, layer: usize, step: &Step) -> Vec<f32> {
        let mut y = step.after.h.clone();
        if self.residual && layer > 0 {
            y.iter_mut().zip(&step.x).for_each(|(y, x)| *y += x);
        }
        y
    }

    /// What the top layer gives to the output.
    pub(crate) fn top(&self, steps: &[Step]) -> Vec<f32> {
        steps.last().map(|step| self.given(steps.len() - 1, step)).unwrap_or_default()
    }

    /// The gradient of what a layer reads: through its cells `dx`, and past them `dy`, that of what it gives.
    pub(crate) fn passed_down(&self, layer: usize, dy: Option<&[f32]>, mut dx: Vec<f32>) -> Vec<f32> {
        if let Some(dy) = dy.filter(|_| self.residual && layer > 0) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
        dx
    }
}
