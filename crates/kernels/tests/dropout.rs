//! Random masks and penalties on activations: against plain arithmetic, at every level and thread count.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::dropout::{Mask, Pattern, apply, key};
use carousel_kernels::penalty::activations;
use carousel_kernels::*;
use common::{Numbers, close, everywhere};

fn masked(mask: Mask, pattern: Pattern<'_>, width: usize, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len()];
    apply(mask, pattern, width, x, &mut out).unwrap();
    out
}

#[test]
fn elements_follow_from_key_and_place_alone() {
    let (rows, width) = (700, 133);
    let x = Numbers::new(1).floats(rows * width, 1.0);
    let mask = Mask { key: key(&[1, 2]), drop: 0.3 };
    let expected: Vec<f32> = (0..).zip(&x).map(|(place, x)| mask.factor(place) * x).collect();
    let names: Vec<u32> = (0..rows as u32).map(|row| row % 7).collect();
    everywhere(|level, threads| {
        let case = format!("{level:?}, {threads} threads");
        assert!(masked(mask, Pattern::Elements, width, &x) == expected, "{case}");
        let locked = masked(mask, Pattern::Rows(&names), width, &x);
        let whole = masked(mask, Pattern::Whole(&names), width, &x);
        for (at, &x) in x.iter().enumerate() {
            let (row, column) = (names[at / width], (at % width) as u32);
            assert_eq!(locked[at], mask.factor(row * width as u32 + column) * x, "{case}");
            assert_eq!(whole[at], mask.factor(row) * x, "{case}");
        }
    });
}

/// The share that drops out is the one asked for, values keep their mean, and neighbours, keys and bits of the
/// key have nothing to do with each other: five standard errors of a coin.
#[test]
fn masks_are_as_random_as_coins() {
    let count = 200_000;
    let ones = vec![1.0; count];
    let drawn = |key, drop| masked(Mask { key, drop }, Pattern::Elements, 100, &ones);
    for drop in [0.0, 0.1, 0.5, 0.9] {
        let mask = drawn(key(&[3]), drop);
        let dropped = mask.iter().filter(|&&factor| factor == 0.0).count() as f32 / count as f32;
        assert!(
            (dropped - drop).abs() <= 5.0 * (drop * (1.0 - drop) / count as f32).sqrt(),
            "{dropped}, not {drop}"
        );
        let mean = mask.iter().sum::<f32>() / count as f32;
        assert!((mean - 1.0).abs() < 0.04, "mean {mean} at {drop}");
    }
    let half = |key| -> Vec<bool> { drawn(key, 0.5).iter().map(|&factor| factor > 0.0).collect() };
    let agree = |a: &[bool], b: &[bool]| {
        let same = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
        assert!((same - 0.5).abs() < 5.0 * 0.5 / (a.len() as f64).sqrt(), "{same} agree");
    };
    let first = half(key(&[1, 0]));
    agree(&first[1..], &first[..count - 1]);
    agree(&first[100..], &first[..count - 100]);
    for other in [key(&[1, 1]), key(&[2, 0]), key(&[0, 1]), key(&[1])] {
        agree(&first, &half(other));
    }
    for bit in 0..64 {
        agree(&first, &half(key(&[1, 0]) ^ (1 << bit)));
    }
}

#[test]
fn masks_that_do_not_fit_are_refused() {
    let check = |drop, pattern, width, length: usize, message: &str| {
        let x = vec![1.0; length];
        let error = apply(Mask { key: 1, drop }, pattern, width, &x, &mut [0.0; 6]).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    };
    check(1.0, Pattern::Elements, 3, 6, "below 1");
    check(-0.1, Pattern::Elements, 3, 6, "below 1");
    check(f32::NAN, Pattern::Elements, 3, 6, "below 1");
    check(0.5, Pattern::Elements, 0, 6, "width of a mask");
    check(0.5, Pattern::Elements, 4, 6, "values under a mask");
    check(0.5, Pattern::Elements, 3, 3, "masked values");
    check(0.5, Pattern::Rows(&[0]), 3, 6, "names of rows");
}

#[test]
fn penalties_have_their_value_and_gradient() {
    let batch = Batch::ragged(&[2, 5, 0, 1, 5], 5).unwrap();
    let width = 3;
    let y = Numbers::new(4).floats(batch.frames() * width, 1.0);
    let places: Vec<(usize, usize)> = batch.places().collect();
    let naive = |y: &[f64], activation: f64, temporal: f64| {
        let size = y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64;
        let (mut sum, mut count) = (0.0, 0);
        for (row, &(sequence, t)) in places.iter().enumerate() {
            if let Some(next) = places.iter().position(|&place| place == (sequence, t + 1)) {
                for k in 0..width {
                    sum += (y[next * width + k] - y[row * width + k]).powi(2);
                    count += 1;
                }
            }
        }
        activation * size + temporal * sum / f64::from(count)
    };
    for (activation, temporal) in [(2.0, 0.0), (0.0, 1.5), (2.0, 1.5)] {
        let mut dy = vec![f32::NAN; y.len()];
        let found = activations(&batch, width, &y, activation, temporal, &mut dy).unwrap();
        let wide = common::wide(&y);
        let value = |y: &[f64]| naive(y, activation.into(), temporal.into());
        assert!((found - value(&wide)).abs() < 1e-6 * value(&wide), "{found}");
        let step = 1e-6;
        let expected: Vec<f64> = (0..y.len())
            .map(|at| {
                let (mut up, mut down) = (wide.clone(), wide.clone());
                up[at] += step;
                down[at] -= step;
                (value(&up) - value(&down)) / (2.0 * step)
            })
            .collect();
        close(&format!("{activation} {temporal}"), &dy, &expected, 1e-5);
    }
    assert!(activations(&batch, width, &y[1..], 1.0, 1.0, &mut vec![0.0; y.len()]).is_err());
    // Nothing follows anything in sequences of one step.
    let short = Batch::full(4, 1);
    let mut dy = vec![f32::NAN; 12];
    assert_eq!(activations(&short, 3, &y[..12], 0.0, 1.0, &mut dy).unwrap(), 0.0);
    assert_eq!(dy, [0.0; 12]);
}
