//! What chance does inside a step: zoneout, and what drops out of the recurrence.
//!
//! ```text
//! zoneout (Krueger et al. 2017)                      h' = s * h' + (1 - s) * h, and so c
//!     s: 0 or 1 while learning, afterwards its mean
//! recurrent dropout (Gal and Ghahramani 2016)        U (m * h), one m a sequence
//! dropout of the update (Semeniuta et al. 2016)      c' = f * c + i * (m * g),  h' = (1 - z) * (m * n) + z * h
//!     m: 0 or 1 / (1 - p)
//! ```
//!
//! No mask is kept: a worker counts the factors of a tile into a few rows just before the tile is computed, and
//! cells find them there. All that a cell sees are rows to multiply with.

use crate::disjoint::{Ranks, Tile};
use crate::dropout::{Mask, key};
use crate::shape::{Batch, Cell, Layer, Layout, ShapeError, expect};
use crate::simd::{Job, Lanes};

/// What a pass leaves to chance inside its steps, beside the zoneout of its [`Layer`].
///
/// Masks follow from a key and an element's place. Those that change from step to step are placed by the
/// frame's row in [`Layout::Packed`] order, those that are locked by the sequence's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepNoise<'a> {
    /// Names what is locked; see [`dropout::key`](crate::dropout::key).
    pub key: u64,
    /// Names what changes from step to step. Passes that read one sequence in pieces have one `key` and a
    /// `free` each.
    pub free: u64,
    /// Probability that a unit of `h` drops out of what the recurrent weights multiply, the same units at all
    /// steps of a sequence (Gal and Ghahramani 2016).
    pub recurrent: f32,
    /// Probability that a unit's candidate drops out of the step's update (Semeniuta et al. 2016): `g` of an
    /// LSTM, `n` of a GRU.
    pub update: f32,
    /// `[B]`: the sequences' names, in the caller's order. Sequences of one name share what is locked.
    pub names: &'a [u32],
}

/// Which of the factors of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepMask {
    /// Zoneout of `h`, a mask a frame.
    Hidden,
    /// Zoneout of `c`, a mask a frame.
    Cell,
    /// Recurrent dropout, a mask a sequence.
    Recurrent,
    /// Dropout of the update, a mask a frame.
    Update,
}

const ALL: [StepMask; 4] = [StepMask::Hidden, StepMask::Cell, StepMask::Recurrent, StepMask::Update];

impl StepNoise<'_> {
    /// A mask of this pass; `None` where nothing is left to chance. Zoneout keeps the old value where the mask
    /// drops out.
    #[must_use]
    pub fn mask(&self, layer: &Layer, which: StepMask) -> Option<Mask> {
        let (name, drop) = match which {
            StepMask::Hidden => (self.free, layer.zoneout.hidden),
            StepMask::Cell => (self.free, layer.zoneout.cell),
            StepMask::Recurrent => (self.key, self.recurrent),
            StepMask::Update => (self.free, self.update),
        };
        (drop > 0.0).then(|| Mask { key: key(&[name, which as u64]), drop })
    }

    pub(crate) fn check(&self, layer: &Layer, batch: &Batch) -> Result<(), ShapeError> {
        for drop in [self.recurrent, self.update] {
            if !(0.0..1.0).contains(&drop) {
                return Err(ShapeError::State {
                    what: "the probability to drop out must be from 0 and below 1",
                });
            }
        }
        if self.update > 0.0 && matches!(layer.cell, Cell::Rnn(_)) {
            return Err(ShapeError::State {
                what: "dropout of the update needs a cell with a candidate, an LSTM or a GRU",
            });
        }
        expect("names of sequences", self.names.len(), batch.sequences())
    }
}

/// What multiplies a value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Factor {
    /// Nothing.
    #[default]
    None,
    /// The same for all.
    Constant(f32),
    /// `kept`, or 0 where the mask drops out.
    Random { mask: Mask, kept: f32 },
}

impl Factor {
    pub(crate) fn is_some(self) -> bool {
        self != Factor::None
    }

    /// At a place.
    pub(crate) fn at(self, place: u32) -> f32 {
        match self {
            Factor::None => 1.0,
            Factor::Constant(factor) => factor,
            Factor::Random { mask, kept } if mask.keeps(place) => kept,
            Factor::Random { .. } => 0.0,
        }
    }

    /// That of a step; of a pass without noise, zoneout takes its mean (the last rows of the paper's section 3).
    fn of(layer: &Layer, noise: Option<&StepNoise<'_>>, which: StepMask) -> Factor {
        let rate = match which {
            StepMask::Hidden => layer.zoneout.hidden,
            StepMask::Cell => layer.zoneout.cell,
            StepMask::Recurrent | StepMask::Update => 0.0,
        };
        match (noise, which) {
            (None, _) if rate > 0.0 => Factor::Constant(1.0 - rate),
            (None, _) => Factor::None,
            (Some(noise), which) => noise.mask(layer, which).map_or(Factor::None, |mask| {
                let zones = matches!(which, StepMask::Hidden | StepMask::Cell);
                Factor::Random { mask, kept: if zones { 1.0 } else { 1.0 / (1.0 - mask.drop) } }
            }),
        }
    }
}

