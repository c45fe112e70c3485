//! How often a container was probed, with what result, and how long it took.

use std::collections::HashMap;
use std::time::Duration;

use super::threshold::Outcome;

/// Results, in the words of metrics.
pub const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];
/// Bounds of the buckets, seconds.
pub const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts of one probe of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// By result, in the order of [`RESULTS`].
    pub counts: [u64; 3],
    /// By duration, the last one for longer ones.
    pub buckets: [u64; 12],
    /// Seconds in all.
    pub seconds: f64,
}

/// Tallies of a pod by container and kind of probe (`Liveness`, …).
pub type Tallies = HashMap<(String, &'static str), Tally>;

impl Tally {
    /// Counts an outcome.
    pub fn count(&mut self, outcome: &Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Success => 0,
            Outcome::Failure(_) => 1,
            Outcome::Error(_) => 2,
        };
        self.counts[result] += 1;
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket] += 1;
        self.seconds += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_result_and_duration() {
        let mut tally = Tally::default();
        tally.count(&Outcome::Success, Duration::from_millis(7));
        tally.count(&Outcome::Failure("x".into()), Duration::from_secs(60));
        assert_eq!(tally.counts, [1, 1, 0]);
        assert_eq!((tally.buckets[1], tally.buckets[11]), (1, 1));
    }
}
