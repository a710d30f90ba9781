//! Tapes that are used again: what a forward pass leaves for its backward pass goes back to a pool.

use std::sync::{Arc, Mutex};

use carousel_kernels::Tape;

use crate::lock::lock;

/// Tapes that wait for the next forward pass, so that a second training step allocates none.
pub(crate) struct TapePool<T = Tape>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for TapePool<T> {
    fn clone(&self) -> TapePool<T> {
        TapePool(self.0.clone())
    }
}

impl<T> Default for TapePool<T> {
    fn default() -> TapePool<T> {
        TapePool(Arc::default())
    }
}

impl<T> std::fmt::Debug for TapePool<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TapePool({} waiting)", self.waiting())
    }
}

impl<T> TapePool<T> {
    /// How many tapes wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0).len()
    }
}

impl<T: Default> TapePool<T> {
    /// One that waits, or a new one.
    pub(crate) fn take(&self) -> PooledTape<T> {
        let tape = lock(&self.0).pop().unwrap_or_default();
        PooledTape { tape, pool: self.clone() }
    }
}

/// A tape that goes back to its pool when dropped, after its backward pass or without one.
pub(crate) struct PooledTape<T: Default = Tape> {
    pub(crate) tape: T,
    pool: TapePool<T>,
}

impl<T: Default> Drop for PooledTape<T> {
    fn drop(&mut self) {
        lock(&self.pool.0).push(std::mem::take(&mut self.tape));
    }
}
