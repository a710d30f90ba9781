//! A model's parameters under their names: listing, saving, loading, and updating them in place.

use std::sync::Mutex;

use burn::module::Param;
use burn::tensor::{Gradients, Tensor, TensorData};

use crate::lock::lock;
use crate::slices::{with_slice, with_slice_mut};

/// A tensor as plain numbers, as checkpoints hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name, parts separated by dots.
    pub name: String,
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// Its values, row after row.
    pub values: Vec<f32>,
}

/// Why a model could not take values over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    /// A tensor of the model is not among those given.
    #[error("tensor {name} is missing; the model has other layers or directions than what is loaded")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor given is not of the model.
    #[error("tensor {name} does not belong to this model")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape given.
        found: Vec<usize>,
        /// The model's shape.
        expected: Vec<usize>,
    },
    /// A tensor's values do not fill its shape.
    #[error("tensor {name} has {found} values, but shape {shape:?}")]
    Values {
        /// Its name.
        name: String,
        /// How many values there are.
        found: usize,
        /// The shape given.
        shape: Vec<usize>,
    },
}

/// A parameter of a model.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a> {
    /// A matrix.
    Matrix(&'a Param<Tensor<2>>),
    /// A vector.
    Vector(&'a Param<Tensor<1>>),
    /// The kernels of a convolution, `[out, in, height, width]`.
    Kernel(&'a Param<Tensor<4>>),
}

impl Parameter<'_> {
    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Parameter::Matrix(parameter) => parameter.dims().to_vec(),
            Parameter::Vector(parameter) => parameter.dims().to_vec(),
            Parameter::Kernel(parameter) => parameter.dims().to_vec(),
        }
    }

    /// Calls `f` with the values, row after row; see [`with_slice`].
    pub fn with_slice<R>(&self, f: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Parameter::Matrix(parameter) => with_slice(&parameter.val(), f),
            Parameter::Vector(parameter) => with_slice(&parameter.val(), f),
            Parameter::Kernel(parameter) => with_slice(&parameter.val(), f),
        }
    }

    /// Takes its gradient out, row after row in one dimension; `None` where the loss does not depend on it.
    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        match self {
            Parameter::Matrix(parameter) => {
                parameter.val().grad_remove(gradients).map(|gradient| gradient.flatten(0, 1))
            }
            Parameter::Vector(parameter) => parameter.val().grad_remove(gradients),
            Parameter::Kernel(parameter) => {
                parameter.val().grad_remove(gradients).map(|gradient| gradient.flatten(0, 3))
            }
        }
    }
}

/// A parameter of a model, to be changed.
#[derive(Debug)]
pub enum ParameterMut<'a> {
    /// A matrix.
    Matrix(&'a mut Param<Tensor<2>>),
    /// A vector.
    Vector(&'a mut Param<Tensor<1>>),
    /// The kernels of a convolution.
    Kernel(&'a mut Param<Tensor<4>>),
}

impl ParameterMut<'_> {
    /// Calls `f` with the values, row after row, to be changed in place; see [`with_slice_mut`].
    pub fn with_slice_mut<R>(&mut self, f: impl FnOnce(&mut [f32]) -> R) -> R {
        match self {
            ParameterMut::Matrix(parameter) => with_slice_mut(parameter, f),
            ParameterMut::Vector(parameter) => with_slice_mut(parameter, f),
            ParameterMut::Kernel(parameter) => with_slice_mut(parameter, f),
        }
    }
}

/// Values of a model that training keeps and no gradient changes, such as running means. A copy of the model has a
/// copy of them.
#[derive(Debug)]
pub struct Buffer {
    shape: Vec<usize>,
    values: Mutex<Vec<f32>>,
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer { shape: self.shape.clone(), values: Mutex::new(lock(&self.values).clone()) }
    }
}

impl Buffer {
    /// One value everywhere.
    pub(crate) fn filled(shape: Vec<usize>, value: f32) -> Buffer {
        let count = shape.iter().product();
        Buffer { shape, values: Mutex::new(vec![value; count]) }
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Calls `f` with the values, row after row.
    pub fn with_slice<R>(&self, f: impl FnOnce(&[f32]) -> R) -> R {
        f(&lock(&self.values))
    }

    /// Calls `f` with the values, row after row, to be changed in place.
    pub fn with_slice_mut<R>(&self, f: impl FnOnce(&mut [f32]) -> R) -> R {
        f(&mut lock(&self.values))
    }
}

/// A model whose parameters have names.
pub trait NamedParameters {
    /// All parameters with their names, always in the same order.
    fn parameters(&self) -> Vec<(String, Parameter<'_>)>;

    /// The same list, to change the parameters.
    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)>;

    /// All buffers with their names, always in the same order. Default: there are none.
    fn buffers(&self) -> Vec<(String, &Buffer)> {
        Vec::new()
    }

    /// Copies of all parameters, then of all buffers.
    fn named_tensors(&self) -> Vec<NamedTensor> {
        let parameters = self.parameters().into_iter().map(|(name, parameter)| NamedTensor {
            name,
            shape: parameter.shape(),
            values: parameter.with_slice(<[f32]>::to_vec),
        });
        let buffers = self.buffers().into_iter().map(|(name, buffer)| NamedTensor {
            name,
            shape: buffer.shape().to_vec(),
            values: buffer.with_slice(<[f32]>::to_vec),
        });
        parameters.chain(buffers).collect()
    }

