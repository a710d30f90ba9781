//! Memory that is kept from use to use, and what the operating system and the allocator are told about it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

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

/// Bytes of a large page.
const PAGE: usize = 2 << 20;

/// Bytes from which on memory starts at a large page, and is rounded up to one.
const LARGE: usize = PAGE / 2;

const HAS_LARGE_PAGES: bool = cfg!(all(target_os = "linux", not(miri)));

/// Floats that start at a cache line, so that no vector straddles two, and where there are many at a large page:
/// weights that are read front to back at every step then need few page translations, the processor reads ahead
/// further, and its caches hold all of them side by side.
pub(crate) struct Buffer {
    start: NonNull<Line>,
    /// Lines that hold something; there may be memory for more.
    lines: usize,
    memory: Layout,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: a buffer owns its memory, as a vector of floats does.
unsafe impl Send for Buffer {}
// SAFETY: and writes to it only where it is borrowed exclusively.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// At least `length` floats; memory and what is in it are kept from use to use, what is new is unspecified.
    pub(crate) fn ensure(&mut self, length: usize) -> &mut [f32] {
        let lines = length.div_ceil(16);
        if self.lines < lines {
            if self.memory.size() < lines * size_of::<Line>() {
                // Twice as much at least, for batches that become longer and longer. What is not used yet is no more
                // than a range of addresses.
                let mut larger = Buffer::with_room(lines.max(2 * self.lines));
                // SAFETY: the new memory is another, and has room for more lines than these.
                unsafe { larger.start.copy_from_nonoverlapping(self.start, self.lines) };
                larger.lines = self.lines;
                *self = larger;
            }
            // SAFETY: the memory has room for `lines`, and all bits zero is a line.
            unsafe { self.start.add(self.lines).write_bytes(0, lines - self.lines) };
            self.lines = lines;
        }
        &mut self.as_mut()[..length]
    }

    /// Memory for some lines, with none in it.
    fn with_room(lines: usize) -> Buffer {
        let memory = Layout::array::<Line>(lines).expect("no more than can be addressed");
        let memory = match memory.size() {
            bytes if bytes >= LARGE && HAS_LARGE_PAGES => {
                let rest = bytes % PAGE;
                let bytes = if rest >= LARGE { bytes.next_multiple_of(PAGE) } else { bytes };
                Layout::from_size_align(bytes, PAGE).expect("no more than can be addressed")
            }
            _ => memory,
        };
        // SAFETY: whoever asks wants one line at least.
        let start = unsafe { alloc(memory) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(memory) };
        #[cfg(all(target_os = "linux", not(miri)))]
        if memory.align() == PAGE {
            // SAFETY: the range lies inside memory that nobody else has, and the advice changes no contents. A
            // kernel that does not know it refuses, which changes nothing either.
            unsafe { libc::madvise(start.as_ptr().cast(), memory.size() / PAGE * PAGE, libc::MADV_HUGEPAGE) };
        }
        Buffer { start: start.cast(), lines: 0, memory }
    }

    pub(crate) fn as_ref(&self) -> &[f32] {
        // SAFETY: `Line` is exactly sixteen floats (`repr(C)`), so the lines are `16 * lines` floats.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.lines * 16) }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.lines * 16) }
    }

    /// The same memory as groups of four bytes.
    pub(crate) fn as_quads(&self) -> &[[i8; 4]] {
        // SAFETY: as above; a quad has the size of a float, and any bytes are one.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.lines * 16) }
    }

    pub(crate) fn as_quads_mut(&mut self) -> &mut [[i8; 4]] {
        // SAFETY: as above, any bytes are a float as well, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.lines * 16) }
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer { start: NonNull::dangling(), lines: 0, memory: Layout::new::<()>() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.size() > 0 {
            // SAFETY: it was allocated so.
            unsafe { dealloc(self.start.as_ptr().cast(), self.memory) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_is_in_it_while_it_grows() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.ensure(0), &[]);
        let mut filled = 0;
        // Small ones, one of half a large page, and pages with a small and with a large rest.
        for length in [1, 17, 1000, LARGE / 4, PAGE / 4 + 100, PAGE / 2 - 100, PAGE] {
            buffer.ensure(length);
            for at in filled..length {
                buffer.as_mut()[at] = at as f32;
            }
            filled = length;
            assert_eq!(buffer.ensure(length / 2).len(), length / 2);
            assert!(buffer.as_ref().len() >= length);
            assert!(buffer.as_ref()[..length].iter().enumerate().all(|(at, &value)| value == at as f32));
            let start = buffer.as_ref().as_ptr() as usize;
            assert!(start.is_multiple_of(64));
            assert!(!HAS_LARGE_PAGES || length < LARGE / 4 || start.is_multiple_of(PAGE));
        }
    }
}
