//! Sizes of a pass's buffers at an instruction level.

use crate::pack::Panels;
use crate::shape::Layer;
use crate::simd::{Lanes, Level};

/// Sizes of the internal buffers of one pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) lanes: usize,
    /// Unit groups of `lanes` units.
    pub(crate) groups: usize,
    /// The same of `h`: fewer where it is projected. Its rows are as far apart as those of units.
    pub(crate) h_groups: usize,
    pub(crate) gates: usize,
    /// Floats from row to row of a unit buffer.
    pub(crate) unit_stride: usize,
    /// Floats from row to row of a gate buffer.
    pub(crate) gate_stride: usize,
    /// Whether products take pairs of bfloat16.
    pub(crate) pairs: bool,
}

impl Sizes {
    pub(crate) fn new(layer: &Layer, level: Level) -> Sizes {
        let lanes = level.lanes();
        let groups = layer.hidden.div_ceil(lanes);
        let gates = layer.cell.gates();
        // One cache line more than needed: rows of a power of two would all meet in the same cache sets.
        Sizes {
            lanes,
            groups,
            h_groups: layer.output().div_ceil(lanes),
            gates,
            unit_stride: (groups * lanes).next_multiple_of(16) + 16,
            gate_stride: (gates * groups * lanes).next_multiple_of(16) + 16,
            pairs: false,
        }
    }

    /// Units with padding.
    pub(crate) fn units(&self) -> usize {
        self.groups * self.lanes
    }

    /// Values of `h` with padding.
    pub(crate) fn h_units(&self) -> usize {
        self.h_groups * self.lanes
    }

    /// Panels for products whose columns are units: `gates` of them side by side.
    pub(crate) fn by_unit(&self, gates: usize, width: usize, depth: usize) -> Panels {
        self.panels(width, gates * self.groups, depth)
    }

    /// Panels for the product of `depth` units whose columns are values of a projected `h`.
    pub(crate) fn by_projection(&self, depth: usize) -> Panels {
        self.panels(4, self.h_groups, depth)
    }

    /// Panels for products of `depth` gate gradients whose columns are `columns` inputs or units.
    pub(crate) fn by_column(&self, columns: usize, depth: usize) -> Panels {
        self.panels(4, columns.div_ceil(self.lanes), depth)
    }

    fn panels(&self, width: usize, vectors: usize, depth: usize) -> Panels {
        let depth = if self.pairs { depth.div_ceil(2) } else { depth };
        Panels { lanes: self.lanes, width, vectors, depth, pairs: self.pairs }
    }

    /// The same for the products of `S`.
    pub(crate) fn of<S: Lanes>(layer: &Layer, simd: S) -> Sizes {
        Sizes { pairs: S::PAIRS, ..Sizes::new(layer, simd.level()) }
    }
}
