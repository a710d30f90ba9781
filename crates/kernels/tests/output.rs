//! Output layer, embedding and optimisers: against plain f64 arithmetic, at every level and thread count.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::loss::{IGNORE, Objective, Output, OutputGradients};
use carousel_kernels::optim::Clip;
use carousel_kernels::*;
use common::{Numbers, close, everywhere, wide};

/// Loss, dx, dweight, dbias in f64.
fn naive(
    (weight, bias): (&[f32], Option<&[f32]>),
    hidden: usize,
    x: &[f32],
    targets: &[u32],
    scale: f64,
) -> (f64, Vec<f64>, Vec<f64>, Vec<f64>) {
    let vocabulary = weight.len() / hidden;
    let (x, weight, bias) = (wide(x), wide(weight), bias.map(wide));
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; vocabulary]);
    let mut nats = 0.0;
    for (row, &target) in targets.iter().enumerate() {
        if target == IGNORE {
            continue;
        }
        let x = &x[row * hidden..][..hidden];
        let logits: Vec<f64> = (0..vocabulary)
            .map(|v| {
                let dot: f64 = x.iter().zip(&weight[v * hidden..]).map(|(x, w)| x * w).sum();
                dot + bias.as_ref().map_or(0.0, |bias| bias[v])
            })
            .collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        nats += sum.ln() + top - logits[target as usize];
        for v in 0..vocabulary {
            let p = (logits[v] - top).exp() / sum;
            let d = scale * (p - f64::from(u8::from(v == target as usize)));
            db[v] += d;
            for k in 0..hidden {
                dx[row * hidden + k] += d * weight[v * hidden + k];
                dw[v * hidden + k] += d * x[k];
            }
        }
    }
    (nats, dx, dw, db)
}

#[test]
fn cross_entropy_agrees_with_plain_arithmetic() {
    // The last one needs several blocks of rows.
    let shapes = [(1, 1, 1), (5, 7, 3), (33, 65, 20), (40, 16, 32), (13, 65, 1100), (300, 9000, 6)];
    for (rows, vocabulary, hidden) in shapes {
        for with_bias in [true, false] {
            let mut numbers = Numbers::new((rows + vocabulary) as u64);
            let weight = numbers.floats(vocabulary * hidden, 2.0);
            let bias = numbers.floats(vocabulary, 1.0);
            let bias = with_bias.then_some(&bias[..]);
            let x = numbers.floats(rows * hidden, 2.0);
            let mut targets: Vec<u32> = (0..rows).map(|_| numbers.integer(vocabulary) as u32).collect();
            if rows > 2 {
                targets[1] = IGNORE;
            }
            let scale = 0.37f32;
            let (nats, ex, ew, eb) = naive((&weight, bias), hidden, &x, &targets, f64::from(scale));
            let mut first = None;
            everywhere(|level, threads| {
                let what = format!("{level:?} {threads} threads N {rows} V {vocabulary} H {hidden}");
                let output = Output { weight: &weight, bias };
                let (mut dx, mut dw, mut db) =
                    (vec![f32::NAN; x.len()], vec![f32::NAN; weight.len()], vec![f32::NAN; vocabulary]);
                let gradients =
                    OutputGradients { x: &mut dx, weight: &mut dw, bias: with_bias.then_some(&mut db[..]) };
                let loss = loss::cross_entropy_backward(
                    output,
                    hidden,
                    &x,
                    &targets,
                    Objective::scaled(scale),
                    gradients,
                )
                .unwrap();
                assert!((loss.nats - nats).abs() <= 1e-5 * nats.max(1e-3), "{what}: {} {nats}", loss.nats);
                assert_eq!(loss.count, targets.iter().filter(|&&t| t != IGNORE).count());
                assert_eq!(loss::cross_entropy(output, hidden, &x, &targets).unwrap(), loss);
                if threads == 1 {
                    // A chain of 1,100 or 9,000 f32 additions rounds more than a short one.
                    close(
                        &format!("{what} dx"),
                        &dx,
                        &ex,
                        if vocabulary.max(hidden) > 1000 { 4e-5 } else { 1e-5 },
                    );
                    close(&format!("{what} dw"), &dw, &ew, 1e-5);
                    if with_bias {
                        close(&format!("{what} db"), &db, &eb, 1e-5);
                    }
                    first = Some((loss, dx, dw));
                } else {
                    assert!(first == Some((loss, dx, dw)), "{what}: bits differ from one thread's");
                }
            });
        }
    }
}

