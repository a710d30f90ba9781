//! Batches of sequences of different lengths.

use std::sync::Arc;

use burn::tensor::Tensor;
pub use carousel_kernels::Batch;
use carousel_kernels::ShapeError;

use crate::state::index_tensor;

/// Why a ragged batch could not be made or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RaggedError {
    /// There is no sequence at all, so neither a width nor a device is known.
    #[error("no sequences were given; give at least one")]
    Empty,
    /// A sequence is wider or narrower than the first.
    #[error("sequence {sequence} has {found} values a step, expected {expected} as in sequence 0")]
    Width {
        /// The sequence's place in the batch.
        sequence: usize,
        /// Its width.
        found: usize,
        /// The width of sequence 0.
        expected: usize,
    },
    /// As many lengths (or masks) are wanted as there are sequences.
    #[error("{found} {what} were given for {expected} sequences")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many sequences there are.
        expected: usize,
    },
    /// A tensor of frames has another number of rows than the batch has frames.
    #[error("the tensor has {found} rows, but the batch has {expected} frames")]
    Frames {
        /// Rows of the tensor.
        found: usize,
        /// `F`.
        expected: usize,
    },
    /// A mask is longer or shorter than its sequence.
    #[error("the mask of sequence {sequence} has {found} entries, but the sequence has {expected} steps")]
    Mask {
        /// The sequence's place in the batch.
        sequence: usize,
        /// Entries of the mask.
        found: usize,
        /// The sequence's length.
        expected: usize,
    },
    /// A length exceeds the time dimension.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Sequences of different lengths in one tensor that holds the real steps only.
///
/// Lengths are in the caller's order, need no sorting and may be zero.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use carousel::ragged::Ragged;
///
/// let device = Device::default();
/// let long = Tensor::<2>::ones([3, 2], &device);
/// let short = Tensor::<2>::ones([1, 2], &device);
/// let ragged = Ragged::pack(&[short, long])?;
/// assert_eq!(ragged.lengths(), [1, 3]);
/// assert_eq!(ragged.frames().dims(), [4, 2]);
/// assert_eq!(ragged.to_padded(0.0).dims(), [2, 3, 2]);
/// # Ok::<(), carousel::ragged::RaggedError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ragged {
    frames: Tensor<2>,
    batch: Arc<Batch>,
}

impl Ragged {
    /// Frames `[F, I]` that already stand in [packed order](carousel_kernels::Layout::Packed).
    ///
    /// # Errors
    /// [`RaggedError::Frames`] when the tensor's rows are not the batch's frames.
    pub fn new(frames: Tensor<2>, batch: Arc<Batch>) -> Result<Ragged, RaggedError> {
        let found = frames.dims()[0];
        let expected = batch.frames();
        if found != expected {
            return Err(RaggedError::Frames { found, expected });
        }
        Ok(Ragged { frames, batch })
    }

