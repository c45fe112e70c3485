//! How a process uses memory.

/// Asks the kernel for small pages from here on. Call first in `main` of a process that should be small when idle.
///
/// Allocators reserve their arenas in one piece and touch a little of it; where the kernel hands out huge pages (mimalloc asks for
/// them), each touch costs 2 MiB: measured with kube-controller-manager, 26 MB resident instead of 10. Children that the process starts
/// inherit this. An older kernel, or a filter on system calls, may refuse: nothing depends on it.
pub fn no_huge_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}
