//! Takes down what recurrent stacks are called with while something is computed: whatever model it is, its stacks
//! can then be looked into one by one.

use std::cell::RefCell;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use carousel_kernels::{Batch, Direction, Layout};

use crate::ragged::Ragged;
use crate::record::{Keep, Record};
use crate::recurrent::Recurrent;
use crate::slices::with_slice;
use crate::state::State;

thread_local! {
    static TAKEN: RefCell<Option<Vec<Call>>> = const { RefCell::new(None) };
}

/// One call of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) stack: Recurrent,
    /// `[F, I]`, in packed order.
    pub(crate) x: Vec<f32>,
    pub(crate) batch: Arc<Batch>,
    pub(crate) state: Option<State>,
}

impl Call {
    /// From the rows as the stack was given them.
    pub(crate) fn new(
        stack: &Recurrent,
        rows: &Tensor<2>,
        index: Option<&[u32]>,
        batch: &Arc<Batch>,
        layout: Layout,
        state: Option<&State>,
    ) -> Call {
        let width = rows.dims()[1];
        let x = with_slice(rows, |rows| {
            let row = |row: usize| rows[row * width..][..width].iter().copied();
            match index {
                Some(index) => index.iter().flat_map(|&at| row(at as usize)).collect(),
                None => (0..batch.steps())
                    .flat_map(|step| (0..batch.alive(step)).map(move |rank| (step, rank)))
                    .flat_map(|(step, rank)| row(batch.row(layout, Direction::Forward, step, rank)))
                    .collect(),
            }
        });
        Call { stack: stack.clone(), x, batch: batch.clone(), state: state.map(State::detach) }
    }

    /// `I`.
    pub(crate) fn width(&self) -> usize {
        self.x.len() / self.batch.frames().max(1)
    }

    /// Does it again, and keeps all that the cells had, a row a frame in packed order. What drops out in training
    /// inside the stack does not do so here.
    pub(crate) fn record(&self) -> Record {
        let shape = [self.batch.frames(), self.width()];
        let x = Tensor::from_data(TensorData::new(self.x.clone(), shape), &Device::default());
        let x = Ragged::new(x, self.batch.clone()).expect("one row a frame");
        self.stack.forward_recorded(x, self.state.clone(), &Keep::all()).2
    }
}

/// Does some work, and returns the calls that it made on this thread.
pub(crate) fn taken_down<R>(work: impl FnOnce() -> R) -> (R, Vec<Call>) {
    TAKEN.set(Some(Vec::new()));
    let result = work();
    (result, TAKEN.take().unwrap_or_default())
}

/// Takes a call down where somebody asked for it.
pub(crate) fn take_down(call: impl FnOnce() -> Call) {
    if TAKEN.with_borrow(Option::is_some) {
        let call = call();
        TAKEN.with_borrow_mut(|taken| taken.get_or_insert_default().push(call));
    }
}
