//! Packing sequences of different lengths and taking them apart again.

#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Tensor};
use carousel::ragged::{Ragged, RaggedError};
use support::{autodiff, tensor, values};

/// Sequence b holds the steps 10·b, 10·b + 1, …
fn sequences(lengths: &[usize]) -> Vec<Tensor<2>> {
    lengths
        .iter()
        .enumerate()
        .map(|(b, &length)| {
            let steps = (0..length).map(|t| (10 * b + t) as f32).collect();
            tensor(steps, [length, 1], &Device::default())
        })
        .collect()
}

fn pack(lengths: &[usize]) -> Ragged {
    Ragged::pack(&sequences(lengths)).unwrap()
}

#[test]
fn packed_padded_and_back() {
    let check = |lengths: &[usize], packed: &[f32], padded: &[f32], last: &[f32]| {
        let ragged = pack(lengths);
        assert_eq!(ragged.lengths(), lengths);
        assert_eq!(values(&ragged.frames()), packed, "{lengths:?}");
        assert_eq!(values(&ragged.to_padded(-1.0)), padded, "{lengths:?}");
        assert_eq!(values(&ragged.last()), last, "{lengths:?}");
        let again = Ragged::from_padded(ragged.to_padded(f32::NAN), lengths).unwrap();
        assert_eq!(values(&again.frames()), packed, "{lengths:?}");
    };
    check(&[2, 2], &[0., 10., 1., 11.], &[0., 1., 10., 11.], &[1., 11.]);
    check(&[1, 0, 3], &[20., 0., 21., 22.], &[0., -1., -1., -1., -1., -1., 20., 21., 22.], &[0., 0., 22.]);
    check(&[0, 0], &[], &[], &[0., 0.]);
}

#[test]
fn chosen_steps_come_sequence_after_sequence() {
    let ragged = pack(&[1, 0, 3]);
    let mask = [vec![true], vec![], vec![false, true, true]];
    assert_eq!(values(&ragged.select(&mask).unwrap()), [0., 21., 22.]);
    let none = [vec![false], vec![], vec![false; 3]];
    assert_eq!(ragged.select(&none).unwrap().dims(), [0, 1]);
}

#[test]
fn gradients_reach_real_steps_only() {
    let padded =
        tensor(vec![1.0, 2.0, f32::NAN, 3.0, f32::NAN, f32::NAN], [2, 3, 1], &autodiff()).require_grad();
    let ragged = Ragged::from_padded(padded.clone(), &[2, 1]).unwrap();
    let frames = ragged.frames();
    let gradients = (frames.clone() * frames).sum().backward();
    assert_eq!(values(&padded.grad(&gradients).unwrap()), [2., 4., 0., 6., 0., 0.]);
}

#[test]
fn what_does_not_fit_is_named() {
    let check = |found: Result<Ragged, RaggedError>, message: &str| {
        assert_eq!(found.unwrap_err().to_string(), message);
    };
    let device = Device::default();
    check(Ragged::pack(&[]), "no sequences were given; give at least one");
    check(
        Ragged::pack(&[Tensor::ones([2, 3], &device), Tensor::ones([2, 4], &device)]),
        "sequence 1 has 4 values a step, expected 3 as in sequence 0",
    );
    let padded = Tensor::ones([2, 3, 1], &device);
    check(Ragged::from_padded(padded.clone(), &[1]), "1 lengths were given for 2 sequences");
    check(Ragged::from_padded(padded, &[1, 4]), "sequence 1 has 4 steps, but the batch has room for 3");
    check(
        Ragged::new(Tensor::ones([3, 1], &device), pack(&[1, 1]).batch().clone()),
        "the tensor has 3 rows, but the batch has 2 frames",
    );
    let ragged = pack(&[1, 2]);
    let message = |mask: &[Vec<bool>]| ragged.select(mask).unwrap_err().to_string();
    assert_eq!(message(&[vec![true]]), "1 masks were given for 2 sequences");
    assert_eq!(
        message(&[vec![true], vec![true]]),
        "the mask of sequence 1 has 1 entries, but the sequence has 2 steps"
    );
}
