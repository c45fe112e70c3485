//! Which notes become events, which raise a count, and which are too many.
//!
//! Upstream: client-go/tools/record/events_cache.go

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Note;

/// Distinct events remembered for counting. Upstream: maxLruCacheEntries.
const REMEMBERED: usize = 4_096;
/// Per object: this many at once, then one every 5 minutes. Upstream: defaultSpamBurst, defaultSpamQPS.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// As many different messages as this for one reason on one object become one combined event, until there was silence for
/// [`SIMILAR_WINDOW`]. Upstream: defaultAggregateMaxEvents, defaultAggregateIntervalInSeconds.
const MAX_SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// What to do with a note.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// Create a new event with this name and message.
    Create { name: String, message: String },
    /// Raise the count of this event, first seen then.
    Count { name: String, message: String, count: i32, since: Timestamp },
    /// Too many for this object.
    Drop,
}

/// All that two notes must have in common to be one event.
#[derive(Clone, Hash, PartialEq, Eq)]
struct Key {
    subject: String,
    message: String,
}

/// An event that was sent, and how often it has been seen.
struct Known {
    name: String,
    count: i32,
    since: Timestamp,
    used: Instant,
}

/// Different messages about one thing.
struct Similar {
    messages: HashSet<String>,
    used: Instant,
}

/// Aggregation, counting, spam filter, in this order.
#[derive(Default)]
pub(super) struct Correlator {
    known: HashMap<Key, Known>,
    similar: HashMap<String, Similar>,
    tokens: HashMap<String, (f64, Instant)>,
}

impl Correlator {
    pub(super) fn decide(&mut self, note: &Note, now: Instant) -> Decision {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (about, source) = (&note.about, &note.source);
        let object =
            [&source.component, &source.host, &about.kind, &about.namespace, &about.name, &about.uid, &about.api_version]
                .map(text)
                .join("/");
        let subject = format!("{object}/{}/{}/{}", text(&about.field_path), note.kind.text(), note.reason);

        let combined = self.is_combined(&subject, &note.message, now);
        let message = if combined { format!("(combined from similar events): {}", note.message) } else { note.message.clone() };
        let key = Key { subject, message: if combined { String::new() } else { message.clone() } };
        let decision = match self.known.get_mut(&key) {
            Some(known) => {
                known.count = known.count.saturating_add(1);
                known.used = now;
                Decision::Count { name: known.name.clone(), message, count: known.count, since: known.since }
            }
            None => {
                let name = format!("{}.{:x}", about.name.as_deref().unwrap_or("unknown"), note.at.as_nanosecond());
                self.remember(key, Known { name: name.clone(), count: 1, since: note.at, used: now });
                Decision::Create { name, message }
            }
        };
        if self.is_spam(object, now) { Decision::Drop } else { decision }
    }

    fn is_combined(&mut self, subject: &str, message: &str, now: Instant) -> bool {
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, similar| now.duration_since(similar.used) < SIMILAR_WINDOW);
            if self.similar.len() > REMEMBERED {
                self.similar.clear();
            }
        }
        let new = || Similar { messages: HashSet::new(), used: now };
        let similar = self.similar.entry(subject.to_owned()).or_insert_with(new);
        if now.duration_since(similar.used) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.used = now;
        if similar.messages.contains(message) {
            return false;
        }
        if similar.messages.len() + 1 >= MAX_SIMILAR {
            return true;
        }
        similar.messages.insert(message.to_owned());
        false
    }

    fn is_spam(&mut self, object: String, now: Instant) -> bool {
        let refilled = |tokens: f64, at: Instant| (tokens + now.duration_since(at).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        if self.tokens.len() > REMEMBERED {
            // Who has all tokens again is as good as new; if that is nobody, the fullest half is.
            self.tokens.retain(|_, (tokens, at)| refilled(*tokens, *at) < BURST);
            if self.tokens.len() > REMEMBERED {
                let mut left: Vec<f64> = self.tokens.values().map(|(tokens, _)| *tokens).collect();
                left.sort_by(f64::total_cmp);
                let middle = left[left.len() / 2];
                self.tokens.retain(|_, (tokens, _)| *tokens < middle);
            }
        }
        let (tokens, at) = self.tokens.entry(object).or_insert((BURST, now));
        *tokens = refilled(*tokens, *at);
        *at = now;
        if *tokens < 1.0 {
            return true;
        }
        *tokens -= 1.0;
        false
    }

    fn remember(&mut self, key: Key, known: Known) {
        if self.known.len() >= REMEMBERED {
            let mut ages: Vec<_> = self.known.values().map(|known| known.used).collect();
            ages.sort();
            let middle = ages[ages.len() / 2];
            self.known.retain(|_, known| known.used > middle);
        }
        self.known.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EventSource, ObjectReference};

    use super::super::Kind;
    use super::*;

    fn note(object: &str, message: &str) -> Note {
        Note {
            about: ObjectReference { name: Some(object.into()), ..Default::default() },
            source: EventSource::default(),
            kind: Kind::Normal,
            reason: "Tested".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_and_floods_end() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let decision = correlator.decide(&note("x", "a"), now);
        assert_eq!(decision, Decision::Create { name: "x.0".into(), message: "a".into() });
        let decision = correlator.decide(&note("x", "a"), now);
        let since = Timestamp::UNIX_EPOCH;
        assert_eq!(decision, Decision::Count { name: "x.0".into(), message: "a".into(), count: 2, since });
        let dropped = (0..40).filter(|_| correlator.decide(&note("x", "a"), now) == Decision::Drop).count();
        assert_eq!(dropped, 40 - 23, "a burst of 25, two of them above");
        assert_ne!(correlator.decide(&note("y", "a"), now), Decision::Drop, "each object has its own burst");
        let later = now + Duration::from_secs(301);
        assert!(matches!(correlator.decide(&note("x", "a"), later), Decision::Count { count: 43, .. }), "the dropped ones count");
        assert_eq!(correlator.decide(&note("x", "a"), later), Decision::Drop);
    }

    #[tokio::test(start_paused = true)]
    async fn many_similar_messages_become_one_until_there_is_silence() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let message = |decision: Decision| match decision {
            Decision::Create { message, .. } => format!("new {message}"),
            Decision::Count { message, count, .. } => format!("{count} {message}"),
            Decision::Drop => "drop".to_owned(),
        };
        for index in 0..9 {
            assert_eq!(message(correlator.decide(&note("x", &index.to_string()), now)), format!("new {index}"));
        }
        assert_eq!(message(correlator.decide(&note("x", "ten"), now)), "new (combined from similar events): ten");
        assert_eq!(message(correlator.decide(&note("x", "eleven"), now)), "2 (combined from similar events): eleven");
        assert_eq!(message(correlator.decide(&note("x", "3"), now)), "2 3", "a known message stays itself");
        let later = now + SIMILAR_WINDOW + Duration::from_secs(1);
        assert_eq!(message(correlator.decide(&note("x", "twelve"), later)), "new twelve");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        for index in 0..3 * REMEMBERED {
            correlator.decide(&note(&format!("o{index}"), "a"), now);
        }
        assert!(correlator.known.len() <= REMEMBERED + 1);
        assert!(correlator.similar.len() <= REMEMBERED + 1);
        assert!(correlator.tokens.len() <= REMEMBERED + 1);
    }
}
