//! Attention against plain f64 arithmetic and its differences, at every level and thread count.

#![allow(clippy::unwrap_used)]

mod common;

use carousel_kernels::attention::{Attention, Gradients, Memory, Score, Tape, Weights, backward, forward};
use carousel_kernels::reference::{self, AttentionWeights};
use carousel_kernels::*;
use common::{Numbers, close, everywhere, wide};

const SCORES: [Score; 5] =
    [Score::Dot, Score::ScaledDot, Score::General, Score::ScaledGeneral, Score::Additive];

/// Lengths of a source and a target.
type Pair = (usize, usize);

/// All that goes in: rows in packed order.
struct Problem {
    attention: Attention,
    sources: Batch,
    targets: Batch,
    weights: AttentionWeights<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
    dout: Vec<f32>,
}

impl Problem {
    fn new(score: Score, [hidden, states]: [usize; 2], lengths: &[Pair]) -> Problem {
        let (sources, targets): (Vec<usize>, Vec<usize>) = lengths.iter().copied().unzip();
        let batch = |lengths: &[usize]| Batch::ragged(lengths, 40).unwrap();
        let (sources, targets) = (batch(&sources), batch(&targets));
        let numbers = &mut Numbers::new((hidden + states) as u64);
        let mut draw = |count: usize, fan: usize| numbers.floats(count, 2.0 / (fan as f32).sqrt());
        let general = matches!(score, Score::General | Score::ScaledGeneral);
        let additive = score == Score::Additive;
        let weights = AttentionWeights {
            query: draw(
                if general { states * hidden } else { hidden * hidden * usize::from(additive) },
                hidden,
            ),
            key: draw(hidden * states * usize::from(additive), states),
            vector: draw(hidden * usize::from(additive), hidden),
            query_bias: draw(hidden * usize::from(additive), 4),
            combine: draw(hidden * (states + hidden), states + hidden),
            bias: draw(hidden, 4),
        };
        let (x, y) = (draw(sources.frames() * states, 4), draw(targets.frames() * hidden, 4));
        let dout = draw(y.len(), 4);
        Problem { attention: Attention { score, hidden, states }, sources, targets, weights, x, y, dout }
    }

    fn weights(&self) -> Weights<'_> {
        let AttentionWeights { query, key, vector, query_bias, combine, bias } = &self.weights;
        Weights { query, key, vector, query_bias, combine, bias }
    }

    /// Outputs and gradients of all that goes in, in the order of [`Problem::inputs`].
    fn fused(&self, tape: &mut Tape) -> (Vec<f32>, [Vec<f32>; 8]) {
        let weights = self.weights();
        let batches = (&self.sources, &self.targets);
        let mut out = vec![f32::NAN; self.y.len()];
        forward(self.attention, batches, weights, &self.x, &self.y, &mut out, tape).unwrap();
        let mut d = self.inputs().map(|input| vec![f32::NAN; input.len()]);
        let [y, x, query, key, vector, query_bias, combine, bias] = d.each_mut().map(Vec::as_mut_slice);
        let gradients = Gradients { y, x, query, key, vector, query_bias, combine, bias };
        backward(self.attention, batches, weights, tape, &self.dout, gradients).unwrap();
        (out, d)
    }

    fn inputs(&self) -> [&[f32]; 8] {
        let AttentionWeights { query, key, vector, query_bias, combine, bias } = &self.weights;
        [&self.y, &self.x, query, key, vector, query_bias, combine, bias]
    }

    /// The reference's outputs in packed order, of inputs in f64.
    fn reference(&self, inputs: &[Vec<f64>; 8]) -> Vec<f64> {
        let Attention { hidden, states, .. } = self.attention;
        let [y, x, query, key, vector, query_bias, combine, bias] = inputs.clone();
        let weights = AttentionWeights { query, key, vector, query_bias, combine, bias };
        let rows = |batch: &Batch, data: &[f64], width: usize, sentence: usize| -> Vec<f64> {
            let mut rows = vec![0.0; batch.lengths()[sentence] * width];
            for (frame, (of, step)) in batch.places().enumerate() {
                if of == sentence {
                    rows[step * width..][..width].copy_from_slice(&data[frame * width..][..width]);
                }
            }
            rows
        };
        let found: Vec<Vec<f64>> = (0..self.sources.sequences())
            .map(|sentence| {
                let x = rows(&self.sources, &x, states, sentence);
                let y = rows(&self.targets, &y, hidden, sentence);
                reference::attention(self.attention, &weights, &x, &y)
            })
            .collect();
        let places = self.targets.places();
        places.flat_map(|(sentence, step)| found[sentence][step * hidden..][..hidden].to_vec()).collect()
    }

    fn objective(&self, inputs: &[Vec<f64>; 8]) -> f64 {
        self.reference(inputs).iter().zip(&self.dout).map(|(out, d)| out * f64::from(*d)).sum()
    }
}

