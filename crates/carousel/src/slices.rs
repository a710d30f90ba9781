//! Tensors as plain numbers: lends their values as slices, and makes tensors of vectors, without a copy where they lie in
//! CPU memory as 32-bit floats.

use burn::backend::flex::FlexTensor;
use burn::backend::{DispatchDevice, Flex, GradientCheckpointingStrategy};
use burn::module::Param;
use burn::tensor::{DType, Shape, Tensor, TensorData};

/// Whether the kernels can read this tensor: CPU memory, 32-bit floats.
#[must_use]
pub fn supports<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32
        && matches!(tensor.device().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// Calls `f` with the tensor's elements, row after row. In CPU memory they are borrowed where they lie;
/// otherwise, or when the tensor is a view with gaps, `f` sees a copy.
pub fn with_slice<const D: usize, R>(tensor: &Tensor<D>, f: impl FnOnce(&[f32]) -> R) -> R {
    if supports(tensor) {
        f(slice(&dense(primitive(tensor.clone()))))
    } else {
        f(&tensor.to_data().convert::<f32>().try_into_vec::<f32>().expect("converted to f32 above"))
    }
}

/// Calls `f` with the parameter's elements, to be changed in place, row after row. In CPU memory nothing is
/// copied as long as nobody else holds the tensor, which is so between a backward pass and the next forward
/// pass. On other devices the values are read, changed and written back.
///
/// ```
/// use burn::module::{Param, ParamId};
/// use burn::tensor::{Device, Tensor};
/// use carousel::slices::{with_slice, with_slice_mut};
///
/// let device = Device::default().autodiff();
/// let mut bias = Param::<Tensor<1>>::initialized(ParamId::new(), Tensor::ones([3], &device));
/// with_slice_mut(&mut bias, |values| values[1] = 5.0);
/// assert_eq!(with_slice(&bias.val(), <[f32]>::to_vec), [1.0, 5.0, 1.0]);
/// ```
pub fn with_slice_mut<const D: usize, R>(
    parameter: &mut Param<Tensor<D>>,
    f: impl FnOnce(&mut [f32]) -> R,
) -> R {
    // A parameter can only be changed by taking it apart; an empty one stands in meanwhile.
    let placeholder = Param::initialized(parameter.id, empty());
    let (id, tensor, mapper) = std::mem::replace(parameter, placeholder).consume();
    let device = tensor.device();
    let requires_gradient = tensor.is_require_grad();
    let (result, changed) = if supports(&tensor) {
        let strategy = tensor.gradient_checkpointing_strategy();
        let mut values = dense(primitive(tensor));
        // A view into a larger buffer must not hand out its surroundings.
        if values.storage::<f32>().len() != values.layout().num_elements() {
            values = flex(slice(&values).to_vec(), values.layout().shape().clone());
        }
        let result = f(values.storage_mut::<f32>());
        (result, on_strategy(Tensor::from_primitive::<Flex>(values), strategy))
    } else {
        let shape = tensor.shape();
        let dtype = tensor.dtype();
        let mut values =
            tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("converted to f32 above");
        let result = f(&mut values);
        let data = TensorData::new(values, shape).convert_dtype(dtype);
        (result, Tensor::from_data(data, (&device, dtype)))
    };
    let changed = if requires_gradient { changed.require_grad() } else { changed };
    *parameter = Param::from_mapped_value(id, changed, mapper);
    result
}

/// A tensor without elements.
fn empty<const D: usize>() -> Tensor<D> {
    Tensor::from_primitive::<Flex>(flex(Vec::new(), [0; D]))
}

/// The values of a CPU tensor, without what computed them.
pub(crate) fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor
        .without_autodiff()
        .try_into_primitive::<Flex>()
        .expect("callers check that the tensor lies in CPU memory")
}

/// The tensor itself where its elements lie one after another, else such a copy.
pub(crate) fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a tensor that was made [`dense`], row after row.
pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("made dense, and of 32-bit floats")
}

/// Takes the vector over, no copy.
pub(crate) fn flex(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// A tensor of CPU memory on the autodiff layer with this strategy; off it without one.
pub(crate) fn on_strategy<const D: usize>(
    tensor: Tensor<D>,
    strategy: Option<GradientCheckpointingStrategy>,
) -> Tensor<D> {
    match strategy {
        None => tensor,
        Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
    }
}

/// A tensor's values in CPU memory, one after another, wherever it lies.
pub(crate) fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    if supports(&tensor) {
        return dense(primitive(tensor));
    }
    let shape = tensor.shape();
    flex(with_slice(&tensor, <[f32]>::to_vec), shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn slices_follow_the_shape_of_a_view() {
        let tensor = Tensor::<2>::from_data([[1.0f32, 2.0], [3.0, 4.0]], &Device::default());
        assert_eq!(with_slice(&tensor.clone().transpose(), <[f32]>::to_vec), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(with_slice(&tensor.slice([1..2, 0..2]), <[f32]>::to_vec), [3.0, 4.0]);
    }

    #[test]
    fn other_types_are_left_to_the_portable_path() {
        let tensor = Tensor::<1>::ones([2], &Device::default());
        assert!(supports(&tensor));
        assert!(supports(&tensor.clone().autodiff()));
        let wide = tensor.cast(DType::F64);
        assert!(!supports(&wide));
        assert_eq!(with_slice(&wide, <[f32]>::to_vec), [1.0, 1.0]);
    }
}
