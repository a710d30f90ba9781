//! The time loop, and how its work is split over the team. No sigmoid here.
//!
//! ```text
//!            y0        y1        y2            one step of one layer:
//!            |         |         |               gates = W x[t] + b        (projected ahead, many steps)
//!   h0 --> [cell] -> [cell] -> [cell] --> hT            + U h[t-1]         (this loop)
//!            |         |         |               h[t]  = cell(gates)       (cell/*.rs)
//!            x0        x1        x2
//! ```
//!
//! The same panel of weights serves every step: that is the recurrence's weight sharing, and why the
//! weights are packed once a pass, or once for many.

mod backward;
mod forward;
mod frames;

pub(crate) use backward::BackwardPass;
pub(crate) use forward::{ForwardJob, ForwardPass, Source, fuses_input};
pub(crate) use frames::{InputGradient, RowProduct, RowSums};

use crate::cell::Kernel;
use crate::disjoint::{Geometry, OwnFrame, Split};
use crate::gemm::BLOCK;
use crate::shape::Batch;
use crate::simd::{Lanes, Level};
use crate::sizes::Sizes;
use crate::team::{self, Worker};
use std::ops::Range;

/// Multiply-adds below which one more worker costs more than it brings, a step.
const WORK_PER_WORKER: usize = 50_000;
/// Recurrent weights, in floats, above which each worker keeps to its own part of them: half a megabyte,
/// what a second-level cache holds beside everything else. Dealing ranks would stream all of them through
/// every worker's cache at every step.
const LARGE_WEIGHTS: usize = 1 << 17;
/// The same on processors with AVX-512, whose second-level caches have a megabyte, where units make less even shares
/// than ranks.
const LARGE_UNEVEN_WEIGHTS: usize = 3 << 16;

/// How the recurrence of a batch is dealt to the team.
pub(crate) fn geometry<'a>(batch: &'a Batch, sizes: &Sizes, groups: usize) -> Geometry<'a> {
    let weights = sizes.gates * sizes.units() * sizes.units();
    let work = batch.sequences() * weights;
    let workers = team::workers(work, WORK_PER_WORKER);
    let (ranks, few_rows) = (batch.sequences(), batch.sequences() < 8 * workers);
    // At every step all wait for whoever has the largest share.
    let ranks_are_more_even = ranks.div_ceil(workers) * groups < groups.div_ceil(workers) * ranks;
    let large = match ranks_are_more_even && sizes.lanes == Level::Avx512.lanes() {
        true => LARGE_UNEVEN_WEIGHTS,
        false => LARGE_WEIGHTS,
    };
    let (split, workers) = if (few_rows || weights > large) && groups > 1 {
        (Split::Units, workers.min(groups))
    } else {
        (Split::Ranks, workers.min(ranks.max(1)))
    };
    Geometry { starts: batch.starts(), split, groups, workers }
}

/// Own ranks of a worker in a range: first, gap, count.
pub(crate) fn own_ranks(
    geometry: &Geometry<'_>,
    worker: &Worker<'_>,
    range: Range<usize>,
) -> (usize, usize, usize) {
    let (first, gap) = geometry.own_ranks(worker);
    let skip = range.start.saturating_sub(first).div_ceil(gap);
    let first = first + skip * gap;
    (first, gap, range.end.saturating_sub(first).div_ceil(gap))
}

/// Own frames, about as many as the second-level cache holds the rows of.
struct FrameBlock<'a> {
    frames: [OwnFrame<'a>; BLOCK],
    count: usize,
}

impl<'a> FrameBlock<'a> {
    fn new() -> FrameBlock<'a> {
        FrameBlock { frames: [OwnFrame::NONE; BLOCK], count: 0 }
    }

    fn push(&mut self, frame: OwnFrame<'a>) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    fn frames(&self) -> &[OwnFrame<'a>] {
        &self.frames[..self.count]
    }
}

/// Whether a cell has products of this precision.
const fn has_kernel<S: Lanes, K: Kernel>() -> bool {
    !S::PAIRS || K::TRAITS.phases == 1
}
