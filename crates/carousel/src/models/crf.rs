//! A linear-chain conditional random field (Lafferty et al. 2001) over the scores of tags.
//!
//! The score of a sequence of tags `y` is `start[y0] + Σ s[t][y[t]] + Σ a[y[t-1]][y[t]] + end[yT]`, and its
//! probability is `e^score` over the sum of all. Steps without a tag are summed over, so that they say nothing.
//!
//! K: tags. F: frames of a batch. T: steps of one sequence.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use carousel_kernels::loss::{IGNORE, counted};

use crate::init::Initializer;
use crate::parameters::{parameter, parts};
use crate::ragged::Batch;
use crate::slices::with_slice;

/// What follows what: scores of transitions, of first and of last tags.
#[derive(Module, Debug)]
pub struct Crf {
    /// `[K, K]`, from the row to the column.
    pub transitions: Param<Tensor<2>>,
    /// `[K]`.
    pub start: Param<Tensor<1>>,
    /// `[K]`.
    pub end: Param<Tensor<1>>,
}

/// The scores as plain numbers.
#[derive(Clone, Debug)]
pub struct CrfScores {
    transitions: Vec<f32>,
    start: Vec<f32>,
    end: Vec<f32>,
}

/// Expected counts, which are the gradients of a log partition function.
struct Expected {
    /// `[T, K]`.
    tags: Vec<f64>,
    /// `[K, K]`.
    transitions: Vec<f64>,
    log_partition: f64,
}

impl Crf {
    /// Scores uniform in ±0.1.
    #[must_use]
    pub fn init(tags: usize, random: &mut Initializer, device: &Device) -> Crf {
        Crf {
            transitions: parameter(random.uniform(tags * tags, 0.1), [tags, tags], device),
            start: parameter(random.uniform(tags, 0.1), [tags], device),
            end: parameter(random.uniform(tags, 0.1), [tags], device),
        }
    }

    /// Copies of the scores.
    #[must_use]
    pub fn scores(&self) -> CrfScores {
        CrfScores {
            transitions: with_slice(&self.transitions.val(), <[f32]>::to_vec),
            start: with_slice(&self.start.val(), <[f32]>::to_vec),
            end: with_slice(&self.end.val(), <[f32]>::to_vec),
        }
    }

    /// The negative log-likelihood in nats of the targets, divided by how many of them count, `[1]`. `scores` is
    /// `[F, K]` in packed order, [`IGNORE`] stands for a step without a tag.
    ///
    /// # Panics
    /// When there is not one target a frame, or one is not below `K`.
    #[must_use]
    pub fn loss(&self, scores: Tensor<2>, batch: &Batch, targets: &[u32]) -> Tensor<1> {
        let device = scores.device();
        let count = counted(targets).max(1) as f64;
        let own = self.scores();
        let tags = own.start.len();
        let mut value = 0.0;
        let mut of_scores = vec![0.0_f32; targets.len() * tags];
        let mut of_transitions = vec![0.0_f64; tags * tags];
        let (mut of_start, mut of_end) = (vec![0.0_f64; tags], vec![0.0_f64; tags]);
        with_slice(&scores, |scores| {
            for frames in frames_of(batch).iter().filter(|frames| !frames.is_empty()) {
                let (chosen, wanted) = gathered(scores, targets, frames, tags);
                let free = own.expected(&chosen, None);
                let held = own.expected(&chosen, Some(&wanted));
                value += free.log_partition - held.log_partition;
                let differs = |place: usize| (free.tags[place] - held.tags[place]) / count;
                for (step, &frame) in frames.iter().enumerate() {
                    for tag in 0..tags {
                        of_scores[frame * tags + tag] = differs(step * tags + tag) as f32;
                    }
                }
                let last = (frames.len() - 1) * tags;
                for tag in 0..tags {
                    of_start[tag] += differs(tag);
                    of_end[tag] += differs(last + tag);
                }
                for (sum, (free, held)) in
                    of_transitions.iter_mut().zip(free.transitions.iter().zip(&held.transitions))
                {
                    *sum += (free - held) / count;
                }
            }
        });
        let vector = |values: Vec<f64>| {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            Tensor::<1>::from_data(TensorData::new(values, [tags]), &device)
        };
        let matrix = |values: Vec<f32>, rows: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [rows, tags]), &device)
        };
        let of_transitions: Vec<f32> = of_transitions.into_iter().map(|value| value as f32).collect();
        // A sum whose gradient is the one computed above, moved to the value computed above.
        let slope = (scores * matrix(of_scores, targets.len())).sum()
            + (self.transitions.val() * matrix(of_transitions, tags)).sum()
            + (self.start.val() * vector(of_start)).sum()
            + (self.end.val() * vector(of_end)).sum();
        let moved = Tensor::<1>::from_floats([(value / count) as f32], &device) - slope.clone().detach();
        slope + moved
    }
}

