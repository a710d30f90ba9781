//! Writes translations and captions token by token, many hypotheses side by side: the decoder on plain slices.
//!
//! What no step changes is made once for each source, and weights are packed once. Rows that belong to one source share
//! what is known of it.
//!
//! Every row is computed by itself and in one order: its bits do not depend on the rows beside it.

use burn::backend::flex::FlexTensor;
use burn::module::Param;
use carousel_kernels::attention::Memory;
use carousel_kernels::loss::{TOGETHER, totals};
use carousel_kernels::{Linear, threads};

use crate::models::decoder::{Decoder, Encoded};
use crate::slices::{plain, slice};
use crate::stepper::Stepper;

/// Values that are worth a thread of their own.
const WORK_PER_THREAD: usize = 1 << 17;

/// Writes for rows that each belong to a source, or subject. Made by
/// [`Translator::writer`](crate::models::translator::Translator::writer) and
/// [`Captioner::writer`](crate::models::captioner::Captioner::writer).
pub struct Writer<'a> {
    model: &'a Decoder,
    stepper: Stepper,
    /// The source of each row.
    sources: Vec<usize>,
    memory: Option<Memory>,
    /// `[V, E]`.
    table: FlexTensor,
    embedding: usize,
    output: Linear,
    /// What the output layer read last, `[N, H]`; with input feeding the next step reads it as well.
    read: Vec<f32>,
    x: Vec<f32>,
    scores: Vec<f32>,
    totals: Vec<f64>,
    highest: Vec<f32>,
    /// How much each row looked at the places of its source, one row after another, and where each begins.
    looked: Vec<f32>,
    starts: Vec<usize>,
}

/// The scores of a row's next token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores<'a> {
    /// `[V]`.
    pub(crate) all: &'a [f32],
    /// `ln Σ exp(score)`.
    pub(crate) total: f64,
    /// The highest of each [`TOGETHER`] of them.
    pub(crate) highest: &'a [f32],
}

impl<'a> Writer<'a> {
    /// A row for every source.
    pub(super) fn new(model: &'a Decoder, encoded: &Encoded) -> Writer<'a> {
        let count = encoded.state.sequences();
        let memory = model.kept(&encoded.states);
        let output = model.output();
        let [vocabulary, hidden] = output.weight.dims();
        let (weight, bias) = (plain(output.weight.val()), plain(output.bias.val()));
        let output = Linear::new(slice(&weight), Some(slice(&bias)), hidden).expect("the layer's own sizes");
        debug_assert_eq!(output.outputs(), vocabulary);
        let mut stepper = model.stepper(count);
        stepper.set_state(&encoded.state).expect("the decoder's own state");
        Writer {
            stepper,
            sources: (0..count).collect(),
            memory,
            embedding: model.target.weight.dims()[1],
            table: plain(Param::val(&model.target.weight)),
            output,
            read: vec![0.0; count * model.hidden],
            x: Vec::new(),
            scores: Vec::new(),
            totals: Vec::new(),
            highest: Vec::new(),
            looked: Vec::new(),
            starts: Vec::new(),
            model,
        }
    }

    /// Rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.sources.len()
    }

