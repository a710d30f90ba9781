//! A layer of a stack whose cell is one's own: its weights, and the way of its steps through a ragged batch.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::{Mask, key};
use carousel_kernels::{Batch, Direction, Layout};

use crate::init::{Init, Initializer, draw_own};
use crate::layer::{LayerInput, LayerOutput};
use crate::own_cell::{Draw, Expose, Linear, RecurrentCell, Sizes, Weight, Weights};
use crate::parameters::parameter;
use crate::path::Path;
use crate::portable::{laid_out, packed, zone_out};
use crate::record::{Keep, Record, Series};
use crate::regularize::{Dropout, Noise, Purpose, Sharing, factors_like, masked};
use crate::scan::scan;
use crate::slices::with_slice;
use crate::state::LayerState;
use crate::statistics::{By, Running};
use crate::walk::{Moment, reversal, turn, walk};

/// The weights of one layer in one direction.
#[derive(Module, Debug)]
pub(crate) struct OwnWeights {
    values: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    declared: Vec<Weight>,
    #[module(skip)]
    statistics: Vec<(&'static str, Running)>,
}

impl OwnWeights {
    /// Draws what a cell has declared for a layer of these sizes.
    pub(crate) fn draw(
        cell: &dyn RecurrentCell,
        sizes: Sizes,
        init: &Init,
        random: &mut Initializer,
        device: &Device,
    ) -> OwnWeights {
        let declared = cell.weights(sizes);
        let draw =
            |weight: &Weight| parameter(draw_own(weight, sizes.hidden, init, random), weight.shape, device);
        let statistics = cell.statistics(sizes).into_iter();
        let statistics = statistics.map(|own| (own.name, Running::new(own.steps, own.width)));
        OwnWeights { values: declared.iter().map(draw).collect(), statistics: statistics.collect(), declared }
    }

    /// Each statistic with its name.
    pub(crate) fn statistics(&self) -> &[(&'static str, Running)] {
        &self.statistics
    }

    /// Each weight with its name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &Param<Tensor<2>>)> {
        self.declared.iter().map(|weight| weight.name).zip(&self.values)
    }

    /// The same, to change them.
    pub(crate) fn named_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Param<Tensor<2>>)> {
        self.declared.iter().map(|weight| weight.name).zip(&mut self.values)
    }

    /// As a step reads them; some recurrent ones dropped where there is noise.
    fn lend(&self, noise: Option<Noise>, index: usize, drop: f64) -> Weights<'_> {
        // Matrices of one layer have places of their own among the masks of all layers.
        let mask = |place: usize| noise?.mask(Purpose::Recurrent, index + (place << 16), drop);
        let values = self.values.iter().zip(&self.declared).enumerate().map(|(place, (value, weight))| {
            let mask = if weight.draw == Draw::Recurrent { mask(place) } else { None };
            masked(value.val(), mask, Sharing::None)
        });
        Weights {
            declared: &self.declared,
            values: values.collect(),
            statistics: &self.statistics,
            by: if noise.is_some() { By::Batch } else { By::Running },
            step: std::cell::Cell::new(0),
        }
    }
}

/// A layer of an own cell in all its directions.
pub(crate) struct OwnLayer<'a> {
    pub(crate) cell: &'static dyn RecurrentCell,
    /// Place of the layer in its stack.
    pub(crate) layer: usize,
    pub(crate) sizes: Sizes,
    /// One a direction.
    pub(crate) directions: &'a [Direction],
    /// One a direction.
    pub(crate) weights: &'a [OwnWeights],
    pub(crate) dropout: Dropout,
    pub(crate) path: Path,
    /// Steps that the sequences have read before this call.
    pub(crate) read: usize,
}

/// What is to be recorded, where to, and how its rows stand.
pub(crate) struct Recording<'a> {
    pub(crate) keep: &'a Keep,
    pub(crate) record: &'a mut Record,
    pub(crate) layout: Layout,
}

impl Recording<'_> {
    /// The same for another layer.
    pub(crate) fn reborrow(&mut self) -> Recording<'_> {
        Recording { keep: self.keep, record: self.record, layout: self.layout }
    }
}

/// What a direction gives, frames in packed order.
struct Walked {
    y: Tensor<2>,
    last: LayerState,
    /// `h`, `c` and what the steps exposed, as far as it is wanted.
    signals: Vec<(&'static str, Tensor<2>)>,
}

impl OwnLayer<'_> {
    /// Runs it, as [`portable::layer`](crate::portable::layer) does a built-in one; with `learning`, recurrent
    /// weights drop out.
    pub(crate) fn run(
        &self,
        input: LayerInput<'_>,
        initial: Option<&[LayerState]>,
        learning: Option<Noise>,
        mut recording: Option<Recording<'_>>,
    ) -> LayerOutput {
        let (batch, noise) = (input.batch, input.noise);
        let x = packed(input.x, input.index.as_deref(), input.x_layout, batch);
        let (mut ys, mut last) = (Vec::new(), Vec::new());
        for (place, &direction) in self.directions.iter().enumerate() {
            let keep = recording.as_ref().map(|recording| recording.keep);
            let initial = initial.map(|all| all[place].clone());
            let zones = noise.as_ref().map(|noise| noise.keys[place].free);
            let walked = self.walk_one(x.clone(), batch, place, initial, learning, zones, keep);
            if let Some(Recording { record, layout, .. }) = &mut recording {
                record.series.extend(walked.signals.into_iter().map(|(name, rows)| Series {
                    layer: self.layer,
                    direction,
                    name: name.to_owned(),
                    units: rows.dims()[1],
                    values: with_slice(&laid_out(rows, *layout, batch), <[f32]>::to_vec),
                }));
            }
            ys.push(walked.y);
            last.push(walked.last);
        }
        LayerOutput { y: laid_out(Tensor::cat(ys, 1), input.y_layout, batch), last }
    }

