//! The one process-wide team of workers.
//!
//! Workers are persistent: a job costs a store and a wait, not a thread start, and allocates nothing.
//! Whoever waits spins for at most [`SPIN`] and then sleeps, so that more threads than processors stay
//! correct and idle ones are quiet.

use crate::memory::Buffer;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a wait burns a processor before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// The most workers that a team can have.
pub const MAX_THREADS: usize = 64;

/// A counter that only grows and that can be waited for.
struct Signal {
    value: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Signal {
    const fn new() -> Signal {
        Signal {
            value: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    fn get(&self) -> usize {
        self.value.load(Ordering::Acquire)
    }

    fn bump(&self) -> usize {
        let value = self.value.fetch_add(1, Ordering::SeqCst) + 1;
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.wake.notify_all();
        }
        value
    }

    /// Waits until the value is at least `wanted`.
    fn wait(&self, wanted: usize) {
        let mut started = None;
        for spins in 0u32.. {
            if self.get() >= wanted {
                return;
            }
            std::hint::spin_loop();
            // Reading the clock costs as much as a few hundred spins.
            if spins % 256 == 255 && started.get_or_insert_with(Instant::now).elapsed() > SPIN {
                break;
            }
        }
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.value.load(Ordering::SeqCst) < wanted {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A lock whose holder never leaves it half-changed, so a panic in it poisons nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the workers of one run share.
struct Meeting {
    workers: usize,
    arrived: AtomicUsize,
    /// Rounds of the barrier that are complete.
    rounds: Signal,
    failed: AtomicBool,
}

impl Meeting {
    fn new(workers: usize) -> Meeting {
        Meeting {
            workers,
            arrived: AtomicUsize::new(0),
            rounds: Signal::new(),
            failed: AtomicBool::new(false),
        }
    }
}

/// One worker's place in a run: its number, and the barrier.
pub(crate) struct Worker<'a> {
    index: usize,
    meeting: &'a Meeting,
    round: Cell<usize>,
}

impl Worker<'_> {
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn workers(&self) -> usize {
        self.meeting.workers
    }

    /// Waits until every worker of the run has come here as often as this one.
    ///
    /// # Panics
    /// When another worker has panicked and will never come.
    pub(crate) fn barrier(&self) {
        let workers = self.meeting.workers;
        if workers == 1 {
            return;
        }
        let round = self.round.get() + 1;
        self.round.set(round);
        if self.meeting.arrived.fetch_add(1, Ordering::AcqRel) + 1 == workers * round {
            self.meeting.rounds.bump();
        } else {
            self.meeting.rounds.wait(round);
        }
        assert!(!self.meeting.failed.load(Ordering::Acquire), "another worker of the team panicked");
    }

    /// This worker's contiguous share of `count` things.
    pub(crate) fn share(&self, count: usize) -> std::ops::Range<usize> {
        share(count, self.index, self.workers())
    }
}

/// Part `index` of `0..count` in `parts` parts; they differ by at most one, and the first is the largest.
pub(crate) fn share(count: usize, index: usize, parts: usize) -> std::ops::Range<usize> {
    (index * count).div_ceil(parts)..((index + 1) * count).div_ceil(parts)
}

type Outcome = std::thread::Result<()>;

/// A run's job without its lifetime, and the worker that is to play it.
#[derive(Clone, Copy)]
struct Task {
    job: *const (dyn Fn(usize) -> Outcome + Sync),
    index: usize,
}

// SAFETY: what it points to is `Sync`.
unsafe impl Send for Task {}

impl Task {
    fn play(self) {
        // SAFETY: `run_on` waits for the signal that follows this call before anything the job borrows
        // ends; its own part cannot unwind past that wait, because it catches panics.
        let _ = unsafe { (*self.job)(self.index) };
    }
}

/// A thread that waits for tasks.
struct Helper {
    inbox: Arc<Inbox>,
}

struct Inbox {
    posted: Signal,
    task: Mutex<Option<Task>>,
}

impl Helper {
    fn start(index: usize) -> Helper {
        let inbox = Arc::new(Inbox { posted: Signal::new(), task: Mutex::new(None) });
        let mine = Arc::clone(&inbox);
        std::thread::Builder::new()
            .name(format!("carousel-{index}"))
            .spawn(move || {
                for turn in 1.. {
                    mine.posted.wait(turn);
                    let task = lock(&mine.task).take();
                    if let Some(task) = task {
                        task.play();
                        DONE.bump();
                    }
                }
            })
            .expect("the system refuses to start a worker thread");
        Helper { inbox }
    }

    fn post(&self, task: Task) {
        *lock(&self.inbox.task) = Some(task);
        self.inbox.posted.bump();
    }
}

/// Tasks that helpers have finished since the process began. Not a part of a run: a helper still looks for
/// sleepers here when the run it counted for may have returned.
static DONE: Signal = Signal::new();

/// The helpers; the lock is held for a whole run, so runs of different callers take turns.
static TEAM: Mutex<Vec<Helper>> = Mutex::new(Vec::new());
/// 0: as many as the machine has.
static THREADS: AtomicUsize = AtomicUsize::new(0);
static CORES: OnceLock<usize> = OnceLock::new();

/// How many threads the kernels use from now on, the caller's included.
///
/// # Panics
/// When `threads` is 0 or above [`MAX_THREADS`].
pub fn set_threads(threads: usize) {
    assert!((1..=MAX_THREADS).contains(&threads), "threads is {threads}, expected 1 to {MAX_THREADS}");
    THREADS.store(threads, Ordering::Relaxed);
}

/// How many threads the kernels use.
#[must_use]
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => *CORES.get_or_init(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS)
        }),
        threads => threads,
    }
}

