//! The file that a broken step leaves in its run's folder: the weights, and beside them what the step began with.

use std::path::PathBuf;

use carousel_kernels::Batch;

use crate::parameters::NamedTensor;
use crate::train::TrainError;
use crate::train::checkpoint::CheckpointError;

/// A tensor of what is saved beside the weights.
pub(in crate::train) fn flat(name: &str, values: Vec<f32>) -> NamedTensor {
    NamedTensor { name: format!("batch.{name}"), shape: vec![values.len()], values }
}

/// What was saved beside the weights.
pub(in crate::train) struct Saved {
    pub(in crate::train) path: PathBuf,
    pub(in crate::train) tensors: Vec<NamedTensor>,
}

impl Saved {
    /// The error that says why it does not do.
    pub(in crate::train) fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), reason }
    }

    /// The values under a name.
    pub(in crate::train) fn values(&self, name: &str) -> Result<&[f32], TrainError> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == format!("batch.{name}"));
        let missing = || self.damaged(format!("it has no batch.{name}; give a file that a run left"));
        Ok(&tensor.ok_or_else(missing)?.values)
    }

    /// The batch that its lengths under this name are of; they must be those of so many frames.
    pub(in crate::train) fn batch(&self, name: &str, frames: usize) -> Result<Batch, TrainError> {
        let lengths: Vec<usize> = self.values(name)?.iter().map(|&length| length as usize).collect();
        // Before a batch is made of them: a damaged length may be beyond all memory.
        let sum = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
        if sum != Some(frames) {
            return Err(self.damaged(format!("batch.{name} is not that of its {frames} inputs")).into());
        }
        let time = lengths.iter().copied().max().unwrap_or_default();
        Ok(Batch::ragged(&lengths, time).map_err(|error| self.damaged(error.to_string()))?)
    }

    /// Whole numbers under a name.
    pub(in crate::train) fn numbers(&self, name: &str) -> Result<Vec<u32>, TrainError> {
        Ok(self.values(name)?.iter().map(|&value| value as u32).collect())
    }
}
