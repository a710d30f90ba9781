//! Reads a text with a model and hands out what the cells had at every token.

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use carousel_kernels::Batch;

use super::text::Text;
use crate::models::language_model::LanguageModel;
use crate::record::{Keep, Record};
use crate::state::{Row, State};

/// How a text is read.
///
/// It is cut into parts that are read side by side, because that is many times faster than one token after the
/// other. Each part but the first begins with some tokens of the part before it, which bring the state near to
/// where it would have been; what a unit remembers for longer is lost at that border. So parts are long, and a
/// short text is read in one piece. [`with_streams(1)`](Reading::with_streams) reads any text so.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Parts read side by side.
    pub streams: usize,
    /// Tokens of a part read at once.
    pub window: usize,
    /// Tokens that a part has at least; there are fewer parts where the text is too short.
    pub shortest: usize,
    /// Tokens that each part reads ahead of itself.
    pub warm_up: usize,
    /// What is handed out.
    pub keep: Keep,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading { streams: 64, window: 64, shortest: 4096, warm_up: 1024, keep: Keep::all() }
    }
}

impl Reading {
    /// The usual reading of some signals: see [`Keep::signals`].
    #[must_use]
    pub fn of<S: Into<String>>(signals: impl IntoIterator<Item = S>) -> Reading {
        Reading { keep: Keep::signals(signals), ..Reading::default() }
    }

    /// The same with at most so many parts side by side. With one the text is read as it stands: exact, and many
    /// times slower.
    #[must_use]
    pub fn with_streams(self, streams: usize) -> Reading {
        Reading { streams, ..self }
    }
}

/// What one window of a reading gave.
#[derive(Debug)]
pub struct Glimpse {
    /// A row a frame, in the order of `places`.
    pub record: Record,
    /// The top layer's output, `[frames, H]`.
    pub output: Tensor<2>,
    /// Runs of consecutive tokens: see [`Run`].
    pub runs: Vec<Run>,
    /// Sequences and steps behind the rows.
    batch: Arc<Batch>,
    /// Rank of each sequence.
    ranks: Vec<usize>,
}

/// A run of consecutive tokens in a window. Its tokens' rows are found by [`Glimpse::row`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Tokens of the text.
    pub tokens: Range<usize>,
    /// Its sequence in the window's batch.
    sequence: usize,
    /// The sequence's step at which the run begins.
    step: usize,
}

impl Glimpse {
    /// The row of the `index`th token of a run.
    #[must_use]
    pub fn row(&self, run: &Run, index: usize) -> usize {
        self.batch.frame(run.step + index, self.ranks[run.sequence])
    }
}

/// Reads the whole text and hands each window to `take`; every token comes in exactly one run.
///
/// ```
/// use burn::tensor::Device;
/// use carousel::cell::Cell;
/// use carousel::lens::{Reading, Text, read};
/// use carousel::models::language_model::LanguageModelConfig;
///
/// let text = Text::of_characters("hello, hello");
/// let model = LanguageModelConfig {
///     cell: Cell::Lstm.into(), vocabulary: 128, embedding: 4, hidden: 8, layers: 1,
///     init: Default::default(), residual: false, tied: false, options: Default::default(), regularize: Default::default(), seed: 0,
/// }
/// .init(&Device::default())?;
/// let mut forget = vec![0.0; text.len()]; // unit 5's forget gate at every character
/// read(&model, &text, &Reading::default(), |glimpse| {
///     let f = glimpse.record.get(0, "f").expect("an LSTM has a forget gate");
///     for run in &glimpse.runs {
///         for (index, token) in run.tokens.clone().enumerate() {
///             forget[token] = f.values[glimpse.row(run, index) * 8 + 5];
///         }
///     }
/// });
/// assert!(forget.iter().all(|&f| f > 0.0 && f < 1.0));
/// # Ok::<(), carousel::config_error::ConfigError>(())
/// ```
///
/// # Panics
/// When a token is not below the model's `V`, or `streams` or `window` is 0.
pub fn read(model: &LanguageModel, text: &Text, how: &Reading, mut take: impl FnMut(&Glimpse)) {
    assert!(how.streams > 0 && how.window > 0, "a reading needs streams and windows");
    let model = model.valid();
    let parts = parts(text, how);
    let longest = parts.iter().map(|part| part.read.len()).max().unwrap_or_default();
    let mut carried: Option<State> = None;
    for window in 0..longest.div_ceil(how.window) {
        let pieces = pieces(text, how, &parts, window);
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.tokens.len()).collect();
        let time = lengths.iter().copied().max().unwrap_or_default();
        let batch = Arc::new(Batch::ragged(&lengths, time).expect("time is the longest length"));
        let inputs: Vec<u32> = batch
            .places()
            .map(|(sequence, step)| text.tokens()[pieces[sequence].tokens.start + step])
            .collect();
        let rows: Vec<Row> = pieces
            .iter()
            .map(|piece| if piece.carried { Row::Carried(piece.stream) } else { Row::Zero })
            .collect();
        let state = carried.as_ref().map(|state| state.arrange(&rows));
        let (output, state, record) = model.forward_recorded(&inputs, &batch, state, &how.keep);

        let mut next = vec![Row::Zero; parts.len()];
        for (sequence, piece) in pieces.iter().enumerate() {
            next[piece.stream] = Row::Carried(sequence);
        }
        carried = Some(state.arrange(&next));

        let runs = pieces.iter().enumerate().filter_map(|(sequence, piece)| {
            let own = piece.tokens.start.max(parts[piece.stream].own.start)..piece.tokens.end;
            let step = own.start.saturating_sub(piece.tokens.start);
            (!own.is_empty()).then_some(Run { tokens: own, sequence, step })
        });
        let runs = runs.collect();
        let mut ranks = vec![0; pieces.len()];
        for (rank, &sequence) in batch.order().iter().enumerate() {
            ranks[sequence] = rank;
        }
        take(&Glimpse { record, output, runs, batch, ranks });
    }
}

/// One stream's part of a text.
struct Part {
    /// The tokens that are handed out.
    own: Range<usize>,
    /// The same with those read ahead.
    read: Range<usize>,
}

fn parts(text: &Text, how: &Reading) -> Vec<Part> {
    let streams = how.streams.min(text.len() / how.shortest.max(1)).max(1);
    let start = |stream: usize| stream * text.len() / streams;
    (0..streams)
        .map(|stream| {
            let own = start(stream)..start(stream + 1);
            let starts = text.document_starts();
            let document = starts[..starts.partition_point(|&first| first <= own.start)].last();
            let from = own.start.saturating_sub(how.warm_up).max(document.copied().unwrap_or_default());
            Part { read: from..own.end, own }
        })
        .collect()
}

/// A piece of one document in one stream of a window.
struct Piece {
    stream: usize,
    tokens: Range<usize>,
    carried: bool,
}

fn pieces(text: &Text, how: &Reading, parts: &[Part], window: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (stream, part) in parts.iter().enumerate() {
        let from = (part.read.start + window * how.window).min(part.read.end);
        let to = (from + how.window).min(part.read.end);
        let mut begin = from;
        while begin < to {
            let starts = text.document_starts();
            let next = starts.get(starts.partition_point(|&start| start <= begin));
            let end = next.map_or(to, |&next| next.min(to));
            pieces.push(Piece {
                stream,
                tokens: begin..end,
                carried: window > 0 && begin == from && !text.starts_document(begin),
            });
            begin = end;
        }
    }
    pieces
}