    /// Packs sequences `[length, I]`.
    ///
    /// # Errors
    /// [`RaggedError::Empty`] without sequences, [`RaggedError::Width`] when they differ in `I`.
    pub fn pack(sequences: &[Tensor<2>]) -> Result<Ragged, RaggedError> {
        let expected = sequences.first().ok_or(RaggedError::Empty)?.dims()[1];
        for (sequence, tensor) in sequences.iter().enumerate() {
            let found = tensor.dims()[1];
            if found != expected {
                return Err(RaggedError::Width { sequence, found, expected });
            }
        }
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.dims()[0]).collect();
        let time = lengths.iter().copied().max().unwrap_or(0);
        let batch = Batch::ragged(&lengths, time)?;
        let mut first = 0;
        let firsts: Vec<usize> = lengths
            .iter()
            .map(|length| {
                first += length;
                first - length
            })
            .collect();
        let device = sequences[0].device();
        if batch.frames() == 0 {
            return Ragged::new(Tensor::zeros([0, expected], &device), Arc::new(batch));
        }
        let rows: Vec<i64> = batch.places().map(|(sequence, t)| (firsts[sequence] + t) as i64).collect();
        let filled = sequences.iter().filter(|sequence| sequence.dims()[0] > 0).cloned().collect();
        let frames = Tensor::cat(filled, 0).select(0, index_tensor(rows, &device));
        Ragged::new(frames, Arc::new(batch))
    }

    /// Takes the first `lengths[b]` steps of each row of `padded` `[B, T, I]`. What stands behind them is
    /// never read, not even when it is NaN.
    ///
    /// # Errors
    /// [`RaggedError::Count`] when there is not one length a row, [`RaggedError::Shape`] when a length
    /// exceeds `T`.
    pub fn from_padded(padded: Tensor<3>, lengths: &[usize]) -> Result<Ragged, RaggedError> {
        let [sequences, time, width] = padded.dims();
        if lengths.len() != sequences {
            return Err(RaggedError::Count { what: "lengths", found: lengths.len(), expected: sequences });
        }
        let batch = Batch::ragged(lengths, time)?;
        let device = padded.device();
        let frames = if batch.frames() == 0 {
            Tensor::zeros([0, width], &device)
        } else {
            let rows = batch.places().map(|(sequence, t)| (sequence * time + t) as i64).collect();
            padded.reshape([sequences * time, width]).select(0, index_tensor(rows, &device))
        };
        Ragged::new(frames, Arc::new(batch))
    }

    /// `[B, T, I]`, every step behind a sequence's end filled with `value`.
    #[must_use]
    pub fn to_padded(&self, value: f32) -> Tensor<3> {
        let (sequences, time) = (self.batch.sequences(), self.batch.time());
        let [frames, width] = self.frames.dims();
        let device = self.frames.device();
        if sequences * time == 0 {
            return Tensor::zeros([sequences, time, width], &device);
        }
        let mut rows = vec![frames as i64; sequences * time];
        for (frame, (sequence, t)) in self.batch.places().enumerate() {
            rows[sequence * time + t] = frame as i64;
        }
        let filler = Tensor::full([1, width], value, &device);
        let with_filler =
            if frames == 0 { filler } else { Tensor::cat(vec![self.frames.clone(), filler], 0) };
        with_filler.select(0, index_tensor(rows, &device)).reshape([sequences, time, width])
    }

    /// Lengths in the caller's order.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        self.batch.lengths()
    }

    /// The real steps of all sequences, `[F, I]`, in packed order.
    #[must_use]
    pub fn frames(&self) -> Tensor<2> {
        self.frames.clone()
    }

    /// Lengths and the order of the frames.
    #[must_use]
    pub fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// Each sequence's last real step, `[B, I]`; zeros for a sequence of length zero.
    ///
    /// Of the output of a stack in both directions this is the last step of the forward half and, in the
    /// reverse half, the first step that half took.
    #[must_use]
    pub fn last(&self) -> Tensor<2> {
        let [frames, width] = self.frames.dims();
        let device = self.frames.device();
        let mut rows = vec![frames as i64; self.batch.sequences()];
        for (rank, &sequence) in self.batch.order().iter().enumerate() {
            let length = self.batch.lengths()[sequence];
            if length > 0 {
                rows[sequence] = self.batch.frame(length - 1, rank) as i64;
            }
        }
        let all = if rows.contains(&(frames as i64)) {
            Tensor::cat(vec![self.frames.clone(), Tensor::zeros([1, width], &device)], 0)
        } else {
            self.frames.clone()
        };
        all.select(0, index_tensor(rows, &device))
    }

    /// The steps chosen by one mask a sequence, `[chosen, I]`: sequence after sequence, in the caller's order.
    ///
    /// # Errors
    /// [`RaggedError::Count`] when there is not one mask a sequence, [`RaggedError::Mask`] when a mask has
    /// another length than its sequence.
    pub fn select(&self, mask: &[Vec<bool>]) -> Result<Tensor<2>, RaggedError> {
        let expected = self.batch.sequences();
        if mask.len() != expected {
            return Err(RaggedError::Count { what: "masks", found: mask.len(), expected });
        }
        for (sequence, (mask, &expected)) in mask.iter().zip(self.lengths()).enumerate() {
            if mask.len() != expected {
                return Err(RaggedError::Mask { sequence, found: mask.len(), expected });
            }
        }
        let mut chosen: Vec<(usize, usize, i64)> = self
            .batch
            .places()
            .enumerate()
            .filter(|&(_, (sequence, t))| mask[sequence][t])
            .map(|(frame, (sequence, t))| (sequence, t, frame as i64))
            .collect();
        chosen.sort_unstable();
        let device = self.frames.device();
        if chosen.is_empty() {
            return Ok(Tensor::zeros([0, self.frames.dims()[1]], &device));
        }
        let rows = chosen.into_iter().map(|(_, _, frame)| frame).collect();
        Ok(self.frames.clone().select(0, index_tensor(rows, &device)))
    }
}

/// A ragged batch whose frames share rows, such as the embeddings of the tokens that occur in it: each row
/// meets the input weights of a recurrent layer once, however many frames it stands for.
///
/// ```
/// use std::sync::Arc;
/// use burn::tensor::{Device, Tensor};
/// use carousel::ragged::{Batch, SharedRows};
///
/// let rows = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &Device::default());
/// let batch = Arc::new(Batch::full(1, 3));
/// let shared = SharedRows::new(rows, vec![0, 1, 0], batch)?; // three frames, two rows
/// # Ok::<(), carousel::ragged::RaggedError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedRows {
    pub(crate) rows: Tensor<2>,
    pub(crate) index: Arc<Vec<u32>>,
    pub(crate) batch: Arc<Batch>,
}

impl SharedRows {
    /// `rows` `[U, I]`, and for each frame in packed order the row it reads.
    ///
    /// # Errors
    /// [`RaggedError::Frames`] when there is not one index a frame, [`RaggedError::Shape`] when one is not below
    /// `U`.
    pub fn new(rows: Tensor<2>, index: Vec<u32>, batch: Arc<Batch>) -> Result<SharedRows, RaggedError> {
        if index.len() != batch.frames() {
            return Err(RaggedError::Frames { found: index.len(), expected: batch.frames() });
        }
        let limit = rows.dims()[0];
        if let Some(&row) = index.iter().find(|&&row| row as usize >= limit) {
            let found = row as usize;
            return Err(ShapeError::Index { what: "a frame's input row", found, limit }.into());
        }
        Ok(SharedRows { rows, index: Arc::new(index), batch })
    }
}
