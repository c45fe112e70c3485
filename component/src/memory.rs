//! How a process uses memory.

/// Asks the kernel for small pages from here on. Call first in `main` of a process that should be small when idle.
///
/// Allocators reserve their arenas in one piece and touch a little of it; where the kernel hands out huge pages (mimalloc asks for
/// them), each touch costs 2 MiB: measured with kube-controller-manager, 26 MB resident instead of 10. Children that the process starts
/// inherit this. An older kernel, or a filter on system calls, may refuse: nothing depends on it.
pub fn no_huge_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

mod sys;

/// Lets go of the pages of our own program that are mapped; those still needed come back from the page cache one by one.
///
/// What a process runs once, at its start, stays in its resident set for good, since nothing short of memory pressure takes it away:
/// measured with the kubelet, 19 MB of 20 MB of code, of which a few are used again. Call it when the start is over, and now and then.
pub fn give_back_code() {
    let (Ok(maps), Ok(exe)) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe")) else { return };
    for (start, bytes) in code(&maps, &exe.to_string_lossy()) {
        sys::let_go(start, bytes);
    }
}

/// Where the program's code is: mapped from its file, executable, never written.
fn code(maps: &str, exe: &str) -> Vec<(usize, usize)> {
    let rows = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (range, flags) = (words.next()?, words.next()?);
        if flags != "r-xp" || words.nth(3)? != exe {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((start, end.checked_sub(start)?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code_is_found() {
        let maps = "7f00-7f10 r--p 00000000 fe:00 1  /bin/x\n1000-3000 r-xp 00001000 fe:00 1   /bin/x\n5000-6000 r-xp 00000000 fe:00 2 /lib/y\n\
                    7000-8000 rw-p 00000000 00:00 0 \n9000-a000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code(maps, "/bin/x"), [(0x1000, 0x2000)]);
    }

    #[test]
    fn the_program_goes_on_without_its_pages() {
        give_back_code();
        let sum: u64 = (0..1000_u64).map(|n| n * n).sum();
        assert_eq!(sum, 332_833_500);
    }
}
