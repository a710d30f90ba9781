//! Weights that are packed once for all passes without gradients and chance, for as long as they stay what they are.

use std::sync::{Arc, Mutex};

use burn::backend::flex::FlexTensor;
use carousel_kernels::{Layer, PackedWeights, Weights};

use crate::lock::lock;
use crate::slices::slice;

/// One direction's packed weights, and the tensors they were made of. Those are held: while they are, nobody else
/// can change them where they lie, nor can other tensors come to lie there, so that the same place means the same
/// values.
#[derive(Clone, Default)]
pub(crate) struct PackedOnce(Arc<Mutex<Option<Kept>>>);

struct Kept {
    tensors: [FlexTensor; 4],
    packed: Arc<PackedWeights>,
}

impl std::fmt::Debug for PackedOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if lock(&self.0).is_some() { "PackedOnce(kept)" } else { "PackedOnce(empty)" })
    }
}

impl PackedOnce {
    /// The packed form of `weights`, which are lent by `tensors` (and, in a cell with options, copied): the one that
    /// is kept, or a new one. Both have been checked to fit the layer.
    pub(crate) fn get(
        &self,
        layer: &Layer,
        tensors: [&FlexTensor; 4],
        weights: Weights<'_>,
    ) -> Arc<PackedWeights> {
        let mut kept = lock(&self.0);
        let same = |a: &FlexTensor, b: &FlexTensor| std::ptr::eq(slice(a), slice(b));
        if let Some(Kept { tensors: of, packed }) = &*kept
            && of.iter().zip(tensors).all(|(of, tensor)| same(of, tensor))
            && packed.serves(layer, weights.options)
        {
            return packed.clone();
        }
        let checked = "shapes were checked before the call";
        // Memory that no pass is reading any more serves again.
        let packed = match kept.take().map(|kept| Arc::try_unwrap(kept.packed)) {
            Some(Ok(mut packed)) => {
                packed.repack(layer, weights).expect(checked);
                packed
            }
            _ => PackedWeights::new(layer, weights).expect(checked),
        };
        let packed = Arc::new(packed);
        *kept = Some(Kept { tensors: tensors.map(FlexTensor::clone), packed: packed.clone() });
        packed
    }

    /// Where the packed weights lie that are kept.
    #[cfg(test)]
    pub(crate) fn place(&self) -> Option<*const PackedWeights> {
        lock(&self.0).as_ref().map(|kept| Arc::as_ptr(&kept.packed))
    }

    /// Lets go of what is kept: weights that are about to be learned change in place only while nobody holds them.
    pub(crate) fn forget(&self) {
        *lock(&self.0) = None;
    }
}
