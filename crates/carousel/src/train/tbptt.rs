//! Truncated backpropagation through time as an object: windows over streams, and the state that goes from one
//! to the next while the gradient does not.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::data::{Coverage, DataError, Segment, Stretch, TokenRow, Truncation, Window, Windows};
use crate::parameters::NamedTensor;
use crate::slices::with_slice;
use crate::state::{Row, State};
use crate::train::checkpoint::{CheckpointError, find_tensor};

/// The state that streams carry from window to window.
#[derive(Clone, Debug)]
pub struct Carried {
    streams: usize,
    /// Of all streams; `None` where none has read anything.
    state: Option<State>,
}

impl Carried {
    /// Nothing is carried yet.
    #[must_use]
    pub fn new(streams: usize) -> Carried {
        Carried { streams, state: None }
    }

    /// All streams start from zero again.
    pub fn reset(&mut self) {
        self.state = None;
    }

    /// These streams start from zero again, the others go on.
    pub fn reset_streams(&mut self, streams: &[usize]) {
        let row = |stream| if streams.contains(&stream) { Row::Zero } else { Row::Carried(stream) };
        let rows: Vec<Row> = (0..self.streams).map(row).collect();
        self.state = self.state.take().map(|state| state.arrange(&rows));
    }

    /// The state that a window's segments start from; `None` is zero for all.
    #[must_use]
    pub fn start(&self, segments: &[Segment]) -> Option<State> {
        let row = |segment: &Segment| if segment.carried { Row::Carried(segment.stream) } else { Row::Zero };
        let rows: Vec<Row> = segments.iter().map(row).collect();
        self.state.as_ref().map(|state| state.arrange(&rows))
    }

    /// Keeps the state after a window's segments, with whatever computed it. A stream without a segment starts
    /// its next document from zero.
    pub fn keep(&mut self, state: &State, segments: &[Segment]) {
        let mut rows = vec![Row::Zero; self.streams];
        for (place, segment) in segments.iter().enumerate() {
            if segment.last {
                rows[segment.stream] = Row::Carried(place);
            }
        }
        self.state = Some(state.arrange(&rows));
    }

    /// Cuts the gradient: values go on from here, what computed them is forgotten.
    pub fn cut(&mut self) {
        self.state = self.state.take().map(|state| state.detach());
    }

    /// Reads one window: `run` gets it with the state its segments start from, and returns that after them.
    pub fn read(&mut self, window: &Window, run: impl FnOnce(&Window, Option<State>) -> State) {
        if window.segments.is_empty() {
            self.reset();
            return;
        }
        let state = run(window, self.start(&window.segments));
        self.keep(&state, &window.segments);
    }

    /// Reads one update's windows and cuts the gradient between this update and the next. Within them it flows
    /// from each window to the one before. What is carried afterwards is the state that the next one starts
    /// from.
    pub fn read_stretch(&mut self, stretch: &Stretch, mut run: impl FnMut(&Window, Option<State>) -> State) {
        let mut kept = self.state.clone();
        for (index, window) in stretch.windows.iter().enumerate() {
            self.read(window, &mut run);
            if index + 1 == stretch.keep {
                kept = self.state.clone();
            }
        }
        self.state = kept;
        self.cut();
    }
}

/// A carried state as tensors `h` and `c`, `[layers · directions, B, H]`, with an ending to their names; nothing where
/// nothing is carried.
pub(super) fn state_tensors(state: Option<&State>, ending: &str) -> Vec<NamedTensor> {
    let named = |name: &str, values: Tensor<3>| NamedTensor {
        name: format!("{name}{ending}"),
        shape: values.dims().to_vec(),
        values: with_slice(&values, <[f32]>::to_vec),
    };
    let state = state.into_iter();
    state.flat_map(|s| std::iter::once(named("h", s.h())).chain(s.c().map(|c| named("c", c)))).collect()
}

/// The opposite of [`state_tensors`], for `B` sequences.
pub(super) fn load_state(
    tensors: &[NamedTensor],
    ending: &str,
    sequences: usize,
    shape: StateShape,
) -> Result<Option<State>, CheckpointError> {
    let StateShape { layers, hidden, memory } = shape;
    let read = |name: &str, width: usize| -> Result<Tensor<3>, CheckpointError> {
        let shape = [layers, sequences, width];
        let values = find_tensor(tensors, &format!("{name}{ending}"), &shape)?.values.clone();
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::default().autodiff()))
    };
    match tensors.iter().any(|tensor| tensor.name == format!("h{ending}")) {
        true => {
            let c = memory.map(|width| read("c", width)).transpose()?;
            Ok(Some(State::new(read("h", hidden)?, c)))
        }
        false => Ok(None),
    }
}