impl CrfScores {
    /// The negative log-likelihood of the targets in nats, summed.
    #[must_use]
    pub fn nats(&self, scores: &[f32], batch: &Batch, targets: &[u32]) -> f64 {
        let tags = self.start.len();
        let likelihood = |frames: &Vec<usize>| {
            let (chosen, wanted) = gathered(scores, targets, frames, tags);
            self.expected(&chosen, None).log_partition - self.expected(&chosen, Some(&wanted)).log_partition
        };
        frames_of(batch).iter().filter(|frames| !frames.is_empty()).map(likelihood).sum()
    }

    /// The likeliest tag sequence of every sequence (Viterbi 1967), in packed order.
    #[must_use]
    pub fn decode(&self, scores: &[f32], batch: &Batch) -> Vec<u32> {
        let tags = self.start.len();
        let mut decoded = vec![0; batch.frames()];
        for frames in frames_of(batch).iter().filter(|frames| !frames.is_empty()) {
            let row = |step: usize| &scores[frames[step] * tags..][..tags];
            let mut best: Vec<f32> = row(0).iter().zip(&self.start).map(|(s, start)| s + start).collect();
            let mut from: Vec<usize> = Vec::with_capacity(frames.len() * tags);
            for step in 1..frames.len() {
                let before = best.clone();
                for (tag, &score) in row(step).iter().enumerate() {
                    let come = |previous: usize| before[previous] + self.transitions[previous * tags + tag];
                    let previous =
                        (0..tags).fold(0, |best, next| if come(next) > come(best) { next } else { best });
                    best[tag] = come(previous) + score;
                    from.push(previous);
                }
            }
            let end = |tag: usize| best[tag] + self.end[tag];
            let mut tag = (0..tags).fold(0, |best, next| if end(next) > end(best) { next } else { best });
            for step in (0..frames.len()).rev() {
                decoded[frames[step]] = tag as u32;
                if step > 0 {
                    tag = from[(step - 1) * tags + tag];
                }
            }
        }
        decoded
    }

    /// The probability of every tag at every step, `[F, K]` in packed order.
    #[must_use]
    pub fn marginals(&self, scores: &[f32], batch: &Batch) -> Vec<f32> {
        let tags = self.start.len();
        let mut all = vec![0.0; scores.len()];
        for frames in frames_of(batch).iter().filter(|frames| !frames.is_empty()) {
            let (chosen, _) = gathered(scores, &[], frames, tags);
            let expected = self.expected(&chosen, None).tags;
            for (step, &frame) in frames.iter().enumerate() {
                for tag in 0..tags {
                    all[frame * tags + tag] = expected[step * tags + tag] as f32;
                }
            }
        }
        all
    }

