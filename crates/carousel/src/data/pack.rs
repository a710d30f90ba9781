//! Sequences side by side in the packed order of a ragged batch.

use carousel_kernels::Batch;

/// Puts sequences of `width` values a step into packed order: all first steps, then all second steps, the longest
/// sequence first.
///
/// # Panics
/// When a sequence is not a whole number of steps.
#[must_use]
pub fn pack<T: Copy>(sequences: &[&[T]], width: usize) -> (Vec<T>, Batch) {
    let width = width.max(1);
    let lengths: Vec<usize> = sequences
        .iter()
        .map(|sequence| {
            assert!(sequence.len().is_multiple_of(width), "a sequence is a whole number of steps");
            sequence.len() / width
        })
        .collect();
    let time = lengths.iter().copied().max().unwrap_or(0);
    let batch = Batch::ragged(&lengths, time).expect("no length is above the longest");
    let mut packed = Vec::with_capacity(batch.frames() * width);
    for (sequence, step) in batch.places() {
        packed.extend_from_slice(&sequences[sequence][step * width..][..width]);
    }
    (packed, batch)
}

/// One sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Sequence {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Numbers, step after step.
    Numbers {
        /// `[T, I]`.
        values: Vec<f32>,
        /// `I`.
        width: usize,
    },
}

impl Sequence {
    /// Steps.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Sequence::Tokens(ids) => ids.len(),
            Sequence::Numbers { values, width } => values.len() / width.max(&1),
        }
    }

    /// Cuts off all steps behind the first `most`.
    pub fn truncate(&mut self, most: usize) {
        match self {
            Sequence::Tokens(ids) => ids.truncate(most),
            Sequence::Numbers { values, width } => values.truncate(most * *width),
        }
    }
}

/// The steps of a batch, in packed order.
#[derive(Clone, Debug, PartialEq)]
pub enum Packed {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Numbers `[F, I]`.
    Numbers(Vec<f32>),
}

/// Packs sequences, which are all of one kind and width.
///
/// # Panics
/// When they are not.
#[must_use]
pub fn pack_sequences(sequences: &[&Sequence]) -> (Packed, Batch) {
    match sequences.first() {
        Some(&&Sequence::Numbers { width, .. }) => {
            let rows: Vec<&[f32]> = sequences
                .iter()
                .map(|sequence| match sequence {
                    Sequence::Numbers { values, width: own } if *own == width => values.as_slice(),
                    _ => panic!("all sequences of a batch have {width} numbers a step"),
                })
                .collect();
            let (values, batch) = pack(&rows, width);
            (Packed::Numbers(values), batch)
        }
        _ => {
            let rows: Vec<&[u32]> = sequences
                .iter()
                .map(|sequence| match sequence {
                    Sequence::Tokens(ids) => ids.as_slice(),
                    Sequence::Numbers { .. } => panic!("all sequences of a batch are tokens"),
                })
                .collect();
            let (ids, batch) = pack(&rows, 1);
            (Packed::Tokens(ids), batch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_beside_each_other() {
        let (packed, batch) = pack(&[&[1, 2][..], &[], &[3, 4, 5, 6]], 2);
        assert_eq!(packed, [3, 4, 1, 2, 5, 6]);
        assert_eq!(batch.lengths(), [1, 0, 2]);
    }
}