    /// One direction over packed frames `[F, I]`. `zones` is the key of zoneout's masks while the stack learns.
    #[allow(clippy::too_many_arguments)]
    fn walk_one(
        &self,
        x: Tensor<2>,
        batch: &Arc<Batch>,
        place: usize,
        initial: Option<LayerState>,
        learning: Option<Noise>,
        zones: Option<u64>,
        keep: Option<&Keep>,
    ) -> Walked {
        let device = x.device();
        let Sizes { hidden, .. } = self.sizes;
        let zeros = |width: usize| Tensor::zeros([batch.sequences(), width], &device);
        let initial = initial
            .unwrap_or_else(|| LayerState { h: zeros(hidden), c: self.cell.memory(self.sizes).map(zeros) });
        let wanted = |name: &str| keep.is_some_and(|keep| keep.wants(self.layer, name));
        let signals = self.cell.signals().into_iter().filter(|signal| wanted(signal.name));
        let mut expose = Expose { kept: signals.map(|signal| (signal.name, Vec::new())).collect() };
        let mut memories = Vec::new();
        let index = self.layer * self.directions.len() + place;
        let weights = self.weights[place].lend(learning, index, self.dropout.weights);
        weights.step.set(self.read);
        let reversal = reversal(batch, self.directions[place], &device);

        let (y, last) = if batch.frames() == 0 {
            (Tensor::zeros([0, hidden], &device), initial)
        } else {
            let read = self.cell.read(&weights, turn(x, &reversal));
            let zoned = self.dropout.zoneout + self.dropout.zoneout_cell > 0.0;
            let linear = (!zoned).then(|| self.cell.linear(&weights, read.clone(), &mut expose)).flatten();
            match linear {
                Some(Linear { keep, add }) => scan(keep, add, initial.h, batch, self.path),
                None => {
                    let widths = [hidden, self.cell.memory(self.sizes).unwrap_or(0)];
                    let zoneout = Zoneout::of(self.dropout, zones, batch.frames(), widths, &read);
                    walk(batch, initial, |moment, past| {
                        let before = past.clone();
                        let next = self.cell.step(&weights, moment.rows(&read), past, &mut expose);
                        let next = zoneout.apply(moment, before, next);
                        weights.step.set(weights.step.get() + 1);
                        if let Some(c) = next.c.as_ref().filter(|_| wanted("c")) {
                            memories.push(c.clone());
                        }
                        next
                    })
                }
            }
        };
        let y = turn(y, &reversal);
        let mut signals = Vec::new();
        if wanted("h") {
            signals.push(("h", y.clone()));
        }
        let memories = (!memories.is_empty()).then_some(("c", memories));
        for (name, rows) in memories.into_iter().chain(expose.kept) {
            let found: usize = rows.iter().map(|rows| rows.dims()[0]).sum();
            let (cell, expected) = (self.cell.name(), batch.frames());
            assert!(
                found == expected,
                "{cell} exposed {found} rows of {name}, expected {expected}, one a step"
            );
            let rows = if rows.is_empty() { y.clone() } else { Tensor::cat(rows, 0) };
            signals.push((name, turn(rows, &reversal)));
        }
        Walked { y, last, signals }
    }
}

/// Units that keep their last value, of any cell.
struct Zoneout {
    /// Of `h` and `c`: what is drawn for all frames, or the mean.
    shares: [Option<Tensor<2>>; 2],
    means: [Option<f64>; 2],
}

impl Zoneout {
    /// Of frames whose `h` and `c` have so many values.
    fn of(
        dropout: Dropout,
        key_of_pass: Option<u64>,
        frames: usize,
        widths: [usize; 2],
        like: &Tensor<2>,
    ) -> Zoneout {
        let rates = [dropout.zoneout, dropout.zoneout_cell];
        let mut zoneout = Zoneout { shares: [None, None], means: [None, None] };
        for (which, rate) in rates.into_iter().enumerate().filter(|(_, rate)| *rate > 0.0) {
            match key_of_pass {
                Some(pass) => {
                    let mask = Mask { key: key(&[pass, which as u64]), drop: rate as f32 };
                    let shape = [frames, widths[which]];
                    zoneout.shares[which] = Some(factors_like(like, mask, &Sharing::None, shape).sign());
                }
                None => zoneout.means[which] = Some(1.0 - rate),
            }
        }
        zoneout
    }

    fn apply(&self, moment: &Moment, past: LayerState, next: LayerState) -> LayerState {
        let [h, c] = [0, 1].map(|which| {
            let share = self.shares[which].as_ref().map(|all| moment.rows(all));
            move |new, past| zone_out(new, past, share, self.means[which])
        });
        LayerState { h: h(next.h, past.h), c: next.c.zip(past.c).map(|(next, past)| c(next, past)) }
    }
}
