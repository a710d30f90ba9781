//! Keeps what the cells of a stack had at every step: states and gates, under the names of their equations.
//!
//! [`Recurrent::forward_recorded`](crate::recurrent::Recurrent::forward_recorded) records whole sequences,
//! [`Stepper::record`](crate::stepper::Stepper::record) one step. The kernels leave all of this behind anyway:
//! recording costs a copy of what is kept.

use carousel_kernels::{
    Batch, Direction, Frames, FramesMut, Layer, Layout, State as KernelState, StateMut, Weights, forward,
};

use crate::fused::with_slice;
use crate::layer::RecurrentWeights;
use crate::recurrent::Merge;
use crate::state::LayerState;

/// What a recording keeps.
///
/// ```
/// use carousel::record::Keep;
///
/// let keep = Keep::signals(["h", "f"]).with_layers([1]);
/// assert!(keep.wants(1, "f"));
/// assert!(!keep.wants(0, "f") && !keep.wants(1, "c"));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Keep {
    signals: Option<Vec<String>>,
    layers: Option<Vec<usize>>,
}

impl Keep {
    /// Every signal of every layer.
    pub fn all() -> Keep {
        Keep::default()
    }

    /// The signals of these names. A name that a cell does not expose keeps nothing of it.
    pub fn signals<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Keep {
        Keep { signals: Some(names.into_iter().map(Into::into).collect()), layers: None }
    }

    /// Of these layers only, counted from 0 at the input.
    pub fn with_layers(self, layers: impl IntoIterator<Item = usize>) -> Keep {
        Keep { layers: Some(layers.into_iter().collect()), ..self }
    }

    /// Whether a layer's signal is kept.
    #[must_use]
    pub fn wants(&self, layer: usize, signal: &str) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
            && self.signals.as_ref().is_none_or(|signals| signals.iter().any(|name| name == signal))
    }
}

/// One signal of one layer in one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The layer, 0 at the input.
    pub layer: usize,
    /// Which way the layer walks.
    pub direction: Direction,
    /// The signal: `h`; of an LSTM also `c i f g o`, of a GRU `r z n`.
    pub name: String,
    /// `H`, or `P` of a projected `h`.
    pub units: usize,
    /// So many a row, a row a frame, in the order of what was recorded.
    pub values: Vec<f32>,
}

/// All that a recording kept.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::cell::Cell;
/// use carousel::record::Keep;
/// use carousel::recurrent::RecurrentConfig;
///
/// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).with_layers(2).init(&Device::default())?;
/// let x = Tensor::<3>::ones([4, 5, 3], &Device::default());
/// let (y, _, record) = stack.forward_recorded(x, None, &Keep::all());
/// assert_eq!(record.series.len(), 12); // two layers of h c i f g o
/// let forget = record.get(0, "f").expect("an LSTM has a forget gate");
/// assert_eq!(forget.values.len(), 4 * 5 * 8); // batch, time, units
/// let (top, y) = (record.get(1, "h").expect("every cell has h"), y.into_data());
/// assert_eq!(top.values, y.try_into_vec::<f32>().expect("of 32-bit floats"));
/// # Ok::<(), carousel::recurrent::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Layer after layer; within a layer by direction, then in the order of the cell's signals.
    pub series: Vec<Series>,
}

impl Record {
    /// A layer's signal; that of the forward direction where there are two.
    #[must_use]
    pub fn get(&self, layer: usize, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.layer == layer && series.name == name)
    }
}

/// A layer's sizes and weights, one entry a direction.
type Directions<'a> = [(Layer, &'a RecurrentWeights)];

