//! Hands each worker of a team its own part of a buffer.
//!
//! A [`Matrix`] has one row a frame (step and rank; see [`crate::shape::Batch`]) and perhaps some leading
//! rows for the state before the first step. A worker takes its [`Part`] once. What it may write, its
//! *own* elements, is fixed by the [`Split`]: either all columns of the ranks dealt to it, or its share
//! of the columns of all ranks. No element has two owners.
//!
//! What others wrote can be read only from *closed* steps of a [`Part::published`] matrix: a worker writes
//! the open step alone, and [`Part::publish`] closes it behind a barrier. Where ranks are dealt, nobody
//! reads another's row, and no barrier is needed; where rows are dealt that everyone reads, each worker writes its
//! ranks' rows of the open step.

use crate::shape::{Batch, Direction, Layout};
use crate::team::{Worker, share};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How work is dealt to the workers of a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Worker `w` of `n` has the ranks `w, w + n, …`: even shares however lengths differ.
    Ranks,
    /// Every worker has all ranks and a share of the unit groups.
    Units,
    /// Ranks are dealt as under `Ranks`, but their closed rows are everyone's to read: what follows the products of
    /// units that are dealt.
    Rows,
}

/// `M` rows to read, at any places, all of one width.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, const M: usize> {
    rows: [*const f32; M],
    width: usize,
    lifetime: PhantomData<&'a [f32]>,
}

impl<'a, const M: usize> Tile<'a, M> {
    /// Rows of a slice that nobody writes; `starts` are element offsets.
    #[inline(always)]
    pub(crate) fn of(data: &'a [f32], starts: &[usize; M], width: usize) -> Tile<'a, M> {
        let mut rows = [data.as_ptr(); M];
        for i in 0..M {
            rows[i] = data[starts[i]..][..width].as_ptr();
        }
        Tile { rows, width, lifetime: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// The same rows from column `first` on.
    #[inline(always)]
    pub(crate) fn columns(self, first: usize) -> Tile<'a, M> {
        assert!(first <= self.width);
        let mut rows = self.rows;
        for row in &mut rows {
            // SAFETY: `first` is inside the row.
            *row = unsafe { row.add(first) };
        }
        Tile { rows, width: self.width - first, lifetime: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        // SAFETY: whoever made the tile checked that `width` floats from each of the `M` row pointers lie
        // in a buffer that lives for 'a and that nobody writes there meanwhile.
        unsafe { std::slice::from_raw_parts(self.rows[i], self.width) }
    }
}

/// `M` rows to write, all of one width, no two overlapping.
pub(crate) struct TileMut<'a, const M: usize> {
    rows: [*mut f32; M],
    width: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<const M: usize> TileMut<'_, M> {
    /// `columns` of the first `M` rows of a slice of rows of `stride` floats.
    #[inline(always)]
    pub(crate) fn of<'a>(data: &'a mut [f32], stride: usize, columns: &Range<usize>) -> TileMut<'a, M> {
        assert!(columns.start <= columns.end && columns.end <= stride);
        assert!((M - 1) * stride + columns.end <= data.len());
        let mut rows = [data.as_mut_ptr(); M];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: checked above; rows do not overlap because columns end within the stride.
            *row = unsafe { row.add(i * stride + columns.start) };
        }
        TileMut { rows, width: columns.len(), lifetime: PhantomData }
    }

    /// The same rows' columns from `first` on, at most `count` of them; none past the width.
    #[inline(always)]
    pub(crate) fn part(&mut self, first: usize, count: usize) -> TileMut<'_, M> {
        let first = first.min(self.width);
        let mut rows = self.rows;
        for row in &mut rows {
            // SAFETY: `first` is inside the row.
            *row = unsafe { row.add(first) };
        }
        TileMut { rows, width: count.min(self.width - first), lifetime: PhantomData }
    }

    /// Rows without columns.
    pub(crate) fn empty() -> TileMut<'static, M> {
        let none = std::ptr::NonNull::<f32>::dangling().as_ptr();
        TileMut { rows: [none; M], width: 0, lifetime: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> &mut [f32] {
        // SAFETY: whoever made the tile checked that `width` floats from each row pointer belong to this
        // worker alone, and that rows differ; `&mut self` keeps one row borrowed at a time.
        unsafe { std::slice::from_raw_parts_mut(self.rows[i], self.width) }
    }
}

