//! A layer's weights as passes multiply with them.

use crate::cell::{Traits, traits_of};
use crate::disjoint::Pieces;
use crate::memory::Buffer;
use crate::operands::{Weights, check_layer};
use crate::pack::{self, Panels};
use crate::shape::{Cell, Layer, Reset, ShapeError};
use crate::simd::{Dispatch, Lanes, Level};
use crate::sizes::Sizes;
use crate::team;
use std::fmt;

/// A layer's weights as forward passes multiply with them, for many passes over the same weights: with
/// [`forward_packed`](crate::forward_packed) none of them packs weights, which costs a short sequence about as much
/// as its steps do.
///
/// It is a copy: it knows nothing of what becomes of the weights later.
pub struct PackedWeights {
    pub(crate) layer: Layer,
    pub(crate) level: Level,
    pub(crate) panels: [Panels; 3],
    pub(crate) packed: [Buffer; 3],
    pub(crate) bias: Buffer,
    pub(crate) options: Vec<f32>,
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights")
            .field("layer", &self.layer)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl PackedWeights {
    /// Packs them for the current [`Level`].
    ///
    /// # Errors
    /// [`ShapeError`] when a weight does not fit the layer.
    pub fn new(layer: &Layer, weights: Weights<'_>) -> Result<PackedWeights, ShapeError> {
        let (panels, packed, bias, options) = Default::default();
        let mut new = PackedWeights { layer: *layer, level: Level::current(), panels, packed, bias, options };
        new.repack(layer, weights)?;
        Ok(new)
    }

    /// Packs other weights in the same memory.
    ///
    /// # Errors
    /// As [`new`](PackedWeights::new); nothing has changed then.
    pub fn repack(&mut self, layer: &Layer, weights: Weights<'_>) -> Result<(), ShapeError> {
        check_layer(layer, &weights)?;
        (self.layer, self.level) = (*layer, Level::current());
        let pack = PackForward { layer, weights, packed: &mut self.packed, bias: &mut self.bias };
        self.panels = self.level.dispatch_at(layer.product_precision(), pack);
        self.options.clear();
        self.options.extend_from_slice(weights.options);
        Ok(())
    }

    /// Whether passes of this layer can use them, at the current [`Level`] and with these weights of its options.
    #[must_use]
    pub fn serves(&self, layer: &Layer, options: &[f32]) -> bool {
        let same = || self.options.iter().map(|x| x.to_bits()).eq(options.iter().map(|x| x.to_bits()));
        self.layer == *layer && self.level == Level::current() && same()
    }
}

/// The part of a `[G·H, columns]` weight that phase 0 or 1 multiplies, and its gates.
pub(crate) fn phase_of<'a>(traits: &Traits, phase: usize, weight: &'a [f32]) -> (&'a [f32], usize) {
    let gates = traits.gates;
    if traits.phases == 1 {
        return if phase == 0 { (weight, gates) } else { (&[], 0) };
    }
    let (first, second) = weight.split_at(weight.len() / gates * traits.panel);
    if phase == 0 { (first, traits.panel) } else { (second, gates - traits.panel) }
}

/// One of the matrices that a step multiplies with.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    /// How it is packed, columns by unit.
    pub(crate) panels: Panels,
    /// `[gates·units, depth]`.
    pub(crate) weight: &'a [f32],
    pub(crate) gates: usize,
    pub(crate) units: usize,
}

