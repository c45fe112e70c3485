//! Stop signals by name in CRI's numbers. Upstream: k8s.io/cri-api Signal

/// The names in CRI's order; the first has number 1.
const NAMES: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
];
/// `SIGRTMIN+1` to `SIGRTMIN+15`, then `SIGRTMAX-14` to `SIGRTMAX`.
const AFTER_MIN: i32 = 15;
const BEFORE_MAX: i32 = 14;

/// CRI's number of a signal; 0, the runtime's default, for a name that is none.
pub fn number(name: &str) -> i32 {
    let first = i32::try_from(NAMES.len()).unwrap_or(0);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).unwrap_or(0);
    }
    if name == "SIGRTMAX" {
        return first + AFTER_MIN + BEFORE_MAX + 1;
    }
    let offset = |prefix: &str| name.strip_prefix(prefix).and_then(|text| text.parse::<i32>().ok());
    match (offset("SIGRTMIN+"), offset("SIGRTMAX-")) {
        (Some(offset @ 1..=AFTER_MIN), _) => first + offset,
        (_, Some(offset @ 1..=BEFORE_MAX)) => first + AFTER_MIN + BEFORE_MAX + 1 - offset,
        _ => 0,
    }
}

/// The name of CRI's number; `None` for the runtime's default.
pub fn name(number: i32) -> Option<String> {
    let first = i32::try_from(NAMES.len()).unwrap_or(0);
    let max = first + AFTER_MIN + BEFORE_MAX + 1;
    match number {
        number if number >= 1 && number <= first => {
            NAMES.get(usize::try_from(number - 1).unwrap_or(0)).map(|name| (*name).to_owned())
        }
        number if number > first && number <= first + AFTER_MIN => Some(format!("SIGRTMIN+{}", number - first)),
        number if number > first + AFTER_MIN && number < max => Some(format!("SIGRTMAX-{}", max - number)),
        number if number == max => Some("SIGRTMAX".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_inverse() {
        assert_eq!((number("SIGABRT"), number("SIGRTMAX"), number("SIGNOT"), number("")), (1, 65, 0, 0));
        for index in 1..=65 {
            assert_eq!(number(&name(index).unwrap()), index);
        }
        assert_eq!((name(0), name(66)), (None, None));
    }
}
