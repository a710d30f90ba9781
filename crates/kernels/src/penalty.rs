//! Penalties on activations: large ones (AR) and fast changes (TAR), as in Merity et al. 2017.

use crate::shape::{Batch, ShapeError, expect};

/// `activation · mean(y²) + temporal · mean((y[t+1] - y[t])²)` of frames `y`, `[F, width]` in the batch's packed
/// order; `dy` takes its gradient. The second mean is over the steps that follow another of their sequence. Sums
/// go step by step, so the bits do not depend on the threads.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit; nothing is written then.
pub fn activations(
    batch: &Batch,
    width: usize,
    y: &[f32],
    activation: f32,
    temporal: f32,
    dy: &mut [f32],
) -> Result<f64, ShapeError> {
    expect("activations", y.len(), batch.frames() * width)?;
    expect("gradient of activations", dy.len(), y.len())?;
    let factor = |weight: f32, count: usize| f64::from(weight) / count.max(1) as f64;
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();

    let size = factor(activation, y.len());
    let scale = (2.0 * size) as f32;
    dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = scale * y);
    let mut penalty = size * if activation == 0.0 { 0.0 } else { sum(&mut y.iter().copied()) };

    let first = batch.starts().get(1).copied().unwrap_or(0);
    let change = factor(temporal, y.len() - first * width);
    if temporal == 0.0 {
        return Ok(penalty);
    }
    let scale = (2.0 * change) as f32;
    for step in 1..batch.steps() {
        let (before, now) = (batch.starts()[step - 1] * width, batch.starts()[step] * width);
        let count = batch.alive(step) * width;
        // Longest sequences stand first in each step, so a sequence keeps its rank.
        let (earlier, later) = dy.split_at_mut(now);
        let (earlier, later) = (&mut earlier[before..][..count], &mut later[..count]);
        let pairs = y[now..][..count].iter().zip(&y[before..][..count]);
        penalty += change * sum(&mut pairs.clone().map(|(now, before)| now - before));
        for ((now, before), (later, earlier)) in pairs.zip(later.iter_mut().zip(earlier)) {
            let d = scale * (now - before);
            *later += d;
            *earlier -= d;
        }
    }
    Ok(penalty)
}
