//! Embedding: rows of a table by token, and the gradient of that table.

use crate::disjoint::Pieces;
use crate::shape::{ShapeError, expect};
use crate::team;

pub(crate) fn check(vocabulary: usize, width: usize, ids: &[u32]) -> Result<(), ShapeError> {
    if width == 0 {
        return Err(ShapeError::Zero { what: "embedding width" });
    }
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(ShapeError::Index { what: "a token", found: id as usize, limit: vocabulary }),
        None => Ok(()),
    }
}

/// Rows `ids`, `[N]`, of `table`, `[V, E]`, into `out`, `[N, E]`.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or a token is not below `V`; nothing is written then.
pub fn gather(table: &[f32], width: usize, ids: &[u32], out: &mut [f32]) -> Result<(), ShapeError> {
    check(table.len() / width.max(1), width, ids)?;
    expect("embedded tokens", out.len(), ids.len() * width)?;
    for (row, &id) in out.chunks_exact_mut(width).zip(ids) {
        row.copy_from_slice(&table[id as usize * width..][..width]);
    }
    Ok(())
}

/// The gradient of a table: sums `dy`, `[N, E]`, by token into `out`, `[V, E]`. Rows of tokens that do not occur
/// become zero. Occurrences of a token are added in order, whatever the threads.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or a token is not below `V`; nothing is written then.
pub fn scatter(width: usize, ids: &[u32], dy: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    let vocabulary = out.len() / width.max(1);
    check(vocabulary, width, ids)?;
    expect("gradient of the table", out.len(), vocabulary * width)?;
    expect("gradient of embedded tokens", dy.len(), ids.len() * width)?;
    let workers = team::workers((vocabulary + ids.len()) * width, 50_000);
    let pieces = Pieces::new(out, width, workers);
    team::run_on(workers, |worker| {
        let (first, own) = pieces.take(worker);
        own.fill(0.0);
        let last = first + own.len() / width;
        for (d, &id) in dy.chunks_exact(width).zip(ids) {
            if (first..last).contains(&(id as usize)) {
                let sum = &mut own[(id as usize - first) * width..][..width];
                sum.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            }
        }
    });
    Ok(())
}