    /// Takes over the values of all parameters and buffers, given in any order. On an error nothing is changed.
    ///
    /// # Errors
    /// [`LoadError`] when the names or shapes are not exactly the model's.
    fn load(&mut self, tensors: &[NamedTensor]) -> Result<(), LoadError> {
        let parameters = self.parameters().into_iter().map(|(name, own)| (name, own.shape()));
        let buffers = self.buffers().into_iter().map(|(name, own)| (name, own.shape().to_vec()));
        let mut chosen = Vec::new();
        for (name, expected) in parameters.chain(buffers) {
            let Some(tensor) = tensors.iter().find(|tensor| tensor.name == name) else {
                return Err(LoadError::Missing { name });
            };
            if tensor.shape != expected {
                return Err(LoadError::Shape { name, found: tensor.shape.clone(), expected });
            }
            if tensor.values.len() != expected.iter().product::<usize>() {
                return Err(LoadError::Values { name, found: tensor.values.len(), shape: expected });
            }
            chosen.push(tensor);
        }
        let is_chosen = |tensor: &NamedTensor| chosen.iter().any(|&other| std::ptr::eq(other, tensor));
        if let Some(tensor) = tensors.iter().find(|tensor| !is_chosen(tensor)) {
            return Err(LoadError::Unknown { name: tensor.name.clone() });
        }
        let mut chosen = chosen.into_iter();
        for ((_, mut parameter), tensor) in self.parameters_mut().into_iter().zip(&mut chosen) {
            parameter.with_slice_mut(|values| values.copy_from_slice(&tensor.values));
        }
        for ((_, buffer), tensor) in self.buffers().into_iter().zip(chosen) {
            buffer.with_slice_mut(|values| values.copy_from_slice(&tensor.values));
        }
        Ok(())
    }

    /// Takes the gradients of all parameters out of what a backward pass returned, in the order of
    /// [`parameters`](NamedParameters::parameters), each in one dimension. Zeros where the loss does not depend
    /// on a parameter.
    fn take_gradients(&self, gradients: &mut Gradients) -> Vec<Tensor<1>> {
        self.parameters()
            .into_iter()
            .map(|(_, parameter)| {
                parameter.take_gradient(gradients).unwrap_or_else(|| {
                    let count: usize = parameter.shape().into_iter().product();
                    let device = match parameter {
                        Parameter::Matrix(parameter) => parameter.device(),
                        Parameter::Vector(parameter) => parameter.device(),
                        Parameter::Kernel(parameter) => parameter.device(),
                    };
                    Tensor::zeros([count], &device.without_autodiff())
                })
            })
            .collect()
    }
}

/// Implements [`NamedParameters`] for a model made of parts, in this order: a name, and the field that holds the part.
/// The names of a part's parameters come under its own; they stay as they are where that is empty.
macro_rules! parts {
    ($(#[$doc:meta])* $model:ty { $($name:literal: $($part:ident).+),+ $(,)? }) => {
        $(#[$doc])*
        impl $crate::parameters::NamedParameters for $model {
            fn parameters(&self) -> Vec<(String, $crate::parameters::Parameter<'_>)> {
                use $crate::parameters::{NamedParameters, prefixed};
                let all = [$(prefixed($name, NamedParameters::parameters(&self.$($part).+))),+];
                all.into_iter().flatten().collect()
            }

            fn parameters_mut(&mut self) -> Vec<(String, $crate::parameters::ParameterMut<'_>)> {
                use $crate::parameters::{NamedParameters, prefixed};
                let all = [$(prefixed($name, NamedParameters::parameters_mut(&mut self.$($part).+))),+];
                all.into_iter().flatten().collect()
            }

            fn buffers(&self) -> Vec<(String, &$crate::parameters::Buffer)> {
                use $crate::parameters::{NamedParameters, prefixed};
                let all = [$(prefixed($name, NamedParameters::buffers(&self.$($part).+))),+];
                all.into_iter().flatten().collect()
            }
        }
    };
}
pub(crate) use parts;

/// Those of a part that a model may lack.
impl<P: NamedParameters> NamedParameters for Option<P> {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        self.iter().flat_map(P::parameters).collect()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        self.iter_mut().flat_map(P::parameters_mut).collect()
    }

    fn buffers(&self) -> Vec<(String, &Buffer)> {
        self.iter().flat_map(P::buffers).collect()
    }
}

/// Those of parts that are numbered: `0.…`, `1.…`, ….
impl<P: NamedParameters> NamedParameters for Vec<P> {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let parts = self.iter().enumerate();
        parts.flat_map(|(index, part)| prefixed(&index.to_string(), part.parameters())).collect()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let parts = self.iter_mut().enumerate();
        parts.flat_map(|(index, part)| prefixed(&index.to_string(), part.parameters_mut())).collect()
    }

    fn buffers(&self) -> Vec<(String, &Buffer)> {
        let parts = self.iter().enumerate();
        parts.flat_map(|(index, part)| prefixed(&index.to_string(), part.buffers())).collect()
    }
}

macro_rules! single {
    ($($dimensions:literal: $kind:ident),+) => {$(
        /// One parameter, whose name is that of the part.
        impl NamedParameters for Param<Tensor<$dimensions>> {
            fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
                vec![(String::new(), Parameter::$kind(self))]
            }

            fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
                vec![(String::new(), ParameterMut::$kind(self))]
            }
        }
    )+};
}

single!(1: Vector, 2: Matrix, 4: Kernel);

/// A list of parameters, the names under that of the part of the model they belong to.
pub(crate) fn prefixed<P>(part: &str, parameters: Vec<(String, P)>) -> Vec<(String, P)> {
    let joined = |name: String| match (part, &name[..]) {
        ("", _) => name,
        (_, "") => part.to_owned(),
        _ => format!("{part}.{name}"),
    };
    parameters.into_iter().map(|(name, parameter)| (joined(name), parameter)).collect()
}

/// A parameter that holds `values`.
pub(crate) fn parameter<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &burn::tensor::Device,
) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}
