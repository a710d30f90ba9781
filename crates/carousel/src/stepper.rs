//! One step at a time, for text that is made or read as it comes.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use carousel_kernels as kernels;
pub use kernels::StepPrecision;
use kernels::{Layer, ShapeError};

use crate::layer::{PlainWeights, RecurrentWeights};
use crate::own_cell::AnyCell;
use crate::record::{Keep, Record, Series};
use crate::recurrent::{Direction, Recurrent};
use crate::slices::with_slice;
use crate::state::{LayerState, Row, State};

/// Runs a forward stack on the CPU one step at a time and keeps its state. [`step`](Stepper::step) allocates
/// nothing. Made by [`Recurrent::stepper`](crate::recurrent::Recurrent::stepper).
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::recurrent::RecurrentConfig;
///
/// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).init(&Device::default())?;
/// let mut stepper = stack.stepper(1).expect("the stack walks forward");
/// let first = stepper.step(&[0.1, 0.2, 0.3])?.to_vec();
/// let second = stepper.step(&[0.1, 0.2, 0.3])?.to_vec();
/// assert_ne!(first, second); // the state moved on
/// stepper.reset();
/// assert_eq!(first, stepper.step(&[0.1, 0.2, 0.3])?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With [`StepPrecision::Int8`] it keeps a quarter of the memory and reads as much less at every step:
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::recurrent::RecurrentConfig;
/// use carousel::stepper::StepPrecision;
///
/// let stack = RecurrentConfig::new(Cell::Lstm, 3, 8).init(&Device::default())?;
/// let mut floats = stack.stepper(1).expect("the stack walks forward");
/// let mut bytes = stack.stepper_with(1, StepPrecision::Int8).expect("the stack walks forward");
/// let (y, rounded) = (floats.step(&[0.1, 0.2, 0.3])?, bytes.step(&[0.1, 0.2, 0.3])?);
/// assert_ne!(y, rounded);
/// assert!(y.iter().zip(rounded).all(|(y, rounded)| (y - rounded).abs() < 0.01));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A stack of an [own cell](crate::own_cell), or of one that projects, can be fed the same way; its steps are those of
/// sequences one step long, which allocate.
pub struct Stepper {
    how: How,
    layers: usize,
    batch: usize,
}

enum How {
    Fused(Fused),
    Own(Box<Own>),
}

struct Fused {
    /// One of all layers, or one a layer where each adds what it reads.
    inner: Vec<kernels::Stepper>,
    layers: usize,
    /// The output where layers add what they read.
    y: Vec<f32>,
    /// What each layer's `h` and `c` begin from, a row each; empty where that is zero.
    begin: Vec<(Vec<f32>, Option<Vec<f32>>)>,
}

/// A stack whose steps are sequences one step long, and where it stands.
struct Own {
    stack: Recurrent,
    batch: usize,
    /// What the last step read and started from, to record it.
    last: Option<(Vec<f32>, State)>,
    /// Steps since [`reset`](Stepper::reset).
    steps: usize,
    state: State,
    /// The same on plain numbers: `h` and `c` of each layer.
    values: Vec<(Vec<f32>, Option<Vec<f32>>)>,
    y: Vec<f32>,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stepper({} layers, {} sequences)", self.layers, self.batch)
    }
}

impl Recurrent {
    /// For feeding `batch` sequences one step at a time; `None` unless the stack walks forward only.
    ///
    /// The stepper holds a copy of the weights as they are now.
    #[must_use]
    pub fn stepper(&self, batch: usize) -> Option<Stepper> {
        self.stepper_with(batch, StepPrecision::F32)
    }

    /// The same with the copy of the weights in `precision`. An own cell, and one that projects, has 32-bit floats
    /// only.
    ///
    /// # Panics
    /// In eight bits, when a layer has more than 133,144 inputs or units: 32 bits do not hold such a sum.
    #[must_use]
    pub fn stepper_with(&self, batch: usize, precision: StepPrecision) -> Option<Stepper> {
        self.step_by(batch, |layers| kernels::Stepper::with_precision(layers, batch, precision))
    }

    /// For sequences that branch, as hypotheses do; see [`read`](Stepper::read). What they share is computed once,
    /// and sums are rounded in another order than those of [`stepper`](Recurrent::stepper).
    #[must_use]
    pub fn branching_stepper(&self, batch: usize) -> Option<Stepper> {
        self.step_by(batch, |layers| kernels::Stepper::branching(layers, batch))
    }