/// The frames of a matrix, and who owns what in it.
#[derive(Clone, Copy)]
pub(crate) struct Geometry<'a> {
    /// First frame of each step, and the end (`Batch::starts`).
    pub(crate) starts: &'a [usize],
    pub(crate) split: Split,
    /// Unit groups to share out under `Split::Units`.
    pub(crate) groups: usize,
    pub(crate) workers: usize,
}

impl<'a> Geometry<'a> {
    fn alive(&self, step: usize) -> usize {
        self.starts[step + 1] - self.starts[step]
    }

    /// The unit groups a worker computes.
    pub(crate) fn own_groups(&self, worker: &Worker<'_>) -> Range<usize> {
        match self.split {
            Split::Ranks | Split::Rows => 0..self.groups,
            Split::Units => share(self.groups, worker.index(), self.workers),
        }
    }

    /// `M` ranks from `first` on, `gap` apart.
    ///
    /// # Panics
    /// When ranks are dealt and these are not the worker's.
    #[inline(always)]
    pub(crate) fn ranks<const M: usize>(&self, worker: &Worker<'_>, first: usize, gap: usize) -> Ranks<M> {
        assert!(worker.workers() == self.workers && gap > 0);
        if self.split == Split::Ranks {
            // Only this worker's ranks: all the others' rows are out of reach.
            assert!(first % self.workers == worker.index() && gap.is_multiple_of(self.workers));
        }
        Ranks { first, gap, worker: worker.index(), workers: self.workers, split: self.split }
    }

    /// The frame of a rank at a step.
    ///
    /// # Panics
    /// When the rank has no such step, or ranks are dealt and it is not the worker's.
    pub(crate) fn own_frame(&self, worker: &Worker<'_>, step: usize, rank: usize) -> OwnFrame<'a> {
        let Geometry { starts, split, workers, .. } = *self;
        assert!(worker.workers() == workers && rank < self.alive(step));
        assert!(split == Split::Units || rank % workers == worker.index(), "another worker's rank");
        OwnFrame { index: starts[step] + rank, starts, worker: worker.index(), workers, split }
    }

    /// The first rank a worker computes, and the distance to its next.
    pub(crate) fn own_ranks(&self, worker: &Worker<'_>) -> (usize, usize) {
        match self.split {
            Split::Ranks | Split::Rows => (worker.index(), self.workers),
            Split::Units => (0, 1),
        }
    }
}

/// `M` ranks, `gap` apart, that a worker may touch: checked once for all the matrices of a geometry.
#[derive(Clone, Copy)]
pub(crate) struct Ranks<const M: usize> {
    first: usize,
    gap: usize,
    worker: usize,
    workers: usize,
    split: Split,
}

impl<const M: usize> Ranks<M> {
    /// Each of them.
    #[inline(always)]
    pub(crate) fn each(&self) -> [usize; M] {
        std::array::from_fn(|i| self.first + i * self.gap)
    }
}

/// One frame that a worker may touch, of any step: checked once for all that is done with it.
#[derive(Clone, Copy)]
pub(crate) struct OwnFrame<'a> {
    /// Its place in packed order.
    index: usize,
    /// The steps it was counted by.
    starts: &'a [usize],
    worker: usize,
    workers: usize,
    split: Split,
}

impl OwnFrame<'_> {
    /// No frame of any geometry: a place for one.
    pub(crate) const NONE: OwnFrame<'static> =
        OwnFrame { index: 0, starts: &[], worker: 0, workers: 0, split: Split::Ranks };

    /// The frame's place in packed order.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

