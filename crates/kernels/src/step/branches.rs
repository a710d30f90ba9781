//! Streams that branch, as the hypotheses of a beam do. Those that follow the same stream have its `h` and share the
//! product with it; those that read the same token, now or later, share the product with its row of a table.

use super::StepLayer;
use crate::disjoint::Tile;
use crate::embedding;
use crate::gemm::Start;
use crate::linear::{Multiply, Rows, copy_rows, stride};
use crate::memory::Buffer;
use crate::shape::{ShapeError, expect};
use crate::simd::Level;
use std::ops::Range;

/// What the streams of a stepper share. Layers of cells with options share nothing.
#[derive(Default)]
pub(super) struct Branches {
    /// One stream of each group that follows the same one …
    leaders: Vec<usize>,
    /// … and for each stream the place of its leader among them.
    follows: Vec<usize>,
    /// The leaders' `h`, rows filled up with zeros.
    h: Buffer,
    /// Products with it, one buffer a layer, in the order of the gates.
    sums: Vec<Buffer>,
    tokens: Tokens,
    /// Where followers are found out.
    seen: Vec<usize>,
}

/// Tokens that were read, and what layer 0 makes of them.
#[derive(Default)]
struct Tokens {
    /// For each token there is the number of its row, counted from 1; 0: it was not read yet.
    numbers: Vec<usize>,
    /// Rows that there are.
    count: usize,
    /// Products of the tokens' rows of the table in the order of the gates, biases included.
    rows: Buffer,
    /// The row of each stream's token.
    read: Vec<usize>,
    /// Tokens of this step that were not read before, and their rows of the table.
    fresh: Vec<usize>,
    own: Buffer,
}

/// Products that a layer's step finds made.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    sums: &'a [f32],
    follows: &'a [usize],
    /// Of the inputs as well, where these are tokens.
    tokens: Option<&'a Tokens>,
    gate_stride: usize,
}

impl<'a> Given<'a> {
    /// `columns` of the streams' products with `h`.
    #[inline(always)]
    pub(super) fn sums<const M: usize>(&self, streams: [usize; M], columns: Range<usize>) -> Tile<'a, M> {
        let starts = streams.map(|stream| self.follows[stream] * self.gate_stride + columns.start);
        Tile::of(self.sums, &starts, columns.len())
    }

    /// `columns` of the products of the tokens that the streams read.
    #[inline(always)]
    pub(super) fn tokens<const M: usize>(&self, streams: [usize; M], columns: Range<usize>) -> Tile<'a, M> {
        let tokens = self.tokens.expect("streams that read tokens");
        let starts = streams.map(|stream| tokens.read[stream] * self.gate_stride + columns.start);
        Tile::of(tokens.rows.as_ref(), &starts, columns.len())
    }

    /// Whether the products of the inputs are there.
    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }
}

impl Branches {
    /// So many streams that have nothing in common.
    pub(super) fn part(&mut self, streams: usize) {
        for list in [&mut self.leaders, &mut self.follows] {
            list.clear();
            list.extend(0..streams);
        }
    }

    /// Streams that each follow one of those that there are.
    pub(super) fn follow(&mut self, streams: &[usize]) {
        let Branches { leaders, follows, seen, .. } = self;
        // A stream's group now, by its group before.
        seen.clear();
        seen.resize(leaders.len(), usize::MAX);
        let groups: Vec<usize> = streams.iter().map(|&stream| follows[stream]).collect();
        leaders.clear();
        follows.clear();
        for (stream, group) in groups.into_iter().enumerate() {
            if seen[group] == usize::MAX {
                seen[group] = leaders.len();
                leaders.push(stream);
            }
            follows.push(seen[group]);
        }
    }

    /// Multiplies the states that there are.
    pub(super) fn multiply_states(&mut self, level: Level, layers: &[StepLayer]) {
        self.sums.resize_with(layers.len(), Buffer::default);
        for (layer, sums) in layers.iter().zip(&mut self.sums) {
            if layer.layer.is_rowwise() {
                continue;
            }
            let (hidden, sizes) = (layer.layer.hidden, &layer.sizes);
            let h = self.h.ensure(self.leaders.len() * stride(hidden));
            let all = Rows::new(layer.h[0].as_ref(), sizes.unit_stride, hidden);
            copy_rows((h, stride(hidden)), all, &self.leaders);
            let weight = layer.weights.packed(1);
            let out = sums.ensure(self.leaders.len() * sizes.gate_stride);
            level.dispatch(Multiply {
                a: Rows::filled(h, hidden),
                weight,
                start: Start::Zero,
                out: (out, sizes.gate_stride, weight.panels.vectors * weight.panels.lanes),
            });
        }
    }

    /// Makes ready for layer 0 to read a token a stream, of `table` `[V, I]`.
    pub(super) fn read(
        &mut self,
        level: Level,
        layer: &StepLayer,
        table: &[f32],
        tokens: &[u32],
    ) -> Result<(), ShapeError> {
        let input = layer.layer.input;
        let limit = table.len() / input;
        embedding::check(limit, input, tokens)?;
        let Tokens { numbers, count, rows, read, fresh, own } = &mut self.tokens;
        if numbers.is_empty() {
            numbers.resize(limit, 0);
        }
        expect("tokens of a table", limit, numbers.len())?;
        read.clear();
        fresh.clear();
        for token in tokens.iter().map(|&token| token as usize) {
            if numbers[token] == 0 {
                fresh.push(token);
                numbers[token] = *count + fresh.len();
            }
            read.push(numbers[token] - 1);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let own = own.ensure(fresh.len() * stride(input));
        copy_rows((own, stride(input)), Rows::dense(table, input), fresh);
        let gate_stride = layer.sizes.gate_stride;
        let rows = rows.ensure((*count + fresh.len()) * gate_stride);
        let weight = layer.weights.packed(0);
        level.dispatch(Multiply {
            a: Rows::filled(own, input),
            weight,
            start: Start::Bias(layer.bias.as_ref()),
            out: (
                &mut rows[*count * gate_stride..],
                gate_stride,
                weight.panels.vectors * weight.panels.lanes,
            ),
        });
        *count += fresh.len();
        Ok(())
    }

    /// What the step of a layer finds made; `tokens`: it reads tokens.
    pub(super) fn given(&self, layer: usize, gate_stride: usize, tokens: bool) -> Given<'_> {
        Given {
            sums: self.sums[layer].as_ref(),
            follows: &self.follows,
            tokens: tokens.then_some(&self.tokens),
            gate_stride,
        }
    }
}