    /// `V`, scores of a row.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.output.outputs()
    }

    /// Every row reads a token.
    ///
    /// # Panics
    /// When there is not one token a row, or one is not known.
    pub fn step(&mut self, tokens: &[u32]) {
        let (rows, hidden, embedding) = (self.rows(), self.model.hidden, self.embedding);
        assert_eq!(tokens.len(), rows, "a token for every row");
        if rows == 0 {
            return;
        }
        let table = slice(&self.table);
        let y = if self.model.feeds {
            let width = embedding + hidden;
            self.x.resize(rows * width, 0.0);
            let own = self.read.chunks_exact(hidden);
            for ((&token, x), read) in tokens.iter().zip(self.x.chunks_exact_mut(width)).zip(own) {
                x[..embedding].copy_from_slice(&table[token as usize * embedding..][..embedding]);
                x[embedding..].copy_from_slice(read);
            }
            self.stepper.step(&self.x)
        } else {
            self.stepper.read(table, tokens)
        };
        let y = y.expect("a token that is known for every row");
        match &mut self.memory {
            None => {
                self.read.clear();
                self.read.extend_from_slice(y);
            }
            Some(memory) => {
                self.read.resize(rows * hidden, 0.0);
                memory
                    .look(&self.sources, y, &mut self.read, &mut self.looked)
                    .expect("every row has its source");
                self.starts.clear();
                let mut start = 0;
                self.starts.extend(self.sources.iter().map(|&source| {
                    let own = start;
                    start += memory.places(source);
                    own
                }));
            }
        }
        let vocabulary = self.output.outputs();
        self.scores.resize(rows * vocabulary, 0.0);
        self.output.apply(&self.read, &mut self.scores).expect("a row of hidden values for every row");
        self.totals.clear();
    }

    /// The scores of a row's next token, `[V]`.
    #[must_use]
    pub fn scores(&self, row: usize) -> &[f32] {
        let vocabulary = self.vocabulary();
        &self.scores[row * vocabulary..][..vocabulary]
    }

    /// The scores of all rows, and what is asked of them to find the highest.
    pub(crate) fn all_scores(&mut self) -> impl ExactSizeIterator<Item = Scores<'_>> {
        let (rows, vocabulary) = (self.rows(), self.vocabulary());
        let parts = vocabulary.div_ceil(TOGETHER);
        self.totals.resize(rows, 0.0);
        self.highest.resize(rows * parts, 0.0);
        totals(vocabulary, &self.scores[..rows * vocabulary], &mut self.totals, &mut self.highest)
            .expect("as many rows");
        let rows = self.scores.chunks_exact(vocabulary).zip(self.highest.chunks_exact(parts));
        rows.zip(&self.totals).map(|((all, highest), &total)| Scores { all, total, highest })
    }

    /// How much a row looked at each place of its source in the last step; `None` without attention.
    #[must_use]
    pub fn looked(&self, row: usize) -> Option<&[f32]> {
        let memory = self.memory.as_ref()?;
        Some(&self.looked[self.starts[row]..][..memory.places(self.sources[row])])
    }

    /// Goes on with these rows, in this order; one may be named more than once.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn select(&mut self, rows: &[usize]) {
        if rows.len() == self.rows() && rows.iter().enumerate().all(|(place, &row)| place == row) {
            return;
        }
        self.sources = rows.iter().map(|&row| self.sources[row]).collect();
        if rows.is_empty() {
            return;
        }
        self.stepper.select(rows).expect("rows that there are");
        if self.model.feeds {
            let hidden = self.model.hidden;
            let chosen = |&row: &usize| self.read[row * hidden..][..hidden].iter().copied();
            self.read = rows.iter().flat_map(chosen).collect();
        }
    }
}

/// Calls `f` with every item and its place, on several threads where each item's `work`, in values, makes it worth
/// their start.
pub(crate) fn spread<T: Send>(items: &mut [T], work: usize, f: impl Fn(usize, &mut T) + Sync) {
    let parts = threads().min(items.len() * work / WORK_PER_THREAD).max(1);
    let share = items.len().div_ceil(parts).max(1);
    let one = |part: usize, items: &mut [T]| {
        items.iter_mut().enumerate().for_each(|(place, item)| f(part * share + place, item));
    };
    if parts == 1 {
        return one(0, items);
    }
    std::thread::scope(|scope| {
        let mut chunks = items.chunks_mut(share).enumerate();
        let own = chunks.next();
        for (part, items) in chunks {
            scope.spawn(move || one(part, items));
        }
        if let Some((part, items)) = own {
            one(part, items);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_met_once() {
        for (count, work) in [(0, 1), (1, 1 << 20), (5, 1), (7, 1 << 20), (100, 1 << 20)] {
            let mut items: Vec<usize> = vec![1000; count];
            spread(&mut items, work, |place, item| *item = *item - 1000 + place);
            assert_eq!(items, (0..count).collect::<Vec<_>>());
        }
    }
}
