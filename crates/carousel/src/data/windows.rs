//! Windows over parallel streams of a corpus: the ragged batches of truncated backpropagation through
//! time (Williams and Peng 1990).
//!
//! The positions `0 .. tokens - 1` of a corpus, each predicting the token after it, are cut into
//! contiguous parts, one a stream, and those in time into windows. Two things happen at the edge of a
//! document: the last token of one does not predict the first of the next, so its position is left out;
//! and what a stream has read of one document must not reach the next, so the stream's row is cut there
//! into two segments, the second from the zero state.

use std::ops::Range;

use carousel_kernels::Batch;
use carousel_kernels::dropout::key;
use carousel_kernels::loss::{IGNORE, counted};

use super::{DataError, TokenRow};

/// Which positions of a corpus the windows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Parts of equal length; up to `streams - 1` positions at the end are left out. For training.
    Equal,
    /// Every position; the first parts may be longer by one. For evaluation.
    All,
}

/// Where backpropagation through time is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Steps between two updates: each window has the targets of so many.
    pub k1: usize,
    /// Steps that the gradient goes back from the end of a window, at least `k1`: the window also reads the
    /// `k2 - k1` steps before its targets.
    pub k2: usize,
    /// With a seed, windows vary in length around `k1` from one to the next and from pass to pass, as in Merity
    /// et al. 2017: one in twenty is half as long on average, all are spread normally with a standard deviation
    /// of 5, none is shorter than 5. `k2` then equals `k1`.
    pub varied: Option<u64>,
}

impl Truncation {
    /// Windows of `steps` steps, one beside the other.
    #[must_use]
    pub const fn every(steps: usize) -> Truncation {
        Truncation { k1: steps, k2: steps, varied: None }
    }

    /// Where the targets of the windows of pass `pass` begin over `length` steps, and `length`.
    fn cuts(&self, length: usize, pass: u64) -> Vec<usize> {
        let mut cuts = vec![0];
        let mut at = 0;
        while at < length {
            at = (at + self.steps(pass, cuts.len() as u64)).min(length);
            cuts.push(at);
        }
        cuts
    }

    fn steps(&self, pass: u64, window: u64) -> usize {
        let Some(seed) = self.varied else { return self.k1 };
        let unit = |number: u64| (key(&[seed, pass, window, number]) >> 11) as f64 * (-53f64).exp2();
        let mean = if unit(0) < 0.95 { self.k1 as f64 } else { self.k1 as f64 / 2.0 };
        // Box and Muller 1958; 1 - u lies in (0, 1], so the logarithm is finite.
        let normal = (-2.0 * (1.0 - unit(1)).ln()).sqrt() * (std::f64::consts::TAU * unit(2)).cos();
        ((mean + 5.0 * normal) as usize).max(self.k1.min(5))
    }
}

/// Some steps of some streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Token ids, one a frame, in the batch's packed order.
    pub inputs: Vec<u32>,
    /// The token that follows each input, in the same order; [`IGNORE`] where it is another window's target.
    pub targets: Vec<u32>,
    /// One sequence a segment; none is empty.
    pub batch: Batch,
    /// What each sequence of the batch starts from, by stream and within a stream in reading order.
    pub segments: Vec<Segment>,
}

/// A piece of one document in one stream of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The stream it belongs to, counted from the first of those that the window was asked for.
    pub stream: usize,
    /// The document of the corpus that it is a piece of.
    pub document: usize,
    /// It starts from the stream's carried state, otherwise from zero.
    pub carried: bool,
    /// It is the stream's last in this window: its final state becomes the stream's carried state.
    pub last: bool,
}

/// One update's steps of some streams: one window, or two where the next update begins inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The windows, one after the other in time. One of them may hold nothing.
    pub windows: Vec<Window>,
    /// After how many of them the state is that of the next stretch.
    pub keep: usize,
}

impl Stretch {
    /// Targets that count here.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.windows.iter().map(|window| counted(&window.targets)).sum()
    }

    /// Tokens that are read.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.windows.iter().map(|window| window.inputs.len()).sum()
    }
}

/// The steps of one update, counted from the start of each stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// Where reading begins.
    from: usize,
    /// Where the next span begins to read.
    next: usize,
    /// Where targets begin to count.
    targets: usize,
    to: usize,
}

/// The windows of one pass over a corpus, in order. The pass starts from the zero state.
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    corpus: &'a dyn TokenRow,
    truncation: Truncation,
    /// The positions of each stream.
    parts: Vec<Range<usize>>,
    /// In each, at least one stream has something to predict.
    spans: Vec<Span>,
}

