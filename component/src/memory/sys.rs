//! One system call.
#![allow(unsafe_code)]

/// Unmaps the pages of a range of the program's own code. `start` must be a page's; what the kernel refuses stays as it is.
pub(super) fn let_go(start: usize, bytes: usize) {
    // SAFETY: the range is a private mapping of our program's file that is readable and executable but not writable, as /proc/self/maps just
    // said, so that it has no content of its own: a page that is touched again, this very code's included, is read from the same file.
    unsafe {
        libc::madvise(start as *mut libc::c_void, bytes, libc::MADV_DONTNEED);
    }
}