/// Where in a caller's buffer each frame's row starts. No two rows overlap: a [`Batch`] gives every frame a
/// row of its own, and a row's columns end within the stride.
#[derive(Default)]
pub(crate) struct FrameMap {
    starts: Vec<usize>,
    width: usize,
}

impl FrameMap {
    /// Maps the frames of a batch, walked in `direction`, onto `width` columns from `offset` on in rows of
    /// `stride` floats.
    pub(crate) fn set(
        &mut self,
        batch: &Batch,
        direction: Direction,
        (layout, stride, offset): (Layout, usize, usize),
        width: usize,
    ) {
        assert!(offset.checked_add(width).is_some_and(|end| end <= stride));
        assert!(batch.rows(layout).checked_mul(stride).is_some());
        self.width = width;
        self.starts.clear();
        for step in 0..batch.steps() {
            for rank in 0..batch.alive(step) {
                self.starts.push(batch.row(layout, direction, step, rank) * stride + offset);
            }
        }
    }

    pub(crate) fn starts(&self) -> &[usize] {
        &self.starts
    }
}

/// Which steps of a matrix have rows of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All, behind the leading rows.
    All,
    /// The last two: even steps behind the leading rows, odd ones in their place.
    Two,
}

/// Where in a buffer the rows of a matrix lie.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) keep: Keep,
    /// Rows before the first frame, one a rank: the state before the first step.
    pub(crate) lead: usize,
    /// Floats from row to row.
    pub(crate) stride: usize,
    /// Columns of one unit group.
    pub(crate) group: usize,
    /// Real columns; the last group may be cut short.
    pub(crate) columns: usize,
    /// Start of each frame in the buffer, where frames do not follow each other.
    pub(crate) map: Option<&'a FrameMap>,
}

/// The row of a rank's `step` where only two steps are kept; a rank's last step stays until the end.
pub(crate) fn kept_row(lead: usize, step: usize, rank: usize) -> usize {
    if step.is_multiple_of(2) { lead + rank } else { rank }
}

/// A buffer that a team writes together.
pub(crate) struct Matrix<'a> {
    data: *mut f32,
    length: usize,
    geometry: Geometry<'a>,
    rows: Rows<'a>,
    /// A bit per worker that has taken its part.
    taken: AtomicU64,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: through a shared `Matrix` a worker can only take a `Part`, once; parts of different workers
// never give access to the same element at the same time (see the module's text).
unsafe impl Sync for Matrix<'_> {}