/// The factors of a pass, and the places of its rows.
#[derive(Default)]
pub(crate) struct Chance {
    factors: [Factor; 4],
    /// Place of each frame's first unit, in the order of the walk.
    frames: Vec<u32>,
    /// Place of each rank's first unit.
    names: Vec<u32>,
}

impl Chance {
    pub(crate) fn set(&mut self, layer: &Layer, batch: &Batch, noise: Option<&StepNoise<'_>>) {
        self.factors = ALL.map(|which| Factor::of(layer, noise, which));
        self.frames.clear();
        self.names.clear();
        let Some(noise) = noise else { return };
        let place = |row: u32| row.wrapping_mul(layer.hidden as u32);
        self.names.extend(batch.order().iter().map(|&sequence| place(noise.names[sequence])));
        for step in 0..batch.steps() {
            for rank in 0..batch.alive(step) {
                self.frames.push(place(batch.row(Layout::Packed, layer.direction, step, rank) as u32));
            }
        }
    }

    pub(crate) fn factor(&self, which: StepMask) -> Factor {
        self.factors[which as usize]
    }

    pub(crate) fn has(&self, which: StepMask) -> bool {
        self.factor(which).is_some()
    }

    /// Place of a unit of a frame: the `frame`-th of the walk, of a rank.
    pub(crate) fn place(&self, which: StepMask, frame: usize, rank: usize) -> u32 {
        let places = if which == StepMask::Recurrent { (&self.names, rank) } else { (&self.frames, frame) };
        places.0.get(places.1).copied().unwrap_or_default()
    }
}

/// A worker's room for the factors of one tile.
pub(crate) struct FactorRows<'a> {
    chance: &'a Chance,
    stride: usize,
    rows: Vec<f32>,
}

/// Rows of the largest tile.
const ROWS: usize = 6;

impl FactorRows<'_> {
    /// For tiles of up to `units` columns.
    pub(crate) fn new(chance: &Chance, units: usize) -> FactorRows<'_> {
        let used = ALL.iter().rposition(|&which| chance.has(which)).map_or(0, |last| last + 1);
        FactorRows { chance, stride: units, rows: vec![0.0; used * ROWS * units] }
    }

    /// The factors of the ranks' units from `column` on, at a step whose first frame is `start`.
    #[inline(always)]
    pub(crate) fn tile<S: Lanes, const M: usize>(
        &mut self,
        simd: S,
        start: usize,
        ranks: Ranks<M>,
        (column, width): (usize, usize),
    ) -> Factors<'_, M> {
        if self.rows.is_empty() {
            return Factors::none();
        }
        for (which, rows) in ALL.into_iter().zip(self.rows.chunks_exact_mut(ROWS * self.stride)) {
            let factor = self.chance.factor(which);
            for (rank, row) in ranks.each().into_iter().zip(rows.chunks_exact_mut(self.stride)) {
                match factor {
                    Factor::None => {}
                    Factor::Constant(factor) => row[..width].fill(factor),
                    Factor::Random { mask, kept } => {
                        let place = self.chance.place(which, start + rank, rank).wrapping_add(column as u32);
                        simd.call(Fill { mask, kept, place, out: &mut row[..width] });
                    }
                }
            }
        }
        let starts: [usize; M] = std::array::from_fn(|row| row * self.stride);
        let of = |which: StepMask| match self.chance.has(which) {
            true => Tile::of(&self.rows[which as usize * ROWS * self.stride..], &starts, width),
            false => Tile::of(&[], &[0; M], 0),
        };
        Factors {
            hidden: of(StepMask::Hidden),
            cell: of(StepMask::Cell),
            recurrent: of(StepMask::Recurrent),
            update: of(StepMask::Update),
        }
    }
}

/// A mask's factors from `place` on.
struct Fill<'a> {
    mask: Mask,
    kept: f32,
    place: u32,
    out: &'a mut [f32],
}

impl<S: Lanes> Job<S> for Fill<'_> {
    type Output = ();
    /// Integer arithmetic that the compiler turns into this level's vectors.
    #[inline(always)]
    fn run(self, _: S) {
        for (k, out) in self.out.iter_mut().enumerate() {
            *out = if self.mask.keeps(self.place.wrapping_add(k as u32)) { self.kept } else { 0.0 };
        }
    }
}

/// Factors of a tile's units; without columns where nothing is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a, const M: usize> {
    /// Share of the new value in `h`.
    pub(crate) hidden: Tile<'a, M>,
    /// Share of the new value in `c`.
    pub(crate) cell: Tile<'a, M>,
    /// Of `h`, as the recurrent product reads it.
    pub(crate) recurrent: Tile<'a, M>,
    /// Of the candidate.
    pub(crate) update: Tile<'a, M>,
}

impl<'a, const M: usize> Factors<'a, M> {
    #[inline(always)]
    pub(crate) fn none() -> Factors<'a, M> {
        let none = Tile::of(&[], &[0; M], 0);
        Factors { hidden: none, cell: none, recurrent: none, update: none }
    }
}

/// `v` times a row's vector at `at`; `v` where the tile has no columns.
#[inline(always)]
pub(crate) fn times<S: Lanes, const M: usize>(
    simd: S,
    v: S::V,
    factors: &Tile<'_, M>,
    row: usize,
    at: usize,
) -> S::V {
    if factors.width() > 0 { simd.mul(v, simd.load(&factors.row(row)[at..])) } else { v }
}