/// Runs a stack on the CPU over rows `[rows, I]` and returns the last layer's output, the last states and what
/// was to be kept.
pub(crate) fn run(
    layers: &[Vec<(Layer, &RecurrentWeights)>],
    wiring: Wiring,
    mut x: Vec<f32>,
    batch: &Batch,
    layout: Layout,
    initial: Option<&[LayerState]>,
    keep: &Keep,
) -> (Vec<f32>, Vec<Last>, Record) {
    let mut record = Record::default();
    let mut last = Vec::new();
    for (layer, directions) in layers.iter().enumerate() {
        let initial = initial.map(|all| &all[last.len()..last.len() + directions.len()]);
        let y = run_layer(layer, directions, &x, batch, layout, initial, keep, &mut record, &mut last);
        let mut y = match (wiring.merge, &directions[..]) {
            (Merge::Sum, [(sizes, _), _]) => {
                let (rows, width) = (y.chunks_exact(2 * sizes.output()), sizes.output());
                rows.flat_map(|row| (0..width).map(move |at| row[at] + row[width + at])).collect()
            }
            _ => y,
        };
        if wiring.residual && layer > 0 {
            y.iter_mut().zip(&x).for_each(|(y, x)| *y += x);
        }
        x = y;
    }
    (x, last, record)
}

/// What lies between the layers.
#[derive(Clone, Copy)]
pub(crate) struct Wiring {
    pub(crate) merge: Merge,
    pub(crate) residual: bool,
}

/// A direction's last `h`, `[B, P]`, and `c`, `[B, H]`.
pub(crate) type Last = (Vec<f32>, Option<Vec<f32>>);

#[allow(clippy::too_many_arguments)]
fn run_layer(
    layer: usize,
    directions: &Directions<'_>,
    x: &[f32],
    batch: &Batch,
    layout: Layout,
    initial: Option<&[LayerState]>,
    keep: &Keep,
    record: &mut Record,
    last: &mut Vec<Last>,
) -> Vec<f32> {
    let width: usize = directions.iter().map(|(sizes, _)| sizes.output()).sum();
    let rows = batch.rows(layout);
    let mut y = vec![0.0; rows * width];
    let mut offset = 0;
    for (index, (sizes, weights)) in directions.iter().enumerate() {
        let mut h = vec![0.0; batch.sequences() * sizes.output()];
        let mut c = sizes.cell.has_cell_state().then(|| vec![0.0; batch.sequences() * sizes.hidden]);
        let mut tape = weights.tapes.take();
        let state = initial.map(|all| &all[index]);
        let initial_h = state.map(|state| with_slice(&state.h, <[f32]>::to_vec));
        let initial_c = state.and_then(|state| state.c.as_ref()).map(|c| with_slice(c, <[f32]>::to_vec));
        with_weights(weights, |weights| {
            forward(
                sizes,
                batch,
                weights,
                Frames { data: x, layout, stride: sizes.input, offset: 0 },
                KernelState { h: initial_h.as_deref(), c: initial_c.as_deref() },
                FramesMut { data: &mut y, layout, stride: width, offset },
                StateMut { h: Some(&mut h), c: c.as_deref_mut() },
                Some(&mut tape.tape),
            )
            .expect("the stack was made with sizes that fit");
        });
        for &(name, signal) in sizes.cell.signals() {
            if keep.wants(layer, name) {
                let units = sizes.width_of(signal);
                let mut values = vec![0.0; rows * units];
                tape.tape.copy_signal(signal, layout, &mut values).expect("the tape was just filled");
                record.series.push(Series {
                    layer,
                    direction: sizes.direction,
                    name: name.to_owned(),
                    units,
                    values,
                });
            }
        }
        offset += sizes.output();
        last.push((h, c));
    }
    y
}

/// Lends a direction's weights to the kernels.
pub(crate) fn with_weights<R>(weights: &RecurrentWeights, f: impl FnOnce(Weights<'_>) -> R) -> R {
    with_slice(&weights.weight_ih.val(), |input| {
        with_slice(&weights.weight_hh.val(), |recurrent| {
            with_slice(&weights.bias_ih.val(), |bias_input| {
                with_slice(&weights.bias_hh.val(), |bias_recurrent| {
                    let options = &weights.option_values();
                    f(Weights { input, recurrent, bias_input, bias_recurrent, options })
                })
            })
        })
    })
}