impl<'a> Matrix<'a> {
    pub(crate) fn new(data: &'a mut [f32], geometry: Geometry<'a>, rows: Rows<'a>) -> Matrix<'a> {
        assert!(rows.columns <= rows.stride || rows.map.is_some());
        if let Some(map) = rows.map {
            assert_eq!(map.starts.len(), geometry.starts[geometry.starts.len() - 1]);
            assert!(rows.columns <= map.width);
        }
        Matrix {
            data: data.as_mut_ptr(),
            length: data.len(),
            geometry,
            rows,
            taken: AtomicU64::new(0),
            lifetime: PhantomData,
        }
    }

    /// This worker's part, of which no one else reads anything before the run ends.
    pub(crate) fn private(&self, worker: &Worker<'_>) -> Part<'_> {
        self.part(worker, None)
    }

    /// This worker's part of a matrix whose closed steps all workers may read.
    pub(crate) fn published(&self, worker: &Worker<'_>, walk: Walk) -> Part<'_> {
        let open = match walk {
            Walk::Up => 0,
            Walk::Down => self.geometry.starts.len() as isize - 2,
        };
        self.part(worker, Some((walk, open)))
    }

    fn part(&self, worker: &Worker<'_>, open: Option<(Walk, isize)>) -> Part<'_> {
        assert_eq!(worker.workers(), self.geometry.workers);
        let bit = 1u64 << worker.index();
        assert_eq!(self.taken.fetch_or(bit, Ordering::Relaxed) & bit, 0, "a part can be taken once");
        let groups = self.geometry.own_groups(worker);
        let columns = (groups.start * self.rows.group).min(self.rows.columns)
            ..(groups.end * self.rows.group).min(self.rows.columns);
        Part { matrix: self, worker: worker.index(), columns, open }
    }
}

/// Which way the steps of a published matrix are written: each once, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// From the first step; the leading rows are closed from the start.
    Up,
    /// From the last step.
    Down,
}

/// What one worker may touch of a [`Matrix`].
pub(crate) struct Part<'a> {
    matrix: &'a Matrix<'a>,
    worker: usize,
    columns: Range<usize>,
    /// In a published matrix, which way it is walked and the step this worker writes.
    open: Option<(Walk, isize)>,
}

impl<'a> Part<'a> {
    /// Element offsets of the ranks' rows at `step` (`None`: the leading rows).
    #[inline(always)]
    fn starts<const M: usize>(&self, step: Option<usize>, ranks: Ranks<M>) -> [usize; M] {
        let Matrix { geometry, rows, .. } = self.matrix;
        assert!(
            ranks.worker == self.worker && ranks.workers == geometry.workers && ranks.split == geometry.split,
            "ranks of another worker"
        );
        let (rank, gap) = (ranks.first, ranks.gap);
        let last = rank + (M - 1) * gap;
        let mut starts = [0; M];
        if let (Some(step), Some(map)) = (step, rows.map) {
            assert!(last < geometry.alive(step));
            for (i, start) in starts.iter_mut().enumerate() {
                *start = map.starts[geometry.starts[step] + rank + i * gap];
                assert!(*start + rows.columns <= self.matrix.length);
            }
        } else {
            let first = match step {
                None => {
                    assert!(last < rows.lead);
                    rank
                }
                Some(step) => {
                    assert!(last < geometry.alive(step));
                    match rows.keep {
                        Keep::All => rows.lead + geometry.starts[step] + rank,
                        Keep::Two => kept_row(rows.lead, step, rank),
                    }
                }
            };
            for (i, start) in starts.iter_mut().enumerate() {
                *start = (first + i * gap) * rows.stride;
            }
            assert!(starts[M - 1] + rows.columns <= self.matrix.length);
        }
        starts
    }

    /// This worker's columns of `groups`, to write, in the ranks' rows.
    #[inline(always)]
    pub(crate) fn own<const M: usize>(
        &mut self,
        step: Option<usize>,
        ranks: Ranks<M>,
        groups: &Range<usize>,
    ) -> TileMut<'_, M> {
        let (columns, starts) = self.check_own(step, ranks, groups);
        TileMut { rows: self.pointers(&starts, &columns), width: columns.len(), lifetime: PhantomData }
    }

    /// This worker's columns of `groups`, to write, in any `M` different frames.
    ///
    /// So little is left to check here that the compiler writes the loop out and keeps the pointers in registers. Stored
    /// one by one and fetched in pairs they would have the processor wait until all that the last tile wrote is in the
    /// cache: up to 4 % of a pass.
    #[inline(always)]
    pub(crate) fn own_frames<const M: usize>(
        &mut self,
        frames: &[OwnFrame<'_>; M],
        groups: &Range<usize>,
    ) -> TileMut<'_, M> {
        let Matrix { geometry, rows: place, data, length, .. } = self.matrix;
        assert!(self.open.is_none() && place.keep == Keep::All, "some steps are not to be written");
        let columns = self.own_columns(groups);
        let mut rows = [*data; M];
        for i in 0..M {
            let OwnFrame { index, starts, worker, workers, split } = frames[i];
            assert!(std::ptr::eq(starts, geometry.starts) && worker == self.worker, "another worker's frame");
            assert!(workers == geometry.workers && split == geometry.split, "a frame dealt otherwise");
            // Frames in increasing order differ from each other.
            assert!(i == 0 || frames[i - 1].index < index);
            let start = match place.map {
                Some(map) => map.starts[index],
                None => (place.lead + index) * place.stride,
            };
            assert!(start + place.columns <= *length);
            // SAFETY: the row lies in the buffer, and `columns` lie in the row.
            rows[i] = unsafe { data.add(start + columns.start) };
        }
        TileMut { rows, width: columns.len(), lifetime: PhantomData }
    }

    /// The columns of `groups`, which are this worker's.
    #[inline(always)]
    fn own_columns(&self, groups: &Range<usize>) -> Range<usize> {
        let rows = &self.matrix.rows;
        let columns = groups.start * rows.group..(groups.end * rows.group).min(rows.columns);
        assert!(columns.start >= self.columns.start && columns.end <= self.columns.end);
        assert!(columns.start <= columns.end);
        columns
    }

    #[inline(always)]
    fn check_own<const M: usize>(
        &self,
        step: Option<usize>,
        ranks: Ranks<M>,
        groups: &Range<usize>,
    ) -> (Range<usize>, [usize; M]) {
        let columns = self.own_columns(groups);
        if let Some((_, open)) = self.open {
            assert!(step.is_some_and(|step| step as isize == open), "only the open step is written");
        }
        if ranks.split == Split::Rows {
            let dealt = ranks.first % ranks.workers == self.worker && ranks.gap.is_multiple_of(ranks.workers);
            assert!(dealt, "another worker's rows");
        }
        (columns, self.starts(step, ranks))
    }

    /// This worker's columns of `groups` in the same ranks at two steps that follow each other: one to
    /// read, one to write.
    #[inline(always)]
    pub(crate) fn own_pair<const M: usize>(
        &mut self,
        (read, write): (Option<usize>, Option<usize>),
        ranks: Ranks<M>,
        groups: &Range<usize>,
    ) -> (Tile<'_, M>, TileMut<'_, M>) {
        assert!(write.is_some_and(|write| write.checked_sub(1) == read), "the step before is read");
        let (columns, starts) = self.check_own(read, ranks, groups);
        let rows = self.pointers(&starts, &columns);
        let read =
            Tile { rows: rows.map(<*mut f32>::cast_const), width: columns.len(), lifetime: PhantomData };
        (read, self.own(write, ranks, groups))
    }

    #[inline(always)]
    fn pointers<const M: usize>(&self, starts: &[usize; M], columns: &Range<usize>) -> [*mut f32; M] {
        let mut rows = [self.matrix.data; M];
        for i in 0..M {
            // SAFETY: `starts` checked that the row lies in the buffer, and `columns` lie in the row.
            rows[i] = unsafe { self.matrix.data.add(starts[i] + columns.start) };
        }
        rows
    }

    /// Whole rows of the step before the open one, whoever wrote them (under `Split::Ranks` of own ranks
    /// only), and this worker's columns of `groups` in the open step.
    #[inline(always)]
    pub(crate) fn past_and_own<const M: usize>(
        &mut self,
        step: usize,
        ranks: Ranks<M>,
        groups: &Range<usize>,
    ) -> (Tile<'_, M>, TileMut<'_, M>) {
        assert!(matches!(self.open, Some((Walk::Up, open)) if open == step as isize));
        let columns = 0..self.matrix.rows.columns;
        let starts = self.starts(step.checked_sub(1), ranks);
        let rows = self.pointers(&starts, &columns).map(<*mut f32>::cast_const);
        let past = Tile { rows, width: columns.len(), lifetime: PhantomData };
        (past, self.own(Some(step), ranks, groups))
    }

    /// Whole rows of a closed step, whoever wrote them. Under `Split::Ranks` of own ranks only.
    ///
    /// They outlive the borrow of the part: a closed step is never opened again.
    #[inline(always)]
    pub(crate) fn closed<const M: usize>(&self, step: Option<usize>, ranks: Ranks<M>) -> Tile<'a, M> {
        let closed = match (self.open, step) {
            (Some((Walk::Up, open)), Some(step)) => (step as isize) < open,
            (Some((Walk::Down, open)), Some(step)) => step as isize > open,
            (Some((Walk::Up, _)), None) => true,
            (Some((Walk::Down, _)), None) | (None, _) => false,
        };
        assert!(closed, "the step is not closed");
        assert!(self.matrix.rows.keep == Keep::All, "a step that is not kept may be opened again");
        let columns = 0..self.matrix.rows.columns;
        let rows = self.pointers(&self.starts(step, ranks), &columns).map(<*mut f32>::cast_const);
        Tile { rows, width: columns.len(), lifetime: PhantomData }
    }

