//! Embedding: rows of a table by token, and the sparse gradient of that table.

use crate::disjoint::Pieces;
use crate::shape::{ShapeError, expect};
use crate::team;

fn check(vocabulary: usize, width: usize, ids: &[u32]) -> Result<(), ShapeError> {
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

/// The gradient of an embedding table: the rows that were used, and nothing of the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowGradient {
    /// Tokens that occur, each once, in increasing order.
    pub rows: Vec<u32>,
    /// `[rows, E]`: for each of them the sum of the gradients of its occurrences.
    pub values: Vec<f32>,
}

/// Sums `dy`, `[N, E]`, by token. Occurrences of a token are added in order, whatever the threads.
///
/// # Errors
/// [`ShapeError`] when a buffer does not fit or a token is not below `vocabulary`.
pub fn scatter(vocabulary: usize, width: usize, ids: &[u32], dy: &[f32]) -> Result<RowGradient, ShapeError> {
    check(vocabulary, width, ids)?;
    expect("gradient of embedded tokens", dy.len(), ids.len() * width)?;
    // Positions sorted by token; the sort is stable, so occurrences stay in order.
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&position| ids[position]);
    let mut rows = Vec::new();
    let mut first = Vec::new();
    for (k, &position) in order.iter().enumerate() {
        let id = ids[position];
        if rows.last() != Some(&id) {
            rows.push(id);
            first.push(k);
        }
    }
    first.push(order.len());
    let mut values = vec![0.0; rows.len() * width];
    let workers = team::threads().min(1 + ids.len() * width / 50_000);
    let pieces = Pieces::new(&mut values, width, workers);
    team::run_on(workers, |worker| {
        let (row, values) = pieces.take(worker);
        for (k, sum) in values.chunks_exact_mut(width).enumerate() {
            for &position in &order[first[row + k]..first[row + k + 1]] {
                for (sum, d) in sum.iter_mut().zip(&dy[position * width..]) {
                    *sum += d;
                }
            }
        }
    });
    Ok(RowGradient { rows, values })
}