    /// Forward and backward over one sequence's scores `[T, K]`; each step's sums are scaled to 1, so that nothing
    /// under- or overflows (Rabiner 1989). With `held`, a step that has a tag can have no other.
    fn expected(&self, scores: &[f32], held: Option<&[u32]>) -> Expected {
        let tags = self.start.len();
        let steps = scores.len() / tags;
        let raised = |values: &[f32]| {
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = values.iter().map(|&value| f64::from(value - most).exp()).collect();
            (powers, f64::from(most))
        };
        let (start, start_most) = raised(&self.start);
        let (end, end_most) = raised(&self.end);
        let (transitions, transitions_most) = raised(&self.transitions);
        let mut log_partition = start_most + end_most + transitions_most * (steps - 1) as f64;
        let allowed = |step: usize, tag: usize| {
            held.is_none_or(|held| held[step] == IGNORE || held[step] as usize == tag)
        };
        let mut powers = vec![0.0; scores.len()];
        for step in 0..steps {
            let row = &scores[step * tags..][..tags];
            let fits = || (0..tags).filter(|&tag| allowed(step, tag));
            let most = fits().map(|tag| row[tag]).fold(f32::NEG_INFINITY, f32::max);
            fits().for_each(|tag| powers[step * tags + tag] = f64::from(row[tag] - most).exp());
            log_partition += f64::from(most);
        }
        let mut forward = vec![0.0; scores.len()];
        let mut scales = vec![1.0; steps];
        for step in 0..steps {
            let (before, rest) = forward.split_at_mut(step * tags);
            let now = &mut rest[..tags];
            match step {
                0 => now.copy_from_slice(&start),
                _ => {
                    for (previous, &mass) in before[(step - 1) * tags..].iter().enumerate() {
                        if mass > 0.0 {
                            let row = &transitions[previous * tags..][..tags];
                            now.iter_mut().zip(row).for_each(|(sum, value)| *sum += mass * value);
                        }
                    }
                }
            }
            now.iter_mut().zip(&powers[step * tags..]).for_each(|(value, power)| *value *= power);
            let sum = now.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            now.iter_mut().for_each(|value| *value /= sum);
            scales[step] = sum;
            log_partition += sum.ln();
        }
        let mut backward = end;
        let last = &forward[(steps - 1) * tags..];
        let total = last.iter().zip(&backward).map(|(a, b)| a * b).sum::<f64>().max(f64::MIN_POSITIVE);
        log_partition += total.ln();
        backward.iter_mut().for_each(|value| *value /= total);
        let mut expected =
            Expected { tags: vec![0.0; scores.len()], transitions: vec![0.0; tags * tags], log_partition };
        for step in (0..steps).rev() {
            let now = &forward[step * tags..][..tags];
            for tag in 0..tags {
                expected.tags[step * tags + tag] = now[tag] * backward[tag];
            }
            if step == 0 {
                break;
            }
            let arriving: Vec<f64> = backward
                .iter()
                .zip(&powers[step * tags..])
                .map(|(backward, power)| backward * power / scales[step])
                .collect();
            let before = &forward[(step - 1) * tags..][..tags];
            for previous in 0..tags {
                let row = &transitions[previous * tags..][..tags];
                let counts = &mut expected.transitions[previous * tags..][..tags];
                let mut sum = 0.0;
                for ((count, value), arriving) in counts.iter_mut().zip(row).zip(&arriving) {
                    let flow = value * arriving;
                    sum += flow;
                    *count += before[previous] * flow;
                }
                backward[previous] = sum;
            }
        }
        expected
    }
}

/// The frames of every sequence, in order of time.
fn frames_of(batch: &Batch) -> Vec<Vec<usize>> {
    let mut frames = vec![Vec::new(); batch.sequences()];
    for (frame, (sequence, _)) in batch.places().enumerate() {
        frames[sequence].push(frame);
    }
    frames
}

/// The scores and targets of one sequence, in order of time.
fn gathered(scores: &[f32], targets: &[u32], frames: &[usize], tags: usize) -> (Vec<f32>, Vec<u32>) {
    let chosen = frames.iter().flat_map(|&frame| scores[frame * tags..][..tags].iter().copied()).collect();
    let wanted = frames.iter().filter_map(|&frame| targets.get(frame).copied()).collect();
    (chosen, wanted)
}