    fn step_by(
        &self,
        batch: usize,
        kernel: impl Fn(&[(Layer, kernels::Weights<'_>)]) -> Result<kernels::Stepper, ShapeError>,
    ) -> Option<Stepper> {
        (self.direction() == Direction::Forward && batch > 0).then(|| match self.cell() {
            AnyCell::Fused(cell) if self.options().projection.is_none() => {
                let layers = (0..self.layers()).flat_map(|layer| self.kernel_layers(cell, layer));
                let begin = self.learns_state().then(|| self.valid().first_state(1));
                let layers: Vec<_> = layers.collect();
                Stepper::new(&layers, self.weights(), batch, self.is_residual(), begin.as_ref(), kernel)
            }
            _ => Stepper::of_own(self.valid(), batch),
        })
    }
}

impl Stepper {
    fn new(
        layers: &[Layer],
        weights: &[RecurrentWeights],
        batch: usize,
        residual: bool,
        begin: Option<&State>,
        kernel: impl Fn(&[(Layer, kernels::Weights<'_>)]) -> Result<kernels::Stepper, ShapeError>,
    ) -> Stepper {
        let copies: Vec<PlainWeights> = weights.iter().map(RecurrentWeights::plain).collect();
        let layers: Vec<_> = layers.iter().zip(&copies).map(|(&layer, copy)| (layer, copy.lend())).collect();
        let together = if residual { 1 } else { layers.len() };
        let inner = layers
            .chunks(together)
            .map(|layers| kernel(layers).expect("the stack was made with sizes that fit and walks forward"));
        let begin = begin.map_or(Vec::new(), plain);
        let mut fused = Fused { inner: inner.collect(), layers: layers.len(), y: Vec::new(), begin };
        (0..batch).for_each(|sequence| fused.begin(sequence));
        Stepper { layers: fused.layers, how: How::Fused(fused), batch }
    }

    /// Of a stack that walks forward and whose steps are no kernel's, off the autodiff layer.
    fn of_own(stack: Recurrent, batch: usize) -> Stepper {
        let state = stack.first_state(batch);
        let layers = state.layers.len();
        let mut own = Own { stack, batch, last: None, steps: 0, state, values: Vec::new(), y: Vec::new() };
        own.copy_state();
        own.y = own.values.last().map(|(h, _)| h.clone()).unwrap_or_default();
        Stepper { how: How::Own(Box::new(own)), layers, batch }
    }

    /// One step of all sequences: `x` `[B, I]` in, the last layer's output `[B, H]` out.
    ///
    /// # Errors
    /// [`ShapeError::Elements`] when `x` has not `B·I` elements.
    pub fn step(&mut self, x: &[f32]) -> Result<&[f32], ShapeError> {
        match &mut self.how {
            How::Fused(fused) => fused.step(|first| first.step(x)),
            How::Own(own) => own.step(x),
        }
    }

    /// One step of a token a sequence: `table` is `[V, I]`, the same at every step, and `tokens` names a row of it for
    /// each.
    ///
    /// # Errors
    /// [`ShapeError`] when the stepper was not made for sequences that
    /// [branch](Recurrent::branching_stepper), a buffer does not fit or there is no such token.
    pub fn read(&mut self, table: &[f32], tokens: &[u32]) -> Result<&[f32], ShapeError> {
        match &mut self.how {
            How::Fused(fused) => fused.step(|first| first.read(table, tokens)),
            How::Own(own) => {
                let width = own.stack.input_width();
                let mut x = vec![0.0; tokens.len() * width];
                kernels::embedding::gather(table, width, tokens, &mut x)?;
                own.step(&x)
            }
        }
    }

    /// The last layer's output of the last step, `[B, H]`.
    #[must_use]
    pub fn output(&self) -> &[f32] {
        match &self.how {
            How::Fused(Fused { inner, layers, .. }) if inner.len() == 1 => {
                inner[0].state(layers - 1).h.expect("a stepper has hidden values")
            }
            How::Fused(fused) => &fused.y,
            How::Own(own) => &own.y,
        }
    }

    /// Continues from `state` instead.
    ///
    /// # Errors
    /// [`ShapeError`] when the state's sizes are not the stepper's.
    pub fn set_state(&mut self, state: &State) -> Result<(), ShapeError> {
        let found = state.layers.len();
        if found != self.layers {
            return Err(ShapeError::Elements { what: "state (layers)", found, expected: self.layers });
        }
        for (layer, entry) in state.layers.iter().enumerate() {
            if entry.c.is_some() != self.state(layer).c.is_some() {
                return Err(ShapeError::State { what: "the state of an lstm has cell values and no other" });
            }
            let fused = match &mut self.how {
                How::Fused(fused) => fused,
                How::Own(own) => {
                    own.check(layer, entry)?;
                    continue;
                }
            };
            let (place, within) = fused.place(layer);
            let inner = &mut fused.inner[place];
            with_slice(&entry.h, |h| match &entry.c {
                Some(c) => {
                    with_slice(c, |c| inner.set_state(within, kernels::State { h: Some(h), c: Some(c) }))
                }
                None => inner.set_state(within, kernels::State { h: Some(h), c: None }),
            })?;
        }
        match &mut self.how {
            How::Own(own) => own.go_on(state.detach()),
            How::Fused(fused) => {
                let begins = state.begins().unwrap_or_default().iter().enumerate();
                begins.filter(|(_, begins)| **begins).for_each(|(sequence, _)| fused.begin(sequence));
            }
        }
        Ok(())
    }

    /// Goes on with these sequences, in this order; one may be named more than once.
    ///
    /// # Errors
    /// [`ShapeError`] when no sequence is named, or one that there is not.
    pub fn select(&mut self, sequences: &[usize]) -> Result<(), ShapeError> {
        match &mut self.how {
            How::Fused(fused) => {
                for inner in &mut fused.inner {
                    inner.select(sequences)?;
                }
            }
            How::Own(own) => {
                if sequences.is_empty() {
                    return Err(ShapeError::Zero { what: "number of sequences" });
                }
                if let Some(&found) = sequences.iter().find(|&&sequence| sequence >= own.batch) {
                    return Err(ShapeError::Index { what: "a sequence", found, limit: own.batch });
                }
                own.batch = sequences.len();
                own.go_on(own.state.select(sequences));
            }
        }
        self.batch = sequences.len();
        Ok(())
    }

    /// A layer's hidden values and, for an LSTM, cell values, `[B, H]` each.
    ///
    /// # Panics
    /// When there is no such layer.
    #[must_use]
    pub fn state(&self, layer: usize) -> kernels::State<'_> {
        match &self.how {
            How::Fused(fused) => {
                let (place, within) = fused.place(layer);
                fused.inner[place].state(within)
            }
            How::Own(own) => {
                let (h, c) = &own.values[layer];
                kernels::State { h: Some(h), c: c.as_deref() }
            }
        }
    }

    /// What the cells had in the last step: rows `[B, H]`, one a sequence.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use carousel::cell::{Cell, Reset};
    /// use carousel::record::Keep;
    /// use carousel::recurrent::RecurrentConfig;
    ///
    /// let stack = RecurrentConfig::new(Cell::Gru(Reset::After), 3, 8).init(&Device::default())?;
    /// let mut stepper = stack.stepper(1).expect("the stack walks forward");
    /// let h = stepper.step(&[0.1, 0.2, 0.3])?.to_vec();
    /// let record = stepper.record(&Keep::signals(["h", "z"]));
    /// assert_eq!(record.get(0, "h").expect("every cell has h").values, h);
    /// assert!(record.get(0, "z").is_some_and(|z| z.values.iter().all(|z| (0.0..=1.0).contains(z))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn record(&self, keep: &Keep) -> Record {
        let fused = match &self.how {
            How::Fused(fused) => fused,
            How::Own(own) => return own.record(keep),
        };
        let mut record = Record::default();
        let layers =
            fused.inner.iter().flat_map(|inner| inner.layers().enumerate().map(move |at| (inner, at)));
        for (layer, (inner, (within, sizes))) in layers.enumerate() {
            for &(name, signal) in sizes.cell.signals() {
                if keep.wants(layer, name) {
                    let mut values = vec![0.0; self.batch * sizes.hidden];
                    inner.copy_signal(within, signal, &mut values).expect("the cell names the signal");
                    record.series.push(Series {
                        layer,
                        direction: sizes.direction,
                        name: name.to_owned(),
                        units: sizes.hidden,
                        values,
                    });
                }
            }
        }
        record
    }

    /// Begins one sequence again.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn reset_sequence(&mut self, sequence: usize) {
        match &mut self.how {
            How::Fused(fused) => {
                fused.inner.iter_mut().for_each(|inner| inner.reset_stream(sequence));
                fused.begin(sequence);
            }
            How::Own(own) => {
                assert!(sequence < own.batch, "sequence {sequence} of {}", own.batch);
                let row = |place| if place == sequence { Row::Zero } else { Row::Carried(place) };
                let rows: Vec<Row> = (0..own.batch).map(row).collect();
                own.go_on(own.stack.begin_in(own.state.arrange(&rows)));
            }
        }
    }

    /// Begins again.
    pub fn reset(&mut self) {
        match &mut self.how {
            How::Fused(fused) => {
                fused.inner.iter_mut().for_each(kernels::Stepper::reset);
                (0..self.batch).for_each(|sequence| fused.begin(sequence));
            }
            How::Own(own) => {
                own.steps = 0;
                own.go_on(own.stack.first_state(own.batch));
            }
        }
    }
}

/// `h` and `c` of each layer on plain numbers.
fn plain(state: &State) -> Vec<(Vec<f32>, Option<Vec<f32>>)> {
    let copy = |values: &Tensor<2>| with_slice(values, <[f32]>::to_vec);
    state.layers.iter().map(|layer| (copy(&layer.h), layer.c.as_ref().map(copy))).collect()
}

impl Fused {
    /// The kernel's stepper that holds a layer, and the layer's place in it.
    fn place(&self, layer: usize) -> (usize, usize) {
        let together = self.layers / self.inner.len();
        (layer / together, layer % together)
    }

    /// Puts what was learned to begin from in a sequence's place.
    fn begin(&mut self, sequence: usize) {
        let (layers, count) = (self.layers, self.inner.len());
        for (layer, (h, c)) in self.begin.iter().enumerate() {
            let (place, within) = (layer / (layers / count), layer % (layers / count));
            let inner = &mut self.inner[place];
            let put = |all: Option<&[f32]>, row: &[f32]| -> Vec<f32> {
                let mut all = all.map_or(Vec::new(), <[f32]>::to_vec);
                all[sequence * row.len()..][..row.len()].copy_from_slice(row);
                all
            };
            let there = inner.state(within);
            let (h, c) = (put(there.h, h), c.as_ref().map(|c| put(there.c, c)));
            inner
                .set_state(within, kernels::State { h: Some(&h), c: c.as_deref() })
                .expect("rows of the stepper's own state");
        }
    }

    /// One step that begins with that of the first layer, or of all that are one.
    fn step(
        &mut self,
        begin: impl FnOnce(&mut kernels::Stepper) -> Result<&[f32], ShapeError>,
    ) -> Result<&[f32], ShapeError> {
        let (first, rest) = self.inner.split_first_mut().expect("a stack has a layer");
        let y = begin(first)?;
        if rest.is_empty() {
            return Ok(y);
        }
        self.y.clear();
        self.y.extend_from_slice(y);
        for layer in rest {
            let y = layer.step(&self.y)?;
            self.y.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
        }
        Ok(&self.y)
    }
}

impl Own {
    fn step(&mut self, x: &[f32]) -> Result<&[f32], ShapeError> {
        let expected = self.batch * self.stack.input_width();
        if x.len() != expected {
            return Err(ShapeError::Elements { what: "x", found: x.len(), expected });
        }
        let before = self.state.clone();
        self.stack.set_read(self.steps);
        let (y, state) = self.stack.forward(self.sequence(x), Some(before.clone()));
        self.steps += 1;
        self.y = with_slice(&y, <[f32]>::to_vec);
        self.go_on(state);
        self.last = Some((x.to_vec(), before));
        Ok(&self.y)
    }

    /// `x` as sequences of one step.
    fn sequence(&self, x: &[f32]) -> Tensor<3> {
        let shape = [self.batch, 1, self.stack.input_width()];
        Tensor::from_data(TensorData::new(x.to_vec(), shape), &self.state.layers[0].h.device())
    }

    fn go_on(&mut self, state: State) {
        self.state = state;
        self.copy_state();
    }

    fn copy_state(&mut self) {
        self.values = plain(&self.state);
    }

    fn check(&self, layer: usize, entry: &LayerState) -> Result<(), ShapeError> {
        let own = &self.state.layers[layer];
        let pairs = [(Some(&entry.h), Some(&own.h)), (entry.c.as_ref(), own.c.as_ref())];
        for (found, expected) in pairs.into_iter().filter_map(|(found, own)| found.zip(own)) {
            let [found, expected] = [found, expected].map(|values| values.dims().iter().product());
            if found != expected {
                return Err(ShapeError::Elements { what: "state", found, expected });
            }
        }
        Ok(())
    }

    /// Nothing before the first step.
    fn record(&self, keep: &Keep) -> Record {
        self.last.as_ref().map_or_else(Record::default, |(x, before)| {
            self.stack.forward_recorded(self.sequence(x), Some(before.clone()), keep).2
        })
    }
}