/// Sizes of a model's state.
#[derive(Clone, Copy, Debug)]
pub struct StateShape {
    /// Layers, times directions.
    pub layers: usize,
    /// Values of `h`.
    pub hidden: usize,
    /// Values of `c`; `None` where there are none.
    pub memory: Option<usize>,
}

/// Where in the data training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The next window of the pass.
    pub window: usize,
    /// Complete passes.
    pub passes: u64,
}

/// Walks through a corpus again and again, in groups of streams, window after window.
///
/// An update sees `k1` steps' targets of every stream and `k2` steps back; what came before is there as a value,
/// but no gradient flows into it. The streams may be read in groups one after the other, to add up the
/// gradients of several batches.
#[derive(Clone, Debug)]
pub struct Tbptt<'a> {
    windows: Windows<'a>,
    /// One a group of streams.
    carried: Vec<Carried>,
    place: Place,
}

impl<'a> Tbptt<'a> {
    /// Starts at the beginning of a corpus, with `groups` groups of `streams` streams each.
    ///
    /// # Errors
    /// [`DataError`] when the corpus is too short.
    ///
    /// # Panics
    /// As [`Windows::new`].
    pub fn new(
        corpus: &'a dyn TokenRow,
        streams: usize,
        groups: usize,
        truncation: Truncation,
    ) -> Result<Tbptt<'a>, DataError> {
        let windows = Windows::new(corpus, streams * groups, truncation, Coverage::Equal)?;
        let carried = vec![Carried::new(streams); groups];
        Ok(Tbptt { windows, carried, place: Place::default() })
    }

    /// Moves to the next window and returns what each group reads there, with the group's number. Groups that
    /// have nothing to predict are left out; at least one has something.
    pub fn advance(&mut self) -> Vec<(usize, Stretch)> {
        if self.place.window == self.windows.len() {
            self.place = Place { window: 0, passes: self.place.passes + 1 };
            self.windows.cut(self.place.passes);
        }
        if self.place.window == 0 {
            self.carried.iter_mut().for_each(Carried::reset);
        }
        let index = self.place.window;
        self.place.window += 1;
        let mut stretches = Vec::new();
        for (group, carried) in self.carried.iter_mut().enumerate() {
            let first = group * carried.streams;
            let stretch = self.windows.stretch(index, first..first + carried.streams);
            if stretch.targets() > 0 {
                stretches.push((group, stretch));
            } else if stretch.keep == stretch.windows.len() {
                // Nothing of a document goes on past a window without a target.
                carried.reset();
            }
        }
        stretches
    }

    /// Reads a group's stretch; see [`Carried::read_stretch`].
    ///
    /// # Panics
    /// When there is no such group.
    pub fn read(
        &mut self,
        (group, stretch): &(usize, Stretch),
        run: impl FnMut(&Window, Option<State>) -> State,
    ) {
        self.carried[*group].read_stretch(stretch, run);
    }

    /// Where in the data it is.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The windows of the pass under way.
    #[must_use]
    pub fn windows(&self) -> &Windows<'a> {
        &self.windows
    }

    /// Updates in so many passes, at least 1.
    #[must_use]
    pub fn updates(&self, epochs: f64) -> u64 {
        let count = |pass: u64| self.windows.count(pass) as f64;
        let updates = if self.windows.vary() {
            let whole = epochs.floor();
            (0..whole as u64).map(count).sum::<f64>() + (epochs - whole) * count(whole as u64)
        } else {
            epochs * count(0)
        };
        updates.round().max(1.0) as u64
    }

    /// The carried states, for a checkpoint.
    #[must_use]
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        self.carried
            .iter()
            .enumerate()
            .flat_map(|(group, carried)| state_tensors(carried.state.as_ref(), &ending(group)))
            .collect()
    }

    /// Goes to a place and takes over the states that were carried there. `None` when there is no such place.
    ///
    /// # Errors
    /// [`CheckpointError`] when a state is missing or has another shape.
    pub fn restore(
        &mut self,
        place: Place,
        tensors: &[NamedTensor],
        shape: StateShape,
    ) -> Result<Option<()>, CheckpointError> {
        self.windows.cut(place.passes);
        if place.window > self.windows.len() {
            return Ok(None);
        }
        self.place = place;
        for (group, carried) in self.carried.iter_mut().enumerate() {
            carried.state = load_state(tensors, &ending(group), carried.streams, shape)?;
        }
        Ok(Some(()))
    }
}

/// What tells the groups' tensors apart.
fn ending(group: usize) -> String {
    if group == 0 { String::new() } else { format!(".{group}") }
}
