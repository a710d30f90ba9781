//! What the operating system and the allocator are told about memory.

use std::mem::MaybeUninit;

/// Lets the process keep memory that it frees, up to a gigabyte, for what it asks for next. Every search for
/// translations, every batch of another size asks for large buffers anew; given back and fetched again, page by page,
/// they cost up to a quarter of such a search.
///
/// For programs, which call it once when they begin; a library has no say in this. Without the GNU C library it does
/// nothing.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: the call sets two numbers of the allocator, under the allocator's own lock, and touches no memory that
    // was handed out.
    unsafe {
        // The most that this one may be: larger blocks are mapped one by one.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}

/// Asks for large pages where memory is about to be used for the first time. Weights that are read front to
/// back at every step then need few page translations, and the processor reads ahead further.
pub(crate) fn use_large_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        const PAGE: usize = 2 << 20;
        let bytes = size_of_val(memory);
        let start = memory.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE);
        let whole = bytes.saturating_sub(skip) / PAGE * PAGE;
        if whole > 0 {
            // SAFETY: the range lies inside memory that is borrowed exclusively, and the advice changes no
            // contents. A kernel that does not know it refuses, which changes nothing either.
            unsafe { libc::madvise(start.add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = memory;
}