/// How many workers so much `work` is for, if each is to have `share` of it. All, however little it is, where an
/// interpreter looks for data races.
pub(crate) fn workers(work: usize, share: usize) -> usize {
    if cfg!(miri) { threads() } else { threads().min(1 + work / share) }
}

/// Runs `job` once on each of `workers` workers at the same time and returns when all are done.
///
/// # Panics
/// When a worker panics, or the system refuses to start a thread; nothing has run then.
pub(crate) fn run_on<F: Fn(&Worker<'_>) + Sync>(workers: usize, job: F) {
    let meeting = Meeting::new(workers);
    if workers == 1 {
        job(&Worker { index: 0, meeting: &meeting, round: Cell::new(0) });
        return;
    }
    let mut helpers = lock(&TEAM);
    while helpers.len() < workers - 1 {
        let index = helpers.len() + 1;
        helpers.push(Helper::start(index));
    }
    // Whoever held the lock before has waited for all of its own tasks.
    let done = DONE.get();
    let play = |index: usize| {
        let worker = Worker { index, meeting: &meeting, round: Cell::new(0) };
        let result: Outcome = catch_unwind(AssertUnwindSafe(|| job(&worker)));
        if result.is_err() {
            // Lets the others out of the barrier, for good; they see the flag and stop as well.
            if !meeting.failed.swap(true, Ordering::AcqRel) {
                meeting.rounds.value.fetch_add(usize::MAX / 2, Ordering::SeqCst);
            }
            meeting.rounds.bump();
        }
        result
    };
    let job: &(dyn Fn(usize) -> Outcome + Sync) = &play;
    // SAFETY: only the lifetime changes, and only a pointer is kept; see `Task::play`.
    let job: &'static (dyn Fn(usize) -> Outcome + Sync) = unsafe { std::mem::transmute(job) };
    for index in 1..workers {
        helpers[index - 1].post(Task { job, index });
    }
    let own = play(0);
    DONE.wait(done + workers - 1);
    drop(helpers);
    if let Err(panic) = own {
        resume_unwind(panic);
    }
    assert!(!meeting.failed.load(Ordering::Acquire), "a worker of the team panicked");
}

thread_local! {
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// Lends this worker a buffer of `length` floats that keeps its memory from call to call. The contents
/// are unspecified.
pub(crate) fn with_scratch<R>(length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out, not borrowed, so that a nested call gets a buffer of its own.
    let mut buffer = SCRATCH.take();
    let result = f(buffer.ensure(length));
    SCRATCH.set(buffer);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_worker_runs_once_and_the_barrier_separates_rounds() {
        for workers in [1, 2, 3, 8] {
            let sum = AtomicU64::new(0);
            let seen: Vec<AtomicU64> = (0..workers).map(|_| AtomicU64::new(0)).collect();
            run_on(workers, |worker| {
                for round in 1..=50 {
                    seen[worker.index()].store(round, Ordering::Relaxed);
                    worker.barrier();
                    for other in &seen {
                        assert_eq!(other.load(Ordering::Relaxed), round);
                    }
                    worker.barrier();
                }
                sum.fetch_add(1 << (8 * worker.index()), Ordering::Relaxed);
            });
            let expected = (0..workers).map(|w| 1u64 << (8 * w)).sum();
            assert_eq!(sum.load(Ordering::Relaxed), expected);
        }
    }

    #[test]
    fn a_panic_in_one_worker_reaches_the_caller_and_the_team_lives_on() {
        for culprit in 0..3 {
            let caught = catch_unwind(|| {
                run_on(3, |worker| {
                    assert_ne!(worker.index(), culprit, "on purpose");
                    worker.barrier();
                });
            });
            assert!(caught.is_err());
        }
        let count = AtomicUsize::new(0);
        run_on(3, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn shares_cover_everything_once() {
        for count in [0, 1, 2, 7, 64] {
            for workers in [1, 2, 3, 8] {
                let all: Vec<usize> = (0..workers).flat_map(|w| share(count, w, workers)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
                assert_eq!(share(count, 0, workers).len(), count.div_ceil(workers));
            }
        }
    }
}