impl<'a> Windows<'a> {
    /// Cuts a corpus into `streams` parts and those into the windows of the first pass.
    ///
    /// # Errors
    /// [`DataError::TooShort`] when [`Coverage::Equal`] parts do not fill one window,
    /// [`DataError::NothingToPredict`] when no document has two tokens.
    ///
    /// # Panics
    /// When `streams` or `k1` is 0, `k1` is more than `k2`, or varied windows have `k2` apart from `k1`.
    pub fn new(
        corpus: &'a dyn TokenRow,
        streams: usize,
        truncation: Truncation,
        coverage: Coverage,
    ) -> Result<Windows<'a>, DataError> {
        let Truncation { k1, k2, varied } = truncation;
        assert!(streams > 0 && k1 > 0, "streams is {streams}, k1 is {k1}, expected at least 1");
        assert!(k1 <= k2, "k1 is {k1}, expected at most k2, which is {k2}");
        assert!(varied.is_none() || k1 == k2, "varied windows have one length, found {k1} and {k2}");
        let found = corpus.len();
        let needed = streams.saturating_mul(k1).saturating_add(1);
        if coverage == Coverage::Equal && found < needed {
            return Err(DataError::TooShort { found, needed, streams, bptt: k1 });
        }
        let positions = found.saturating_sub(1);
        let (length, rest) = match coverage {
            Coverage::Equal => (positions / streams, 0),
            Coverage::All => (positions / streams, positions % streams),
        };
        let start = |stream: usize| stream * length + stream.min(rest);
        let parts: Vec<Range<usize>> = (0..streams).map(|s| start(s)..start(s + 1)).collect();
        let mut windows = Windows { corpus, truncation, parts, spans: Vec::new() };
        windows.cut(0);
        if windows.spans.is_empty() {
            return Err(DataError::NothingToPredict { found, documents: corpus.document_starts().len() });
        }
        Ok(windows)
    }

    /// Cuts the windows of pass `pass`, which are others only where their lengths vary.
    pub fn cut(&mut self, pass: u64) {
        self.spans = self.spans_of(pass);
    }

    /// Whether windows vary from pass to pass.
    #[must_use]
    pub fn vary(&self) -> bool {
        self.truncation.varied.is_some()
    }

    /// Windows of pass `pass`, at least 1.
    #[must_use]
    pub fn count(&self, pass: u64) -> usize {
        if self.vary() { self.spans_of(pass).len() } else { self.spans.len() }
    }

    /// How long the steps of window `index` are against those of a window of the common length.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Windows::len).
    #[must_use]
    pub fn share(&self, index: usize) -> f64 {
        if self.vary() { self.steps(index) as f64 / self.truncation.k1 as f64 } else { 1.0 }
    }

    fn spans_of(&self, pass: u64) -> Vec<Span> {
        let length = self.parts.iter().map(Range::len).max().unwrap_or_default();
        let mut cuts = self.truncation.cuts(length, pass);
        // A piece of time in which nothing is predicted becomes part of the next one; at the end it is dropped.
        let predicts = |from: usize, to: usize| self.pieces(from..to, 0..self.streams()).next().is_some();
        let mut kept: Vec<usize> = Vec::with_capacity(cuts.len());
        for index in 0..cuts.len() - 1 {
            let from = kept.last().copied().unwrap_or(0);
            if predicts(from, cuts[index + 1]) {
                kept.push(cuts[index + 1]);
            }
        }
        cuts.truncate(1);
        cuts.extend(kept);
        let context = self.truncation.k2 - self.truncation.k1;
        let back = |at: usize| at - at.min(context);
        let pairs = cuts.windows(2).map(|pair| Span {
            from: back(pair[0]),
            next: back(pair[1]),
            targets: pair[0],
            to: pair[1],
        });
        pairs.collect()
    }

    /// Windows of the pass, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always a window")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Streams side by side.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.parts.len()
    }

    /// Steps between the update before window `index` and the one after it.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Windows::len).
    #[must_use]
    pub fn steps(&self, index: usize) -> usize {
        let Span { targets, to, .. } = self.spans[index];
        to - targets
    }

    /// What window `index` of the pass is for the streams of a range. Over all streams it has a target.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Windows::len) or a stream not below
    /// [`streams`](Windows::streams).
    #[must_use]
    pub fn stretch(&self, index: usize, streams: Range<usize>) -> Stretch {
        let Span { from, next, targets, to } = self.spans[index];
        let window = |from, to| self.window(from..to, targets, streams.clone());
        if from < next && next < to {
            Stretch { windows: vec![window(from, next), window(next, to)], keep: 1 }
        } else {
            Stretch { windows: vec![window(from, to)], keep: usize::from(next == to) }
        }
    }

    /// The window `index` of a pass, for all streams. It has at least one target.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Windows::len).
    #[must_use]
    pub fn get(&self, index: usize) -> Window {
        let Span { from, targets, to, .. } = self.spans[index];
        self.window(from..to, targets, 0..self.streams())
    }

    /// All windows of a pass.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Window> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Some steps of some streams, with the targets from step `counted` on.
    fn window(&self, steps: Range<usize>, counted: usize, streams: Range<usize>) -> Window {
        let from = steps.start;
        let first_stream = streams.start;
        let pieces: Vec<(usize, Range<usize>)> = self.pieces(steps, streams).collect();
        let lengths: Vec<usize> = pieces.iter().map(|(_, piece)| piece.len()).collect();
        let time = lengths.iter().copied().max().unwrap_or_default();
        let batch = Batch::ragged(&lengths, time).expect("time is the largest of the lengths");

        // Each piece with the token that its last one predicts.
        let tokens: Vec<_> =
            pieces.iter().map(|(_, piece)| self.corpus.read(piece.start..piece.end + 1)).collect();
        let frames = batch.places().map(|(sequence, step)| {
            let (stream, piece) = &pieces[sequence];
            let counts = piece.start + step - self.parts[*stream].start >= counted;
            let tokens = &tokens[sequence];
            (tokens[step], if counts { tokens[step + 1] } else { IGNORE })
        });
        let (inputs, targets) = frames.unzip();
        let segments = pieces.iter().enumerate().map(|(sequence, (stream, piece))| Segment {
            stream: stream - first_stream,
            document: self.corpus.document_starts().partition_point(|&start| start <= piece.start),
            // Past the start of the pass only the start of a document is a fresh start.
            carried: from > 0 && !self.starts_document(piece.start),
            last: pieces.get(sequence + 1).is_none_or(|(next, _)| next != stream),
        });
        Window { inputs, targets, segments: segments.collect(), batch }
    }

    fn starts_document(&self, position: usize) -> bool {
        self.corpus.document_starts().binary_search(&position).is_ok()
    }

    /// The streams' pieces of documents in some steps, as positions that predict their next token; none is
    /// empty.
    fn pieces(
        &self,
        steps: Range<usize>,
        streams: Range<usize>,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        streams.flat_map(move |stream| {
            let part = &self.parts[stream];
            let [from, to] = [steps.start, steps.end].map(|step| (part.start + step).min(part.end));
            let starts = &self.corpus.document_starts();
            let inside = &starts[starts.partition_point(|&start| start <= from)..];
            // An edge right behind the window counts too: it takes away the last position.
            let edges = inside.iter().copied().take_while(move |&start| start <= to);
            let begins = std::iter::once(from).chain(edges.clone());
            let ends = edges.map(|edge| edge - 1).chain(std::iter::once(to));
            let pieces = begins.zip(ends).map(|(begin, end)| begin..end);
            pieces.filter(|piece| !piece.is_empty()).map(move |piece| (stream, piece))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::corpus::tests::corpus;

    /// `(stream, first input, length, carried, last)` of every segment.
    fn describe(window: &Window) -> Vec<(usize, u32, usize, bool, bool)> {
        let lengths = window.batch.lengths();
        let mut first = vec![0; lengths.len()];
        for ((sequence, step), &input) in window.batch.places().zip(&window.inputs) {
            if step == 0 {
                first[sequence] = input;
            }
        }
        let segments = window.segments.iter().enumerate();
        segments.map(|(s, g)| (g.stream, first[s], lengths[s], g.carried, g.last)).collect()
    }

    #[test]
    fn one_document_gives_plain_time_major_windows() {
        let corpus = corpus(&[12]);
        let windows = Windows::new(&corpus, 2, Truncation::every(3), Coverage::Equal).unwrap();
        // 11 positions: two parts of 5, the last position is left out.
        assert_eq!((windows.len(), windows.streams()), (2, 2));
        let first = windows.get(0);
        assert_eq!(first.batch, Batch::full(2, 3));
        assert_eq!(first.inputs, [0, 5, 1, 6, 2, 7]);
        assert_eq!(first.targets, [1, 6, 2, 7, 3, 8]);
        assert_eq!(describe(&first), [(0, 0, 3, false, true), (1, 5, 3, false, true)]);
        let second = windows.get(1);
        assert_eq!(second.batch, Batch::full(2, 2));
        assert_eq!(second.inputs, [3, 8, 4, 9]);
        assert_eq!(describe(&second), [(0, 3, 2, true, true), (1, 8, 2, true, true)]);
    }

    #[test]
    fn a_document_edge_cuts_a_row_in_two() {
        // Stream 0 reads 0 1 2 | 3 4 5, stream 1 reads 6 7 | 8 9 .. 11; 7 begins a document, and so does 10.
        let corpus = corpus(&[7, 3, 3]);
        let windows = Windows::new(&corpus, 2, Truncation::every(3), Coverage::Equal).unwrap();
        assert_eq!(describe(&windows.get(0)), [(0, 0, 3, false, true), (1, 7, 2, false, true)]);
        // 9 ends a document and predicts nothing.
        assert_eq!(describe(&windows.get(1)), [(0, 3, 3, true, true), (1, 10, 2, false, true)],);
        let wide = Windows::new(&corpus, 2, Truncation::every(6), Coverage::Equal).unwrap();
        assert_eq!(
            describe(&wide.get(0)),
            [(0, 0, 6, false, true), (1, 7, 2, false, false), (1, 10, 2, false, true)],
        );
        assert_eq!(wide.get(0).inputs, [0, 7, 10, 1, 8, 11, 2, 3, 4, 5]);
    }

    #[test]
    fn a_window_without_a_target_is_left_out() {
        // One position a window; 1 and 4 end documents, and the document of one token predicts nothing.
        let corpus = corpus(&[2, 1, 2]);
        let windows = Windows::new(&corpus, 1, Truncation::every(1), Coverage::Equal).unwrap();
        let inputs: Vec<Vec<u32>> = windows.iter().map(|window| window.inputs).collect();
        assert_eq!(inputs, [[0], [3]]);
        assert!(windows.iter().all(|window| !window.segments[0].carried));
    }

    /// Plays a pass with a "recurrent state" that remembers what was read, exactly as training does, and
    /// compares what every target was predicted from with what the documents say.
    fn check_contexts(documents: &[usize], streams: usize, bptt: usize, coverage: Coverage) {
        let case = format!("{documents:?}, {streams} streams, bptt {bptt}, {coverage:?}");
        let corpus = corpus(documents);
        let windows = Windows::new(&corpus, streams, Truncation::every(bptt), coverage).unwrap();
        let mut carried: Vec<Vec<u32>> = vec![Vec::new(); streams];
        let mut seen: Vec<(u32, Vec<u32>)> = Vec::new();
        for window in windows.iter() {
            let (batch, segments) = (&window.batch, &window.segments);
            assert_eq!(batch.sequences(), segments.len(), "{case}");
            assert_eq!(
                (window.inputs.len(), window.targets.len()),
                (batch.frames(), batch.frames()),
                "{case}"
            );
            assert!(batch.frames() > 0 && batch.steps() <= bptt, "{case}");
            let start = |g: &Segment| if g.carried { carried[g.stream].clone() } else { Vec::new() };
            let mut states: Vec<Vec<u32>> = segments.iter().map(start).collect();
            for ((sequence, _), (&input, &target)) in
                batch.places().zip(window.inputs.iter().zip(&window.targets))
            {
                states[sequence].push(input);
                seen.push((target, states[sequence].clone()));
            }
            for stream in 0..streams {
                let of_stream: Vec<&Segment> = segments.iter().filter(|g| g.stream == stream).collect();
                let last: Vec<bool> = of_stream.iter().map(|g| g.last).collect();
                let expected: Vec<bool> = (1..=last.len()).map(|place| place == last.len()).collect();
                assert_eq!(last, expected, "{case}: one segment a stream is the last");
            }
            for (segment, state) in segments.iter().zip(states) {
                if segment.last {
                    carried[segment.stream] = state;
                }
            }
        }
        seen.sort();

        let total: usize = documents.iter().sum();
        let positions = total - 1;
        let mut part_of = Vec::new();
        for stream in 0..streams {
            let longer = coverage == Coverage::All && stream < positions % streams;
            part_of.extend(std::iter::repeat_n(stream, positions / streams + usize::from(longer)));
        }
        let mut document_of = Vec::new();
        for (document, &length) in documents.iter().enumerate() {
            document_of.extend(std::iter::repeat_n(document, length));
        }
        let mut expected = Vec::new();
        for target in 1..total {
            let input = target - 1;
            let Some(&part) = part_of.get(input) else { continue };
            if document_of[input] != document_of[target] {
                continue;
            }
            let mut first = input;
            while first > 0 && part_of[first - 1] == part && document_of[first - 1] == document_of[target] {
                first -= 1;
            }
            expected.push((target as u32, (first as u32..target as u32).collect::<Vec<_>>()));
        }
        assert_eq!(seen, expected, "{case}");
        if coverage == Coverage::All {
            let all: usize = documents.iter().map(|length| length - 1).sum();
            assert_eq!(seen.len(), all, "{case}: every target of every document, once");
        }
    }

    #[test]
    fn every_target_is_seen_once_after_its_own_document_only() {
        let corpora: [&[usize]; 8] = [
            &[2],
            &[37],
            &[5, 1, 1, 9, 2, 30, 1],
            &[1, 1, 1, 1, 2, 1, 1],
            &[8, 8, 8, 8],
            &[1, 20, 1],
            &[3, 4, 3, 4, 3, 4],
            &[64, 1],
        ];
        let mut tried = 0;
        for documents in corpora {
            let positions = documents.iter().sum::<usize>() - 1;
            for streams in 1..=6 {
                for bptt in 1..=9 {
                    check_contexts(documents, streams, bptt, Coverage::All);
                    // Equal parts may leave out the one position that predicts something.
                    let enough = positions >= streams * bptt;
                    if enough && documents.iter().any(|&length| length > streams) {
                        check_contexts(documents, streams, bptt, Coverage::Equal);
                        tried += 1;
                    }
                }
            }
        }
        assert!(tried > 150, "only {tried} cases had equal parts");
    }

    #[test]
    fn too_little_text_is_refused() {
        let check = |documents: &[usize], streams, bptt, coverage, expected: &str| {
            let error = Windows::new(&corpus(documents), streams, Truncation::every(bptt), coverage).err();
            let message = error.map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(message, expected, "{documents:?}");
        };
        let short = "the data has 6 tokens, expected at least 7 (train.batch 2 x train.bptt 3 + 1); \
                     give more data, or lower train.batch or train.bptt";
        check(&[6], 2, 3, Coverage::Equal, short);
        check(&[7], 2, 3, Coverage::Equal, "");
        check(&[2], 2, 3, Coverage::All, "");
        let nothing = |found| {
            format!(
                "the data has {found} tokens in {found} documents, expected a document of at least two tokens"
            )
        };
        check(&[1], 2, 3, Coverage::All, &nothing(1));
        check(&[], 2, 3, Coverage::All, &nothing(0));
        check(&[1, 1, 1], 1, 1, Coverage::Equal, &nothing(3));
    }

    /// Targets by position, each with all the positions it can look back on within its stretch, and whether its
    /// first one starts from the carried state.
    fn looks_back(windows: &Windows<'_>, index: usize) -> Vec<(u32, usize, bool)> {
        let stretch = windows.stretch(index, 0..windows.streams());
        let mut seen = Vec::new();
        let mut state: Vec<(usize, bool)> = vec![(0, true); windows.streams()];
        for window in &stretch.windows {
            let begin = |segment: &Segment| if segment.carried { state[segment.stream] } else { (0, false) };
            let mut own: Vec<(usize, bool)> = window.segments.iter().map(begin).collect();
            for ((sequence, _), &target) in window.batch.places().zip(&window.targets) {
                own[sequence].0 += 1;
                if target != IGNORE {
                    seen.push((target, own[sequence].0, own[sequence].1));
                }
            }
            for (segment, own) in window.segments.iter().zip(own) {
                state[segment.stream] = own;
            }
        }
        seen.sort();
        seen
    }

    #[test]
    fn k2_reads_back_past_the_targets_of_k1() {
        let corpus = corpus(&[13]);
        let truncation = Truncation { k1: 2, k2: 5, varied: None };
        let windows = Windows::new(&corpus, 1, truncation, Coverage::Equal).unwrap();
        assert_eq!(windows.len(), 6);
        // Each target is predicted once; behind the start it has between k2 - k1 and k2 steps before it.
        assert_eq!(looks_back(&windows, 0), [(1, 1, false), (2, 2, false)]);
        assert_eq!(looks_back(&windows, 1), [(3, 3, false), (4, 4, false)]);
        assert_eq!(looks_back(&windows, 2), [(5, 4, true), (6, 5, true)]);
        assert_eq!(looks_back(&windows, 5), [(11, 4, true), (12, 5, true)]);
        // Window 1 reads 0..4, and window 2 goes on from the state after 0; both share the steps between.
        let (one, two) = (windows.stretch(1, 0..1), windows.stretch(2, 0..1));
        assert_eq!(
            one.windows.iter().map(|w| w.inputs.clone()).collect::<Vec<_>>(),
            [vec![0], vec![1, 2, 3]]
        );
        assert_eq!(
            two.windows.iter().map(|w| w.inputs.clone()).collect::<Vec<_>>(),
            [vec![1, 2], vec![3, 4, 5]]
        );
        assert_eq!((one.keep, windows.stretch(0, 0..1).keep), (1, 0));
    }

    #[test]
    fn every_target_counts_once_whatever_k1_and_k2() {
        for documents in [&[40][..], &[5, 1, 1, 9, 2, 23, 1], &[1, 1, 1, 1, 2, 1, 1, 20]] {
            let corpus = corpus(documents);
            for (streams, k1, k2) in [(1, 1, 4), (1, 3, 3), (2, 2, 7), (3, 3, 4), (1, 4, 100)] {
                let truncation = Truncation { k1, k2, varied: None };
                let windows = Windows::new(&corpus, streams, truncation, Coverage::All).unwrap();
                let case = format!("{documents:?}, {streams} streams, {truncation:?}");
                let mut seen: Vec<u32> = Vec::new();
                for index in 0..windows.len() {
                    let all = looks_back(&windows, index);
                    assert!(!all.is_empty(), "{case}");
                    seen.extend(all.iter().map(|(target, ..)| *target));
                }
                seen.sort_unstable();
                let mut expected: Vec<u32> = (1..corpus.tokens.len() as u32).collect();
                expected.retain(|&target| corpus.document_starts.binary_search(&(target as usize)).is_err());
                assert_eq!(seen, expected, "{case}");
            }
        }
    }

    #[test]
    fn varied_windows_have_their_distribution_and_repeat_with_the_seed() {
        let corpus = corpus(&[60_001]);
        let varied = |seed| Truncation { varied: Some(seed), ..Truncation::every(35) };
        let mut windows = Windows::new(&corpus, 1, varied(7), Coverage::Equal).unwrap();
        let lengths = |windows: &Windows<'_>| -> Vec<usize> {
            (0..windows.len()).map(|index| windows.steps(index)).collect()
        };
        let first = lengths(&windows);
        assert_eq!(first.iter().sum::<usize>(), 60_000);
        let inner = &first[..first.len() - 1];
        let mean = inner.iter().sum::<usize>() as f64 / inner.len() as f64;
        // 0.95 · 35 + 0.05 · 17.5, less one half for what is cut off; five standard errors.
        assert!((mean - 33.6).abs() < 5.0 * 6.5 / (inner.len() as f64).sqrt(), "mean {mean}");
        assert!(inner.iter().all(|&length| length >= 5) && inner.iter().any(|&length| length < 22));
        assert_eq!(windows.count(1), {
            windows.cut(1);
            windows.len()
        });
        assert_ne!(lengths(&windows), first, "another pass");
        windows.cut(0);
        assert_eq!(lengths(&windows), first);
        let other = Windows::new(&corpus, 1, varied(8), Coverage::Equal).unwrap();
        assert_ne!(lengths(&other), first, "another seed");
    }

    #[test]
    fn groups_of_streams_are_the_whole_in_parts() {
        let corpus = corpus(&[30, 5, 40]);
        let windows = Windows::new(&corpus, 4, Truncation::every(6), Coverage::Equal).unwrap();
        for index in 0..windows.len() {
            let whole = windows.get(index);
            let mut parts: Vec<u32> = Vec::new();
            for group in [0..2, 2..4] {
                let stretch = windows.stretch(index, group);
                assert!(stretch.windows[0].segments.iter().all(|segment| segment.stream < 2));
                parts.extend(&stretch.windows[0].targets);
            }
            parts.sort_unstable();
            let mut expected = whole.targets;
            expected.sort_unstable();
            assert_eq!(parts, expected);
        }
    }
}