    /// The same ranks, to read rows that are everyone's to read.
    ///
    /// # Panics
    /// When this matrix is [`Split::Ranks`], where nobody reads another's row, and the ranks are not.
    #[inline(always)]
    pub(crate) fn readers<const M: usize>(&self, ranks: Ranks<M>) -> Ranks<M> {
        let split = self.matrix.geometry.split;
        assert!(split != Split::Ranks || ranks.split == Split::Ranks, "rows of another worker");
        Ranks { split, ..ranks }
    }

    /// Whole rows of the step that was closed last, whoever wrote them. Under `Split::Ranks` of own ranks only.
    ///
    /// Where two steps are kept, the next but one overwrites them; before it is opened all workers close the one
    /// between, which this borrow forbids.
    #[inline(always)]
    pub(crate) fn last_closed<const M: usize>(&self, step: Option<usize>, ranks: Ranks<M>) -> Tile<'_, M> {
        let place = step.map_or(-1, |step| step as isize);
        let last = match self.open {
            Some((Walk::Up, open)) => place == open - 1,
            Some((Walk::Down, open)) => step.is_some() && place == open + 1,
            None => false,
        };
        assert!(last, "the step was not closed last");
        let columns = 0..self.matrix.rows.columns;
        let rows = self.pointers(&self.starts(step, ranks), &columns).map(<*mut f32>::cast_const);
        Tile { rows, width: columns.len(), lifetime: PhantomData }
    }

    /// Closes the open step and opens the next. All workers must do so together.
    pub(crate) fn publish(&mut self, worker: &Worker<'_>) {
        if self.matrix.geometry.split != Split::Ranks {
            worker.barrier();
        }
        if let Some((walk, open)) = &mut self.open {
            *open += match walk {
                Walk::Up => 1,
                Walk::Down => -1,
            };
        }
    }
}

