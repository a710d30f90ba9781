//! Why data that stays in its files could not be read.

use std::sync::Mutex;

use super::DataError;
use crate::lock::lock;

/// The first reason, until somebody asks for it: readers go on with what stands for the data, and whoever uses them asks
/// before anything comes of it.
#[derive(Debug, Default)]
pub(crate) struct FirstFailure(Mutex<Option<DataError>>);

impl FirstFailure {
    pub(crate) fn keep(&self, error: DataError) {
        lock(&self.0).get_or_insert(error);
    }

    pub(crate) fn is_kept(&self) -> bool {
        lock(&self.0).is_some()
    }

    pub(crate) fn take(&self) -> Option<DataError> {
        lock(&self.0).take()
    }
}
