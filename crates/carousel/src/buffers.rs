//! Memory of outputs and gradients, used again from pass to pass.
//!
//! An allocator hands large blocks back to the system, and the system gives them out again page by page, each page
//! a trap and a kilobyte-wise zeroing: for a small layer that costs as much as the layer. So the process keeps a
//! second hold on the buffers behind its tensors. Once nobody else holds one, the next pass writes into it.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use crate::lock::lock;
use crate::slices::flex;

/// Smaller buffers come from the allocator, which keeps such blocks itself.
const SMALLEST: usize = 1 << 12;
/// A buffer that was not used while this many others were taken is given up: more than a deep stack takes in
/// a training step.
const PATIENCE: u64 = 1 << 10;

/// Buffers of the process.
static POOL: Mutex<Pool> = Mutex::new(Pool { kept: Vec::new(), taken: 0 });

struct Pool {
    kept: Vec<Kept>,
    /// Buffers taken so far.
    taken: u64,
}

struct Kept {
    /// One dimension, all of the buffer.
    tensor: FlexTensor,
    /// What [`Pool::taken`] was when it was last in use.
    used: u64,
}

impl Kept {
    fn len(&self) -> usize {
        self.tensor.layout().num_elements()
    }

    fn is_free(&self) -> bool {
        self.tensor.is_unique()
    }
}

impl Pool {
    /// The smallest free buffer that holds `len` floats and not more than twice as many.
    fn take(&mut self, len: usize) -> Option<FlexTensor> {
        self.taken += 1;
        let now = self.taken;
        for kept in &mut self.kept {
            if !kept.is_free() {
                kept.used = now;
            }
        }
        self.kept.retain(|kept| now - kept.used < PATIENCE);
        let fits = |kept: &Kept| kept.is_free() && (len..=2 * len).contains(&kept.len());
        let (best, _) =
            self.kept.iter().enumerate().filter(|(_, kept)| fits(kept)).min_by_key(|(_, kept)| kept.len())?;
        Some(self.kept.swap_remove(best).tensor)
    }

    fn keep(&mut self, tensor: FlexTensor) {
        self.kept.push(Kept { tensor, used: self.taken });
    }
}

/// Floats that belong to nobody else yet. They hold what was left in them.
pub(crate) struct Buffer {
    tensor: FlexTensor,
    len: usize,
}

/// A buffer of `len` floats of any value, for what overwrites it.
pub(crate) fn buffer(len: usize) -> Buffer {
    let pooled = (len >= SMALLEST).then(|| lock(&POOL).take(len)).flatten();
    Buffer { tensor: pooled.unwrap_or_else(|| flex(vec![0.0; len], [len])), len }
}

impl Buffer {
    /// The buffer as a tensor. It comes back when the last holder of the tensor drops it.
    pub(crate) fn into_tensor(self, shape: impl Into<Shape>) -> FlexTensor {
        let Buffer { tensor, len } = self;
        let shape = shape.into();
        assert_eq!(shape.num_elements(), len, "the shape has as many elements as the buffer");
        if len < SMALLEST {
            return tensor.reshape(shape);
        }
        let view = FlexTensor::from_arc(
            tensor.data_arc(),
            burn::backend::flex::Layout::contiguous(shape),
            tensor.dtype(),
        );
        lock(&POOL).keep(tensor);
        view
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.tensor.storage()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.tensor.storage_mut()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::slice;

    /// Lengths that no other test uses, for the pool is shared.
    #[test]
    fn a_buffer_is_used_again_once_its_tensor_is_dropped() {
        let make = |len: usize, value: f32| {
            let mut buffer = buffer(len);
            buffer.fill(value);
            buffer.into_tensor([len / 3, 3])
        };
        let place = |tensor: &FlexTensor| slice(tensor).as_ptr().addr();
        let len = 3 << 21;
        let first = make(len, 1.0);
        let copy = first.clone();
        let second = make(len, 2.0);
        assert_ne!(place(&first), place(&second));
        let was = place(&first);
        drop(first);
        let third = make(len, 3.0);
        assert_ne!(place(&third), was, "a clone still reads it");
        assert!(slice(&copy).iter().all(|&value| value == 1.0));
        drop(copy);
        // A shorter one fits as well, and sees its own part only.
        let shorter = make(len - 3, 4.0);
        assert_eq!(place(&shorter), was);
        assert_eq!(slice(&shorter).len(), len - 3);
    }

    #[test]
    fn what_nobody_uses_is_given_up() {
        let mut pool = Pool { kept: Vec::new(), taken: 0 };
        pool.keep(flex(vec![0.0; 8], [8]));
        let held = flex(vec![0.0; 8], [8]);
        pool.keep(held.clone());
        assert!(pool.take(3).is_none(), "more than twice as long");
        assert!(pool.take(9).is_none(), "too short");
        let taken = pool.take(8).expect("one is free");
        assert!(pool.take(8).is_none(), "the other is held");
        pool.keep(taken);
        for _ in 0..PATIENCE {
            assert!(pool.take(1).is_none());
        }
        assert_eq!(pool.kept.len(), 1, "only what is held is left");
    }
}
