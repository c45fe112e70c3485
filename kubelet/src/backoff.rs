//! Exponential back-off by key, as client-go's flowcontrol has it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// First delay. Upstream: backOffPeriod, imageBackOffPeriod.
const INITIAL: Duration = Duration::from_secs(10);
/// Entries kept before old ones are swept.
const SWEEP_AT: usize = 1024;

/// Delays by key.
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Backoff {
    /// From 10 s up to `max`.
    pub fn new(max: Duration) -> Self {
        Self { initial: INITIAL.min(max), max, entries: Mutex::default() }
    }

    /// How long to wait still, if the last failure was at `failed`; the delay in force comes second.
    pub fn remaining(&self, key: &str, failed: Instant) -> Option<(Duration, Duration)> {
        let entries = self.entries.lock();
        let (delay, updated) = *entries.get(key)?;
        if failed.saturating_duration_since(updated) > self.max * 2 {
            return None;
        }
        let passed = failed.elapsed();
        (passed < delay).then(|| (delay - passed, delay))
    }

    /// Notes another try; the next wait is twice as long. A key that did well for long starts anew.
    pub fn next(&self, key: &str, failed: Instant) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        if entries.len() > SWEEP_AT {
            let max = self.max;
            entries.retain(|_, (_, updated)| now.saturating_duration_since(*updated) < max * 2);
        }
        let delay = match entries.get(key) {
            Some((delay, updated)) if failed.saturating_duration_since(*updated) <= self.max * 2 => (*delay * 2).min(self.max),
            _ => self.initial,
        };
        entries.insert(key.to_owned(), (delay, now));
    }

    /// Notes what a former process knew: the key had failed `times` before, the last try began at `began`. Nothing where an entry is.
    pub fn recall(&self, key: &str, times: u32, began: Instant) {
        if times == 0 {
            return;
        }
        let delay = self.initial.saturating_mul(1 << (times - 1).min(16)).min(self.max);
        self.entries.lock().entry(key.to_owned()).or_insert((delay, began));
    }

    /// Forgets keys that begin so.
    pub fn forget(&self, prefix: &str) {
        self.entries.lock().retain(|key, _| !key.starts_with(prefix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_limit_and_are_forgotten_after_a_good_time() {
        let backoff = Backoff::new(Duration::from_secs(30));
        assert!(backoff.remaining("a", Instant::now()).is_none());
        for expected in [10, 20, 30, 30] {
            backoff.next("a", Instant::now());
            let failed = Instant::now();
            assert_eq!(backoff.remaining("a", failed).unwrap().1.as_secs(), expected);
            tokio::time::advance(Duration::from_secs(expected)).await;
            assert!(backoff.remaining("a", failed).is_none());
        }
        backoff.recall("b", 2, Instant::now());
        assert_eq!(backoff.remaining("b", Instant::now()).unwrap().1.as_secs(), 20);
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(backoff.remaining("a", Instant::now()).is_none());
        backoff.next("a", Instant::now());
        assert_eq!(backoff.remaining("a", Instant::now()).unwrap().1.as_secs(), 10);
    }
}
