//! The choice between the two implementations: the fused kernels and Burn's operations.

use burn::tensor::Tensor;

use crate::slices::supports;

/// Which implementation runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// The fused kernels for 32-bit floats in CPU memory, Burn's operations for everything else.
    #[default]
    Auto,
    /// Always Burn's operations.
    Portable,
}

impl Path {
    /// Whether the kernels run for this input and this parameter.
    pub(crate) fn is_fused(self, x: &Tensor<2>, weight: &Tensor<2>) -> bool {
        self == Path::Auto && supports(x) && supports(weight)
    }
}