/// What the forward pass multiplies with: the input's weights, and the recurrent ones by phase. Panels of
/// all three cover the same units, but for those of a projection, which is the second phase's product.
pub(crate) fn products<'a>(layer: &Layer, weights: Weights<'a>, sizes: Sizes) -> [Weight<'a>; 3] {
    let traits = traits_of(layer.cell);
    let (hidden, gates) = (layer.hidden, traits.gates);
    let full = if traits.phases == 2 { gates } else { traits.panel };
    let (first, first_gates) = phase_of(&traits, 0, weights.recurrent);
    let (second, second_gates) = phase_of(&traits, 1, weights.recurrent);
    let of = |weight, gates, width, depth| Weight {
        panels: sizes.by_unit(gates, width, depth),
        weight,
        gates,
        units: hidden,
    };
    let second = match layer.options.projection {
        None => of(second, second_gates, second_gates.max(1), hidden),
        Some(units) => Weight {
            panels: sizes.by_projection(hidden),
            weight: projection(layer, weights.options),
            gates: 1,
            units,
        },
    };
    [
        of(weights.input, gates, full, layer.input),
        of(first, first_gates, traits.panel, layer.output()),
        second,
    ]
}

/// The weights of a projection, `[P, H]`, among those of the options.
pub(crate) fn projection<'a>(layer: &Layer, options: &'a [f32]) -> &'a [f32] {
    &options[layer.term_length()..]
}

/// Packs a layer's weights for the forward pass: the input's, and the recurrent ones by phase. `bias`
/// takes the input's bias, then the recurrent one, in the order of the columns.
pub(crate) struct PackForward<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) weights: Weights<'a>,
    pub(crate) packed: &'a mut [Buffer; 3],
    pub(crate) bias: &'a mut Buffer,
}

impl Dispatch for PackForward<'_> {
    type Output = [Panels; 3];

    fn run<S: Lanes>(self, simd: S) -> [Panels; 3] {
        let PackForward { layer, weights, packed, bias } = self;
        let sizes = Sizes::of(layer, simd);
        let products = products(layer, weights, sizes);
        let panels = products.map(|product| product.panels);
        pack_all(packed, panels, |which, panels, pieces, worker| {
            let Weight { weight, gates, units, .. } = products[which];
            pack::by_unit(simd, panels, pieces, worker, weight, gates, units);
        });
        pack_bias(layer, weights, sizes, bias);
        panels
    }
}

/// Packs a layer's biases: the input's, then the recurrent one, in the order of the columns. What can be
/// added ahead of the step is added to the input's.
pub(crate) fn pack_bias(layer: &Layer, weights: Weights<'_>, sizes: Sizes, bias: &mut Buffer) {
    let (hidden, gates) = (layer.hidden, sizes.gates);
    let columns = gates * sizes.units();
    let bias = bias.ensure(2 * columns);
    let (input_bias, recurrent_bias) = bias.split_at_mut(columns);
    input_bias.fill(0.0);
    recurrent_bias.fill(0.0);
    pack::add_bias(sizes.lanes, input_bias, weights.bias_input, gates, hidden);
    pack::add_bias(sizes.lanes, recurrent_bias, weights.bias_recurrent, gates, hidden);
    // A bias inside the reset gate's reach has to wait for the product; all others join the input's.
    let apart = layer.cell == Cell::Gru(Reset::After);
    for (column, (to, from)) in input_bias.iter_mut().zip(recurrent_bias.iter()).enumerate() {
        if !(apart && column / sizes.lanes % gates == 2) {
            *to += from;
        }
    }
}

/// Fills the packed buffers, each by the whole team.
pub(crate) fn pack_all(
    buffers: &mut [Buffer; 3],
    panels: [Panels; 3],
    pack: impl Fn(usize, Panels, &Pieces<'_>, &team::Worker<'_>) + Sync,
) {
    let floats: usize = panels.iter().map(Panels::floats).sum();
    let workers = team::workers(floats, 50_000);
    let [a, b, c] = buffers;
    let pieces = [panels[0].pieces(a, workers), panels[1].pieces(b, workers), panels[2].pieces(c, workers)];
    team::run_on(workers, |worker| {
        for (which, (panels, pieces)) in panels.iter().zip(&pieces).enumerate() {
            if panels.vectors > 0 {
                pack(which, *panels, pieces, worker);
            }
        }
    });
}
