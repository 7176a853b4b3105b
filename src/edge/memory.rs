//! What a box asks of the C library's allocator and of the kernel: it has video in pieces of many sizes, in threads that
//! come and go.
//!
//! As it comes, glibc gives each thread a heap of its own and keeps in it what was freed: after hours a box would hold two
//! to three times what it uses. A build that has a hub too allocates with mimalloc, which asks for huge pages: of each the
//! box would use a part. GStreamer has the C library's heap in every build.

/// One heap for all, large blocks apart from it, no huge pages. Called before the first thread starts.
pub fn settle() {
    #[cfg(target_os = "linux")]
    // SAFETY: this option of prctl(2) takes a flag and three zeros. Refused, it costs memory only.
    unsafe {
        let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
        libc::prctl(libc::PR_SET_THP_DISABLE, yes, unused, unused, unused);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use crate::limits::{HEAP_ARENAS_MAX, HEAP_BLOCK_BYTES_MAX};
        for (what, value) in
            [(libc::M_ARENA_MAX, HEAP_ARENAS_MAX), (libc::M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES_MAX)]
        {
            // SAFETY: mallopt(3) takes two numbers and may be called from any thread.
            let is_taken = unsafe { libc::mallopt(what, value) } == 1;
            debug_assert!(is_taken, "glibc refuses {value} for option {what} of mallopt(3)");
        }
    }
}

/// Gives back what lies free in the heap.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) has no preconditions and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