#[test]
fn logits_and_large_values() {
    let output = Output { weight: &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], bias: Some(&[0.5, 0.0, -1.0]) };
    let mut out = [0.0; 6];
    loss::logits(output, 2, &[1.0, 2.0, -3.0, 0.5], &mut out).unwrap();
    assert_eq!(out, [1.5, 2.0, 2.0, -2.5, 0.5, -3.5]);
    // Logits of ten thousand overflow an unshifted exponential.
    let loss = loss::cross_entropy(output, 2, &[1e4, 0.0], &[1]).unwrap();
    assert!((loss.nats - (1e4 + 0.5)).abs() < 0.4, "{loss:?}");
    assert_eq!(loss.correct, 0);
    // What is not a number must not look like a loss.
    assert!(loss::cross_entropy(output, 2, &[f32::NAN, 0.0], &[0]).unwrap().nats.is_nan());
}

/// A matrix that is packed once multiplies as the output layer does, to the bit.
#[test]
fn a_packed_matrix_multiplies() {
    let few = [(1, 700, 33), (3, 300, 1100), (7, 1000, 20)];
    let sizes = [(1, 1, 1), (5, 7, 3), (33, 65, 20), (90, 160, 64), (33, 65, 1100)];
    for (rows, outputs, inputs) in sizes.into_iter().chain(few) {
        let mut numbers = Numbers::new(rows as u64);
        let (weight, bias) = (numbers.floats(outputs * inputs, 1.0), numbers.floats(outputs, 1.0));
        let x = numbers.floats(rows * inputs, 1.0);
        everywhere(|level, threads| {
            for bias in [None, Some(&bias[..])] {
                let (mut found, mut expected) =
                    (vec![f32::NAN; rows * outputs], vec![f32::NAN; rows * outputs]);
                Linear::new(&weight, bias, inputs).unwrap().apply(&x, &mut found).unwrap();
                loss::logits(Output { weight: &weight, bias }, inputs, &x, &mut expected).unwrap();
                assert!(found == expected, "{level:?} {threads} threads, {rows} {outputs} {inputs}");
            }
        });
    }
    let error = |weight: &[f32], inputs| Linear::new(weight, None, inputs).unwrap_err().to_string();
    assert_eq!(error(&[1.0; 5], 2), "matrix has 5 elements, expected 4");
    assert_eq!(error(&[1.0; 5], 0), "width of a matrix is 0, expected at least 1");
    let matrix = Linear::new(&[1.0; 4], None, 2).unwrap();
    let error = matrix.apply(&[1.0; 4], &mut [0.0; 3]).unwrap_err().to_string();
    assert_eq!(error, "multiplied rows has 3 elements, expected 4");
}

#[test]
fn totals_are_those_of_all_scores() {
    use loss::{TOGETHER, totals};
    for (rows, vocabulary) in [(1, 1), (3, 15), (2, 16), (5, 64), (7, 65), (40, 3000)] {
        let scores = Numbers::new(vocabulary as u64).floats(rows * vocabulary, 30.0);
        let parts = vocabulary.div_ceil(TOGETHER);
        let mut first = None;
        everywhere(|level, threads| {
            let what = format!("{level:?} {threads} threads {rows} {vocabulary}");
            let (mut sums, mut highest) = (vec![f64::NAN; rows], vec![f32::NAN; rows * parts]);
            totals(vocabulary, &scores, &mut sums, &mut highest).unwrap();
            for (row, scores) in scores.chunks(vocabulary).enumerate() {
                let exact: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum::<f64>().ln();
                assert!((sums[row] - exact).abs() < 1e-5, "{what}: {} {exact}", sums[row]);
                for (part, scores) in scores.chunks(TOGETHER).enumerate() {
                    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(highest[row * parts + part], most, "{what}");
                }
            }
            if threads == 1 {
                first = Some(sums);
            } else {
                assert!(first == Some(sums), "{what}: bits differ from one thread's");
            }
        });
    }
    assert!(totals(2, &[1e4, -1e4], &mut [0.0], &mut [0.0]).is_ok());
    assert!(totals(2, &[0.0; 3], &mut [0.0], &mut [0.0]).is_err());
}

