//! The state a recurrent stack carries from one call to the next.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// The state of one layer in one direction.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// What the layer gives, `[B, H]`.
    pub h: Tensor<2>,
    /// What it keeps to itself: an LSTM's cell values `[B, H]`, or what an own cell wants, of any width.
    pub c: Option<Tensor<2>>,
}

impl LayerState {
    /// A state that is `h` alone.
    #[must_use]
    pub fn of(h: Tensor<2>) -> LayerState {
        LayerState { h, c: None }
    }

    fn map(&self, f: impl Fn(Tensor<2>) -> Tensor<2>) -> LayerState {
        LayerState { h: f(self.h.clone()), c: self.c.clone().map(f) }
    }
}

/// The hidden values (and an LSTM's cell values) of all layers and directions of a
/// [`Recurrent`](crate::recurrent::Recurrent), for `B` sequences in the caller's order.
///
/// Entries stand in PyTorch's order: layer 0 forward, layer 0 reverse, layer 1 forward, …
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) layers: Vec<LayerState>,
    /// Rows that begin, `true` each: they hold zeros, and a stack that has learned what to begin from puts that in
    /// their place. Empty where none does.
    begins: Vec<bool>,
}

/// Where a row of a new state comes from, see [`State::arrange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// From this row of the old state.
    Carried(usize),
    /// From where a sequence begins: zero, or what the stack has learned.
    Zero,
}

impl State {
    /// A state from `h` and, for an LSTM, `c`, both `[layers · directions, B, H]`. The `c` of an own cell may have
    /// another width.
    ///
    /// # Panics
    /// When `c` has other layers or sequences than `h`.
    #[must_use]
    pub fn new(h: Tensor<3>, c: Option<Tensor<3>>) -> State {
        let [count, sequences, _] = h.dims();
        if let Some(c) = &c {
            assert_eq!(c.dims()[..2], h.dims()[..2], "c must have the layers and sequences of h");
        }
        let entry = |all: &Tensor<3>, index: usize| {
            let width = all.dims()[2];
            all.clone().slice([index..index + 1, 0..sequences, 0..width]).reshape([sequences, width])
        };
        let layers = (0..count)
            .map(|index| LayerState { h: entry(&h, index), c: c.as_ref().map(|c| entry(c, index)) })
            .collect();
        State::of(layers)
    }

    /// A state that goes on.
    pub(crate) fn of(layers: Vec<LayerState>) -> State {
        State { layers, begins: Vec::new() }
    }

    /// For each sequence whether it begins; `None` where all go on.
    pub(crate) fn begins(&self) -> Option<&[bool]> {
        self.begins.contains(&true).then_some(&self.begins[..])
    }

    /// The hidden values, `[layers · directions, B, H]`.
    #[must_use]
    pub fn h(&self) -> Tensor<3> {
        Tensor::stack(self.layers.iter().map(|layer| layer.h.clone()).collect(), 0)
    }

    /// The cell values of an LSTM, `[layers · directions, B, H]`; `None` for other cells.
    #[must_use]
    pub fn c(&self) -> Option<Tensor<3>> {
        let cells: Option<Vec<_>> = self.layers.iter().map(|layer| layer.c.clone()).collect();
        cells.map(|cells| Tensor::stack(cells, 0))
    }

    /// `B`.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.h.dims()[0])
    }

    /// The same values, cut off from what computed them: no gradient flows past here. This is the cut of
    /// truncated backpropagation through time.
    #[must_use]
    pub fn detach(&self) -> State {
        self.map(Tensor::detach)
    }

    /// The same values off the autodiff layer.
    pub(crate) fn without_autodiff(self) -> State {
        self.map(Tensor::without_autodiff)
    }

    /// The rows (sequences) named, in that order; a row may be named more than once, as a beam search does.
    ///
    /// # Panics
    /// When a row is not below `B`.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> State {
        let rows: Vec<Row> = rows.iter().map(|&row| Row::Carried(row)).collect();
        self.arrange(&rows)
    }

    /// A second state that continues from the same point. What is computed from either leaves the other as
    /// it is; gradients of both add up.
    #[must_use]
    pub fn fork(&self) -> State {
        self.clone()
    }

    /// A state of `rows.len()` sequences, each carried over from a row of this one or beginning.
    ///
    /// # Panics
    /// When a carried row is not below `B`.
    #[must_use]
    pub fn arrange(&self, rows: &[Row]) -> State {
        let sequences = self.sequences();
        if rows.len() == sequences && rows.iter().enumerate().all(|(i, &row)| row == Row::Carried(i)) {
            return self.clone();
        }
        let indices: Vec<i64> = rows
            .iter()
            .map(|&row| match row {
                Row::Carried(row) => {
                    assert!(row < sequences, "row {row} of a state of {sequences} sequences");
                    row as i64
                }
                Row::Zero => sequences as i64,
            })
            .collect();
        let any_zero = rows.contains(&Row::Zero);
        let Some(device) = self.layers.first().map(|layer| layer.h.device()) else { return self.clone() };
        let indices = index_tensor(indices, &device);
        let begins = |&row: &Row| match row {
            Row::Carried(row) => self.begins.get(row).copied().unwrap_or_default(),
            Row::Zero => true,
        };
        let arranged = self.map(|values| {
            let width = values.dims()[1];
            let values = if any_zero {
                Tensor::cat(vec![values, Tensor::zeros([1, width], &device)], 0)
            } else {
                values
            };
            values.select(0, indices.clone())
        });
        State { begins: rows.iter().map(begins).collect(), ..arranged }
    }

    fn map(&self, f: impl Fn(Tensor<2>) -> Tensor<2>) -> State {
        State { layers: self.layers.iter().map(|layer| layer.map(&f)).collect(), begins: self.begins.clone() }
    }
}

/// Row numbers as a tensor.
pub(crate) fn index_tensor(indices: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = indices.len();
    Tensor::from_data(TensorData::new(indices, [count]), device)
}