parts! {
    /// `transitions`, `start` and `end`.
    Crf { "transitions": transitions, "start": start, "end": end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pack;
    use crate::parameters::NamedParameters;

    const TAGS: usize = 3;

    fn crf() -> Crf {
        let mut crf = Crf::init(TAGS, &mut Initializer::new(3), &Device::default().autodiff());
        let mut random = Initializer::new(4);
        for (_, mut parameter) in crf.parameters_mut() {
            parameter.with_slice_mut(|values| {
                let drawn = random.normal(values.len());
                values.copy_from_slice(&drawn);
            });
        }
        crf
    }

    /// Every sequence of tags with its score, by the definition.
    fn all(own: &CrfScores, scores: &[f32]) -> Vec<(Vec<u32>, f64)> {
        let steps = scores.len() / TAGS;
        (0..TAGS.pow(steps as u32))
            .map(|number| {
                let tags: Vec<usize> = (0..steps).map(|step| number / TAGS.pow(step as u32) % TAGS).collect();
                let mut score = f64::from(own.start[tags[0]]) + f64::from(own.end[tags[steps - 1]]);
                score += tags.iter().enumerate().map(|(t, &y)| f64::from(scores[t * TAGS + y])).sum::<f64>();
                score += tags
                    .windows(2)
                    .map(|pair| f64::from(own.transitions[pair[0] * TAGS + pair[1]]))
                    .sum::<f64>();
                (tags.into_iter().map(|tag| tag as u32).collect(), score)
            })
            .collect()
    }

    fn fits(tags: &[u32], wanted: &[u32]) -> bool {
        tags.iter().zip(wanted).all(|(tag, wanted)| *wanted == IGNORE || tag == wanted)
    }

    #[test]
    fn likelihood_decoding_and_marginals_are_those_of_all_sequences() {
        let own = crf().scores();
        let targets: [&[u32]; 3] = [&[2, 0, 1, 1, 0], &[1], &[0, IGNORE, 2]];
        let mut random = Initializer::new(5);
        let sequences: Vec<Vec<f32>> =
            targets.iter().map(|t| random.normal(t.len() * TAGS).iter().map(|x| x * 3.0).collect()).collect();
        let rows: Vec<&[f32]> = sequences.iter().map(Vec::as_slice).collect();
        let (packed, batch) = pack(&rows, TAGS);
        let (wanted, _) = pack(&targets, 1);
        let mut expected = 0.0;
        let decoded = own.decode(&packed, &batch);
        let marginals = own.marginals(&packed, &batch);
        for (sequence, (scores, wanted)) in sequences.iter().zip(targets).enumerate() {
            let all = all(&own, scores);
            let total: f64 = all.iter().map(|(_, score)| score.exp()).sum();
            let held: f64 = all.iter().filter(|(tags, _)| fits(tags, wanted)).map(|(_, s)| s.exp()).sum();
            expected += total.ln() - held.ln();
            let best = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(tags, _)| tags.clone());
            let frames = &frames_of(&batch)[sequence];
            let found: Vec<u32> = frames.iter().map(|&frame| decoded[frame]).collect();
            assert_eq!(Some(found), best);
            for (step, &frame) in frames.iter().enumerate() {
                for tag in 0..TAGS {
                    let mass: f64 =
                        all.iter().filter(|(tags, _)| tags[step] == tag as u32).map(|(_, s)| s.exp()).sum();
                    let found = f64::from(marginals[frame * TAGS + tag]);
                    assert!((found - mass / total).abs() < 1e-6, "{found} {}", mass / total);
                }
            }
        }
        assert!((own.nats(&packed, &batch, &wanted) - expected).abs() < 1e-6 * expected);
    }

    #[test]
    fn gradients_are_those_of_the_loss() {
        let mut crf = crf();
        let (wanted, batch) = pack(&[&[2_u32, 0, IGNORE, 1][..], &[], &[1, 1]], 1);
        let values = Initializer::new(6).normal(batch.frames() * TAGS);
        let device = Device::default().autodiff();
        let data = TensorData::new(values.clone(), [batch.frames(), TAGS]);
        let scores = Tensor::<2>::from_data(data, &device).require_grad();
        let loss = crf.loss(scores.clone(), &batch, &wanted);
        assert!(
            (f64::from(with_slice(&loss, |l| l[0])) - crf.scores().nats(&values, &batch, &wanted) / 5.0)
                .abs()
                < 1e-6
        );
        let mut gradients = loss.backward();
        let of_scores = scores.grad(&gradients).map(|g| with_slice(&g, <[f32]>::to_vec)).unwrap_or_default();
        let of_own = crf.take_gradients(&mut gradients);
        let step = 1e-2_f32;
        for (place, found) in of_scores.iter().enumerate() {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[place] += by;
                crf.scores().nats(&values, &batch, &wanted) / 5.0
            };
            let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            assert!((f64::from(*found) - expected).abs() < 1e-4, "score {place}: {found} {expected}");
        }
        for (parameter, found) in of_own.iter().enumerate() {
            for (element, found) in with_slice(found, <[f32]>::to_vec).into_iter().enumerate() {
                let mut moved = |by: f32| {
                    crf.parameters_mut()[parameter].1.with_slice_mut(|values| values[element] += by);
                    let value = crf.scores().nats(&values, &batch, &wanted) / 5.0;
                    crf.parameters_mut()[parameter].1.with_slice_mut(|values| values[element] -= by);
                    value
                };
                let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                assert!(
                    (f64::from(found) - expected).abs() < 1e-4,
                    "{parameter}/{element}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn huge_scores_do_not_overflow() {
        let crf = crf();
        let (wanted, batch) = pack(&[&[2_u32, 0][..]], 1);
        let nats = crf.scores().nats(&[900.0, 0.0, -900.0, -900.0, 0.0, 900.0], &batch, &wanted);
        assert!((nats - 3600.0).abs() < 20.0, "{nats}");
    }
}