#[test]
fn attention_and_its_gradients_agree_with_plain_arithmetic() {
    let few: &[Pair] = &[(3, 2), (1, 4), (6, 1), (2, 0), (5, 3)];
    let many: Vec<Pair> = (0..30).map(|i| (1 + i * 7 % 19, i * 5 % 17)).collect();
    let shapes: [([usize; 2], &[Pair]); 4] =
        [([1, 2], few), ([7, 9], few), ([20, 40], few), ([65, 33], &many)];
    for score in SCORES {
        for ([hidden, states], lengths) in shapes {
            let states = if score.needs_equal_widths() { hidden } else { states };
            let problem = Problem::new(score, [hidden, states], lengths);
            let mut inputs = problem.inputs().map(wide);
            let expected = problem.reference(&inputs);
            // Some elements of each, by differences of the f64 reference.
            let mut sample: Vec<(usize, usize, f64)> = Vec::new();
            for place in 0..inputs.len() {
                let count = inputs[place].len();
                for element in (0..count).step_by(count.div_ceil(8).max(1)) {
                    let mut moved = |by: f64| {
                        let before = inputs[place][element];
                        inputs[place][element] = before + by;
                        let objective = problem.objective(&inputs);
                        inputs[place][element] = before;
                        objective
                    };
                    sample.push((place, element, (moved(1e-5) - moved(-1e-5)) / 2e-5));
                }
            }
            let mut tape = Tape::default();
            let mut first = None;
            everywhere(|level, threads| {
                let what = format!("{score:?} H {hidden} E {states} {level:?} {threads} threads");
                let found = problem.fused(&mut tape);
                if threads == 1 {
                    close(&format!("{what} out"), &found.0, &expected, 1e-5);
                    for &(place, element, expected) in &sample {
                        let largest = found.1[place].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                        let error = (f64::from(found.1[place][element]) - expected).abs();
                        let tolerance = 2e-5 * f64::from(largest).max(1e-3);
                        assert!(error <= tolerance, "{what}: input {place} [{element}]: {error} {expected}");
                    }
                    assert!(found.1.iter().flatten().all(|value| value.is_finite()), "{what}");
                    first = Some(found);
                } else {
                    assert!(first.as_ref() == Some(&found), "{what}: bits differ from one thread's");
                }
            });
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let problem = Problem::new(Score::General, [4, 6], &[(2, 1), (1, 2)]);
    let w = &problem.weights;
    let weights = Weights {
        query: &w.query,
        key: &[],
        vector: &[],
        query_bias: &[],
        combine: &w.combine,
        bias: &w.bias,
    };
    let mut out = vec![0.0; problem.y.len()];
    let mut check = |attention, sources: &Batch, weights, expected: &str| {
        let batches = (sources, &problem.targets);
        let tape = &mut Tape::default();
        let error = forward(attention, batches, weights, &problem.x, &problem.y, &mut out, tape).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let (attention, sources) = (problem.attention, &problem.sources);
    let dot = Attention { score: Score::Dot, ..attention };
    check(dot, sources, weights, "a state to multiply with a step has 6 elements, expected 4");
    let short = Weights { query: &weights.query[1..], ..weights };
    check(attention, sources, short, "attention's query weight has 23 elements, expected 24");
    let one = Batch::ragged(&[3], 3).unwrap();
    check(attention, &one, weights, "sequences to look at has 1 elements, expected 2");
    let empty = Batch::ragged(&[3, 0], 3).unwrap();
    check(attention, &empty, weights, "the length of a sequence that is looked at is 0, expected at least 1");

    // A tape serves one backward pass.
    let mut tape = Tape::default();
    problem.fused(&mut tape);
    let mut d = problem.inputs().map(|input| vec![0.0; input.len()]);
    let [y, x, query, key, vector, query_bias, combine, bias] = d.each_mut().map(Vec::as_mut_slice);
    let gradients = Gradients { y, x, query, key, vector, query_bias, combine, bias };
    let batches = (&problem.sources, &problem.targets);
    let error = backward(attention, batches, weights, &mut tape, &problem.dout, gradients).unwrap_err();
    assert_eq!(error, ShapeError::Tape);
}

/// Rows that look one by one, in any company, see what they see in a pass over all steps.
#[test]
fn a_memory_is_looked_at_row_by_row() {
    let lengths: Vec<(usize, usize)> = (0..9).map(|i| (1 + i * 7 % 19, 1 + i * 5 % 17)).collect();
    for score in SCORES {
        let states = if score.needs_equal_widths() { 70 } else { 33 };
        let problem = Problem::new(score, [70, states], &lengths);
        let Problem { attention, sources, targets, x, y, .. } = &problem;
        everywhere(|level, threads| {
            let what = format!("{score:?} {level:?} {threads} threads");
            let mut expected = vec![f32::NAN; y.len()];
            let batches = (sources, targets);
            let tape = &mut Tape::default();
            forward(*attention, batches, problem.weights(), x, y, &mut expected, tape).unwrap();
            let mut memory = Memory::new(*attention, sources, problem.weights(), x).unwrap();
            let sentences: Vec<usize> = targets.places().map(|(sentence, _)| sentence).collect();
            let mut shares = Vec::new();
            let mut found = vec![f32::NAN; y.len()];
            memory.look(&sentences, y, &mut found, &mut shares).unwrap();
            assert!(found == expected, "{what}");
            let mut start = 0;
            for &sentence in &sentences {
                let own = &shares[start..][..memory.places(sentence)];
                assert!((own.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{what}");
                start += own.len();
            }
            assert_eq!(start, shares.len());
            for row in [3, 40] {
                let mut alone = vec![f32::NAN; 70];
                memory.look(&[sentences[row]], &y[row * 70..][..70], &mut alone, &mut shares).unwrap();
                assert!(alone == expected[row * 70..][..70], "{what} row {row}");
            }
            let error = memory.look(&[9], &y[..70], &mut [0.0; 70], &mut shares).unwrap_err();
            assert_eq!(error.to_string(), "a sentence is 9, expected less than 9");
        });
    }
}