/// A slice cut into equal pieces for a team, each piece taken by one worker.
pub(crate) struct Pieces<'a, T = f32> {
    data: *mut T,
    length: usize,
    piece: usize,
    workers: usize,
    taken: AtomicU64,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: through a shared `Pieces` a worker can only take its own range, once; ranges do not overlap.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// Pieces of `piece` elements; the last may be shorter.
    pub(crate) fn new(data: &'a mut [T], piece: usize, workers: usize) -> Pieces<'a, T> {
        Pieces {
            data: data.as_mut_ptr(),
            length: data.len(),
            piece,
            workers,
            taken: AtomicU64::new(0),
            lifetime: PhantomData,
        }
    }

    /// This worker's share: the number of its first piece, and the elements of all its pieces.
    #[allow(clippy::mut_from_ref)] // the bit below makes the reference exclusive
    pub(crate) fn take(&self, worker: &Worker<'_>) -> (usize, &mut [T]) {
        assert_eq!(worker.workers(), self.workers);
        let bit = 1u64 << worker.index();
        assert_eq!(self.taken.fetch_or(bit, Ordering::Relaxed) & bit, 0, "a share can be taken once");
        let own = worker.share(self.length.div_ceil(self.piece.max(1)));
        let (start, end) =
            ((own.start * self.piece).min(self.length), (own.end * self.piece).min(self.length));
        // SAFETY: start <= end <= length; shares of different workers do not overlap, and each is taken
        // at most once (the bit above), so the reference is exclusive.
        (own.start, unsafe { std::slice::from_raw_parts_mut(self.data.add(start), end - start) })
    }
}
