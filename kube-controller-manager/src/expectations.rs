//! Expectations: what a controller has asked for and not yet seen through its watch. A sync that acts before its own writes came
//! back would act twice.
//!
//! Upstream: pkg/controller/controller_utils.go (ControllerExpectations, UIDTrackingControllerExpectations).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api_error;
use crate::key::Key;

/// After this long a lost event is assumed and the controller acts again. Upstream: ExpectationsTimeout.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A creation whose answer was lost is waited for this long: the watch of one that took effect is seldom later, and if it did not,
/// the controller should not sit still for [`TIMEOUT`].
const UNCERTAIN: Duration = Duration::from_secs(20);

/// Outstanding creations (counted) and deletions (by uid) per key.
#[derive(Default)]
pub struct Expectations {
    records: Mutex<HashMap<Key, Record>>,
}

struct Record {
    creations: i64,
    deletions: HashSet<String>,
    /// Then a lost event is assumed.
    until: Instant,
}

impl Expectations {
    /// Whether everything asked for was seen (or so long ago that waiting is pointless).
    pub fn satisfied(&self, key: &Key) -> bool {
        self.records.lock().get(key).is_none_or(|r| (r.creations <= 0 && r.deletions.is_empty()) || Instant::now() > r.until)
    }

    /// Starts a round: `count` creations are about to be sent. Call before sending.
    pub fn expect_creations(&self, key: &Key, count: usize) {
        let creations = i64::try_from(count).unwrap_or(i64::MAX);
        self.records.lock().insert(key.clone(), Record { creations, deletions: HashSet::new(), until: Instant::now() + TIMEOUT });
    }

    /// Starts a round: the objects with these uids are about to be deleted. Call before sending.
    pub fn expect_deletions(&self, key: &Key, uids: impl IntoIterator<Item = String>) {
        self.expect(key, 0, uids);
    }

    /// Starts a round of both.
    pub fn expect(&self, key: &Key, creations: usize, uids: impl IntoIterator<Item = String>) {
        let record = Record {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            deletions: uids.into_iter().collect(),
            until: Instant::now() + TIMEOUT,
        };
        self.records.lock().insert(key.clone(), record);
    }

    /// One creation was seen, or failed, or was never sent.
    pub fn creation_observed(&self, key: &Key) {
        if let Some(record) = self.records.lock().get_mut(key) {
            record.creations -= 1;
        }
    }

    /// A creation failed: it is not expected any more, unless it may have taken effect all the same.
    pub fn creation_failed(&self, key: &Key, error: &kube::Error) {
        if !api_error::is_uncertain(error) {
            return self.creation_observed(key);
        }
        if let Some(record) = self.records.lock().get_mut(key) {
            record.until = record.until.min(Instant::now() + UNCERTAIN);
        }
    }

    /// The deletion of `uid` was seen, or failed.
    pub fn deletion_observed(&self, key: &Key, uid: &str) {
        if let Some(record) = self.records.lock().get_mut(key) {
            record.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, key: &Key) {
        self.records.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_satisfied_when_all_was_seen_or_too_old() {
        let (expectations, key) = (Expectations::default(), Key::new("d", "a"));
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 2);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.creation_observed(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect_deletions(&key, ["u".to_owned()]);
        expectations.deletion_observed(&key, "other");
        assert!(!expectations.satisfied(&key));
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }

    #[tokio::test(start_paused = true)]
    async fn a_creation_whose_answer_was_lost_is_waited_for_a_while() {
        let (expectations, key) = (Expectations::default(), Key::new("d", "a"));
        let status = |code: u16, reason: &str| {
            let status = serde_json::json!({"status": "Failure", "message": "", "reason": reason, "code": code});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        expectations.expect_creations(&key, 1);
        expectations.creation_failed(&key, &status(403, "Forbidden"));
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 1);
        expectations.creation_failed(&key, &status(504, "Timeout"));
        assert!(!expectations.satisfied(&key));
        tokio::time::advance(UNCERTAIN + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }
}