#[test]
fn bad_targets_and_tokens_are_named() {
    let output = Output { weight: &[1.0; 6], bias: None };
    let error = loss::cross_entropy(output, 2, &[0.0; 4], &[0, 3]).unwrap_err();
    assert_eq!(error.to_string(), "a target is 3, expected less than 3");
    let error = embedding::gather(&[0.0; 6], 2, &[4], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "a token is 4, expected less than 3");
}

#[test]
fn embedding_gathers_rows_and_sums_their_gradients() {
    let mut numbers = Numbers::new(8);
    let (vocabulary, width) = (50, 300);
    let table = numbers.floats(vocabulary * width, 1.0);
    let ids: Vec<u32> = (0..400).map(|_| numbers.integer(vocabulary) as u32 & !1).collect();
    let mut out = vec![0.0; ids.len() * width];
    embedding::gather(&table, width, &ids, &mut out).unwrap();
    for (row, &id) in out.chunks(width).zip(&ids) {
        assert_eq!(row, &table[id as usize * width..][..width]);
    }
    let dy = numbers.floats(ids.len() * width, 1.0);
    let mut first = None;
    everywhere(|_, threads| {
        let mut gradient = vec![f32::NAN; vocabulary * width];
        embedding::scatter(width, &ids, &dy, &mut gradient).unwrap();
        if threads == 1 {
            let mut dense = vec![0.0f64; vocabulary * width];
            for (row, &id) in dy.chunks(width).zip(&ids) {
                for (k, &d) in row.iter().enumerate() {
                    dense[id as usize * width + k] += f64::from(d);
                }
            }
            close("table", &gradient, &dense, 1e-6);
            first = Some(gradient);
        } else {
            assert_eq!(first.as_ref(), Some(&gradient));
        }
    });
}

/// One optimiser step on every element, in f64: parameters and running values.
type Naive = fn(p: f64, g: f64, a: &mut f64, b: &mut f64, step: i32) -> f64;

/// The same through the kernels.
type Step<'a> = &'a dyn Fn(u64, &mut [f32], &[f32], &mut [f32], &mut [f32]);

