//! Windows over parallel streams of a corpus: the ragged batches of truncated backpropagation through
//! time (Williams and Peng 1990).
//!
//! The positions `0 .. tokens - 1` of a corpus, each predicting the token after it, are cut into
//! contiguous parts, one a stream. Window `i` holds the positions `i * bptt ..` of every part. Two things
//! happen at the edge of a document: the last token of one does not predict the first of the next, so its
//! position is left out; and what a stream has read of one document must not reach the next, so the
//! stream's row is cut there into two segments, the second from the zero state.

use std::ops::Range;

use carousel_kernels::Batch;

use super::{Corpus, DataError};

/// Which positions of a corpus the windows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Parts of equal length; up to `streams - 1` positions at the end are left out. For training.
    Equal,
    /// Every position; the first parts may be longer by one. For evaluation.
    All,
}

/// One step of truncated backpropagation through time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Token ids, one a frame, in the batch's packed order.
    pub inputs: Vec<u32>,
    /// The token that follows each input, in the same order.
    pub targets: Vec<u32>,
    /// One sequence a segment; none is empty.
    pub batch: Batch,
    /// What each sequence of the batch starts from, by stream and within a stream in reading order.
    pub segments: Vec<Segment>,
}

/// A piece of one document in one stream of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The stream it belongs to.
    pub stream: usize,
    /// It starts from the stream's carried state, otherwise from zero.
    pub carried: bool,
    /// It is the stream's last in this window: its final state becomes the stream's carried state.
    pub last: bool,
}

/// The windows of one pass over a corpus, in order. The pass starts from the zero state.
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    corpus: &'a Corpus,
    bptt: usize,
    /// The positions of each stream.
    parts: Vec<Range<usize>>,
    /// Places in time, in units of `bptt`, where at least one stream has something to predict.
    places: Vec<usize>,
}

impl<'a> Windows<'a> {
    /// Cuts a corpus into `streams` parts and those into windows of up to `bptt` steps.
    ///
    /// # Errors
    /// [`DataError::TooShort`] when [`Coverage::Equal`] parts do not fill one window,
    /// [`DataError::NothingToPredict`] when no document has two tokens.
    ///
    /// # Panics
    /// When `streams` or `bptt` is 0.
    pub fn new(
        corpus: &'a Corpus,
        streams: usize,
        bptt: usize,
        coverage: Coverage,
    ) -> Result<Windows<'a>, DataError> {
        assert!(streams > 0 && bptt > 0, "streams is {streams}, bptt is {bptt}, expected at least 1");
        let found = corpus.tokens.len();
        let needed = streams.saturating_mul(bptt).saturating_add(1);
        if coverage == Coverage::Equal && found < needed {
            return Err(DataError::TooShort { found, needed, streams, bptt });
        }
        let positions = found.saturating_sub(1);
        let (length, rest) = match coverage {
            Coverage::Equal => (positions / streams, 0),
            Coverage::All => (positions / streams, positions % streams),
        };
        let start = |stream: usize| stream * length + stream.min(rest);
        let parts: Vec<Range<usize>> = (0..streams).map(|s| start(s)..start(s + 1)).collect();
        let mut windows = Windows { corpus, bptt, parts, places: Vec::new() };
        let longest = length + usize::from(rest > 0);
        windows.places =
            (0..longest.div_ceil(bptt)).filter(|&place| windows.pieces(place).next().is_some()).collect();
        if windows.places.is_empty() {
            return Err(DataError::NothingToPredict { found, documents: corpus.document_starts.len() });
        }
        Ok(windows)
    }

    /// Windows of one pass, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always a window")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Streams side by side.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.parts.len()
    }

    /// The window `index` of a pass. It has at least one target.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Windows::len).
    #[must_use]
    pub fn get(&self, index: usize) -> Window {
        let place = self.places[index];
        let pieces: Vec<(usize, Range<usize>)> = self.pieces(place).collect();
        let lengths: Vec<usize> = pieces.iter().map(|(_, piece)| piece.len()).collect();
        let time = lengths.iter().copied().max().unwrap_or_default();
        let batch = Batch::ragged(&lengths, time).expect("time is the largest of the lengths");

        let tokens = &self.corpus.tokens;
        let positions = batch.places().map(|(sequence, step)| pieces[sequence].1.start + step);
        let (inputs, targets) = positions.map(|at| (tokens[at], tokens[at + 1])).unzip();
        let segments = pieces.iter().enumerate().map(|(sequence, (stream, piece))| Segment {
            stream: *stream,
            // Past the first window only the start of a document is a fresh start.
            carried: place > 0 && !self.starts_document(piece.start),
            last: pieces.get(sequence + 1).is_none_or(|(next, _)| next != stream),
        });
        Window { inputs, targets, segments: segments.collect(), batch }
    }

    /// All windows of a pass.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Window> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    fn starts_document(&self, position: usize) -> bool {
        self.corpus.document_starts.binary_search(&position).is_ok()
    }

    /// The positions of a stream in the window at `place`, document edges not yet considered.
    fn positions(&self, stream: usize, place: usize) -> Range<usize> {
        let part = &self.parts[stream];
        let from = (part.start + place * self.bptt).min(part.end);
        from..(from + self.bptt).min(part.end)
    }

    /// The streams' pieces of documents in the window at `place`, as positions that predict their next
    /// token; none is empty.
    fn pieces(&self, place: usize) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        (0..self.parts.len()).flat_map(move |stream| {
            let Range { start: from, end: to } = self.positions(stream, place);
            let starts = &self.corpus.document_starts;
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
        let windows = Windows::new(&corpus, 2, 3, Coverage::Equal).unwrap();
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
        let windows = Windows::new(&corpus, 2, 3, Coverage::Equal).unwrap();
        assert_eq!(describe(&windows.get(0)), [(0, 0, 3, false, true), (1, 7, 2, false, true)]);
        // 9 ends a document and predicts nothing.
        assert_eq!(describe(&windows.get(1)), [(0, 3, 3, true, true), (1, 10, 2, false, true)],);
        let wide = Windows::new(&corpus, 2, 6, Coverage::Equal).unwrap();
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
        let windows = Windows::new(&corpus, 1, 1, Coverage::Equal).unwrap();
        let inputs: Vec<Vec<u32>> = windows.iter().map(|window| window.inputs).collect();
        assert_eq!(inputs, [[0], [3]]);
        assert!(windows.iter().all(|window| !window.segments[0].carried));
    }

    /// Plays a pass with a "recurrent state" that remembers what was read, exactly as training does, and
    /// compares what every target was predicted from with what the documents say.
    fn check_contexts(documents: &[usize], streams: usize, bptt: usize, coverage: Coverage) {
        let case = format!("{documents:?}, {streams} streams, bptt {bptt}, {coverage:?}");
        let corpus = corpus(documents);
        let windows = Windows::new(&corpus, streams, bptt, coverage).unwrap();
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
            let error = Windows::new(&corpus(documents), streams, bptt, coverage).err();
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
}
