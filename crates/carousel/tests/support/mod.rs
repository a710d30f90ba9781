//! What the tests of this crate share.

// Every test crate uses another part of it.
#![allow(dead_code)]

use burn::tensor::{Device, Tensor, TensorData};
use carousel::cell::{Activation, Cell, Reset};
use carousel::init::Initializer;

pub(crate) const CELLS: [Cell; 5] = [
    Cell::Rnn(Activation::Tanh),
    Cell::Rnn(Activation::Relu),
    Cell::Lstm,
    Cell::Gru(Reset::After),
    Cell::Gru(Reset::Before),
];

pub(crate) fn autodiff() -> Device {
    Device::default().autodiff()
}

pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Values uniform in ±1.
pub(crate) fn random<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor(Initializer::new(seed).uniform(shape.iter().product(), 1.0), shape, device)
}

pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// `max|a-b| <= tolerance · max|b|`, and not one NaN.
pub(crate) fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, |largest, difference| {
        if difference.is_nan() { f32::INFINITY } else { largest.max(difference) }
    });
    assert!(apart <= tolerance * largest, "{what}: {apart} apart, largest value {largest}");
}