#[test]
fn optimisers_agree_with_plain_arithmetic() {
    let adam = optim::Adam { learning_rate: 0.01, weight_decay: 0.1, ..optim::Adam::default() };
    let sgd = optim::Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01 };
    let plain = optim::Sgd { momentum: 0.0, ..sgd };
    let rms = optim::RmsProp { learning_rate: 0.01, alpha: 0.99, epsilon: 1e-8, weight_decay: 0.03 };
    let l2 = optim::Adam { decay: optim::Decay::Gradient, ..adam };
    let cases: [(&str, Naive, Step<'_>); 6] = [
        (
            "adam with decay in the gradient",
            |p, g, m, v, t| {
                let g = g + 0.1 * p;
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m, v) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
                p - 0.01 * m / (v.sqrt() + 1e-8)
            },
            &|t, p, g, a, b| l2.step(t, Clip::by(0.5), p, g, a, b).unwrap(),
        ),
        (
            "sgd, clipped by value",
            |p, g, _, _, _| p - 0.1 * (g.clamp(-0.2, 0.2) + 0.01 * p),
            &|_, p, g, _, _| {
                plain.step(Clip { scale: 0.5, limit: 0.2 }, p, g, None).unwrap();
            },
        ),
        (
            "adam",
            |p, g, m, v, t| {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m, v) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
                p * (1.0 - 0.01 * 0.1) - 0.01 * m / (v.sqrt() + 1e-8)
            },
            &|t, p, g, a, b| adam.step(t, Clip::by(0.5), p, g, a, b).unwrap(),
        ),
        (
            "sgd with momentum",
            |p, g, v, _, _| {
                *v = 0.9 * *v + g + 0.01 * p;
                p - 0.1 * *v
            },
            &|_, p, g, a, _| sgd.step(Clip::by(0.5), p, g, Some(a)).unwrap(),
        ),
        ("sgd", |p, g, _, _, _| p - 0.1 * (g + 0.01 * p), &|_, p, g, _, _| {
            plain.step(Clip::by(0.5), p, g, None).unwrap();
        }),
        (
            "rmsprop",
            |p, g, s, _, _| {
                let g = g + 0.03 * p;
                *s = 0.99 * *s + 0.01 * g * g;
                p - 0.01 * g / (s.sqrt() + 1e-8)
            },
            &|_, p, g, a, _| rms.step(Clip::by(0.5), p, g, a).unwrap(),
        ),
    ];
    for (name, naive, step) in cases {
        for count in [1, 17, 70_001] {
            let mut numbers = Numbers::new(count as u64);
            let start = numbers.floats(count, 1.0);
            let gradients: Vec<_> = (0..3).map(|_| numbers.floats(count, 1.0)).collect();
            let mut expected = wide(&start);
            let (mut a, mut b) = (vec![0.0; count], vec![0.0; count]);
            for (t, gradients) in gradients.iter().enumerate() {
                for i in 0..count {
                    let g = 0.5 * f64::from(gradients[i]);
                    expected[i] = naive(expected[i], g, &mut a[i], &mut b[i], t as i32 + 1);
                }
            }
            let mut first = None;
            everywhere(|level, threads| {
                let mut p = start.clone();
                let (mut a, mut b) = (vec![0.0; count], vec![0.0; count]);
                for (t, gradients) in gradients.iter().enumerate() {
                    step(t as u64 + 1, &mut p, gradients, &mut a, &mut b);
                }
                if threads == 1 {
                    close(&format!("{name} {level:?} {count}"), &p, &expected, 1e-5);
                    first = Some(p);
                } else {
                    assert!(first == Some(p), "{name} {level:?} {threads} threads");
                }
            });
        }
    }
    let error = plain.step(Clip::NONE, &mut [0.0; 2], &[0.0; 3], None).unwrap_err();
    assert_eq!(error.to_string(), "gradients has 3 elements, expected 2");
}

#[test]
fn the_largest_value_is_found_and_a_mean_follows_its_values() {
    let mut values = Numbers::new(1).floats(70_001, 1.0);
    values[66_000] = -7.5;
    everywhere(|_, _| {
        assert_eq!(optim::largest(&values), 7.5);
        assert_eq!(optim::largest(&[]), 0.0);
        let mut broken = values.clone();
        broken[3] = f32::NAN;
        assert!(optim::largest(&broken).is_nan());
        let mut mean = vec![1.0; values.len()];
        optim::average(&mut mean, &values, 0.25).unwrap();
        let expected: Vec<f64> = wide(&values).iter().map(|value| 1.0 + 0.25 * (value - 1.0)).collect();
        close("mean", &mean, &expected, 1e-6);
    });
    assert!(optim::average(&mut [0.0], &[0.0; 2], 1.0).is_err());
}

#[test]
fn the_global_norm_is_the_same_for_every_number_of_threads() {
    let values = Numbers::new(1).floats(300_007, 1.0);
    let expected: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let mut first = None;
    everywhere(|_, threads| {
        let sum = optim::sum_of_squares(&values);
        assert!((sum - expected).abs() <= 1e-5 * expected);
        if threads == 1 {
            first = Some(sum);
        }
        assert_eq!(first, Some(sum));
    });
}
