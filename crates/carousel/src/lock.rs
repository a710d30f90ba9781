//! Locks of what is shared between the holders of a model.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder never leaves it half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
