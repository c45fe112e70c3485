//! Cores in use, from counters of nanoseconds.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::cgroup::tree::Usage;

/// Nanoseconds of CPU, when, and the rate then, by cgroup.
type LastReadings = HashMap<String, (u64, Timestamp, u64)>;

/// The last reading of each cgroup.
static LAST: std::sync::LazyLock<Mutex<LastReadings>> = std::sync::LazyLock::new(Mutex::default);

/// Readings kept before those of cgroups long gone are swept.
const SWEEP_AT: usize = 4096;
/// Two readings closer than this make no rate of their own.
const LEAST_NANOS: u64 = 1_000_000_000;

/// Cores in use, billionths, since the last reading at least a second ago; since the cgroup `began` where there was none.
pub fn nano_cores(key: &str, usage: &Usage, now: Timestamp, began: Option<Timestamp>) -> u64 {
    let passed = |since: Timestamp| u64::try_from(now.as_nanosecond() - since.as_nanosecond()).unwrap_or(0);
    let rate = |nanos: u64, over: u64| u64::try_from(u128::from(nanos) * 1_000_000_000 / u128::from(over.max(1))).unwrap_or(0);
    let mut last = LAST.lock();
    if last.len() > SWEEP_AT {
        last.retain(|_, (_, at, _)| now.as_second() - at.as_second() < 600);
    }
    let new = match last.get(key).copied() {
        Some((_, at, known)) if passed(at) < LEAST_NANOS => return known,
        Some((nanos, at, _)) => rate(usage.cpu_nanos.saturating_sub(nanos), passed(at)),
        None => began.filter(|began| passed(*began) >= LEAST_NANOS).map_or(0, |began| rate(usage.cpu_nanos, passed(began))),
    };
    last.insert(key.to_owned(), (usage.cpu_nanos, now, new));
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_readings_and_first_since_the_beginning() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let usage = |nanos: u64| Usage { cpu_nanos: nanos, ..Default::default() };
        let key = "rate-test";
        assert_eq!(nano_cores(key, &usage(5_000_000_000), at(110), Some(at(100))), 500_000_000);
        assert_eq!(nano_cores(key, &usage(6_000_000_000), at(120), Some(at(100))), 100_000_000);
        assert_eq!(nano_cores(key, &usage(9_000_000_000), at(120), Some(at(100))), 100_000_000, "too soon");
    }
}
