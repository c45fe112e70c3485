//! Events: what components tell people. Repeats are counted on one object, floods are thinned, and no caller ever waits.
//!
//! Upstream: client-go/tools/record

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use component::tasks::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events waiting to be sent; further ones are dropped, since events are best effort.
const QUEUE: usize = 1_000;
/// Distinct events remembered for counting. Upstream: maxLruCacheEntries.
const REMEMBERED: usize = 4_096;
/// Per object: this many at once, then one every 5 minutes. Upstream: defaultSpamBurst, defaultSpamQPS.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// More different messages than this for one reason on one object within [`SIMILAR_WINDOW`] become one combined event.
const MAX_SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Sends events of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Note>,
    source: EventSource,
}

struct Note {
    about: ObjectReference,
    source: EventSource,
    kind: Kind,
    reason: String,
    message: String,
    at: Timestamp,
}

/// A reference to an object, for events about it.
pub fn reference<K: Resource>(object: &K) -> ObjectReference
where
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    ObjectReference {
        api_version: Some(K::api_version(&kind).into_owned()),
        kind: Some(K::kind(&kind).into_owned()),
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// A recorder for `component`; `host` is the node's name for components of a node, else empty.
    pub fn new(client: Client, tasks: &Tasks, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let stop = tasks.token();
        tasks.spawn("events", async move {
            stop.run_until_cancelled(send_all(client, receiver)).await;
        });
        let source =
            EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()).filter(|host| !host.is_empty()) };
        Self { sender, source }
    }

    /// A recorder whose events go nowhere but into the returned list: for tests. Rows: `Warning FailedMount message`.
    pub fn for_tests() -> (Self, Arc<Mutex<Vec<String>>>) {
        let (sender, mut receiver) = mpsc::channel::<Note>(QUEUE);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Some(note) = receiver.recv().await {
                log.lock().push(format!("{:?} {} {}", note.kind, note.reason, note.message));
            }
        });
        (Self { sender, source: EventSource::default() }, seen)
    }

    /// The same connection, speaking for another component name (the scheduler's profiles).
    pub fn with_component(&self, component: &str) -> Self {
        Self { sender: self.sender.clone(), source: EventSource { component: Some(component.to_owned()), ..self.source.clone() } }
    }

    /// Notes an event about `object`.
    pub fn event<K: Resource>(&self, object: &K, kind: Kind, reason: &str, message: impl Into<String>)
    where
        K::DynamicType: Default,
    {
        self.about(reference(object), kind, reason, message);
    }

    /// Notes an event about a reference (with `field_path` for containers: `spec.containers{name}`).
    pub fn about(&self, about: ObjectReference, kind: Kind, reason: &str, message: impl Into<String>) {
        let (reason, message, source) = (reason.to_owned(), message.into(), self.source.clone());
        let note = Note { about, source, kind, reason, message, at: Timestamp::now() };
        if self.sender.try_send(note).is_err() {
            tracing::debug!("Dropped an event, the queue is full");
        }
    }
}

#[derive(Clone, Hash, PartialEq, Eq)]
struct Key {
    component: String,
    about: String,
    kind: &'static str,
    reason: String,
    message: String,
}

/// An event on the server, and how often it has been seen.
struct Known {
    name: String,
    namespace: String,
    count: i32,
    used: Instant,
}

/// What to do with a note.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Create a new event with this message.
    Create(String),
    /// Raise the count of this event.
    Count { name: String, namespace: String, count: i32, message: String },
    /// Too many for this object.
    Drop,
}

/// Upstream's correlator: aggregation, counting, spam filter.
#[derive(Default)]
struct Correlator {
    known: HashMap<Key, Known>,
    similar: HashMap<(String, String), (Instant, HashMap<String, ()>)>,
    tokens: HashMap<String, (f64, Instant)>,
}

impl Correlator {
    fn decide(&mut self, note: &Note, now: Instant) -> (Key, Decision) {
        let reference = &note.about;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let about = [
            &reference.kind,
            &reference.namespace,
            &reference.name,
            &reference.uid,
            &reference.api_version,
            &reference.field_path,
        ]
        .map(text)
        .join("/");
        let component = text(&note.source.component);
        let kind = if note.kind == Kind::Warning { "Warning" } else { "Normal" };
        // Forget what is old, wholesale: simple, and bounded.
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (since, _)| now.duration_since(*since) < SIMILAR_WINDOW);
        }
        let entry = self
            .similar
            .entry((about.clone(), format!("{component}/{kind}/{}", note.reason)))
            .or_insert_with(|| (now, HashMap::new()));
        if now.duration_since(entry.0) >= SIMILAR_WINDOW {
            *entry = (now, HashMap::new());
        }
        if entry.1.len() <= MAX_SIMILAR {
            entry.1.insert(note.message.clone(), ());
        }
        let combined = entry.1.len() > MAX_SIMILAR;
        let message = if combined { format!("(combined from similar events): {}", note.message) } else { note.message.clone() };
        let key = Key {
            component: component.clone(),
            about: about.clone(),
            kind,
            reason: note.reason.clone(),
            message: if combined { "(combined)".into() } else { message.clone() },
        };

        if self.tokens.len() > REMEMBERED {
            self.tokens.retain(|_, (tokens, at)| *tokens + now.duration_since(*at).as_secs_f64() * REFILL_PER_SECOND < BURST);
        }
        let (tokens, at) = self.tokens.entry(format!("{component}/{about}")).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*at).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            return (key, Decision::Drop);
        }
        *tokens -= 1.0;

        let decision = match self.known.get_mut(&key) {
            Some(known) => {
                known.count += 1;
                known.used = now;
                Decision::Count { name: known.name.clone(), namespace: known.namespace.clone(), count: known.count, message }
            }
            None => Decision::Create(message),
        };
        (key, decision)
    }

    fn remember(&mut self, key: Key, name: String, namespace: String, now: Instant) {
        if self.known.len() >= REMEMBERED {
            let mut ages: Vec<_> = self.known.values().map(|known| known.used).collect();
            ages.sort();
            let middle = ages[ages.len() / 2];
            self.known.retain(|_, known| known.used > middle);
        }
        self.known.insert(key, Known { name, namespace, count: 1, used: now });
    }
}

async fn send_all(client: Client, mut receiver: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::default();
    while let Some(note) = receiver.recv().await {
        let now = Instant::now();
        let (key, decision) = correlator.decide(&note, now);
        let message = match decision {
            Decision::Drop => continue,
            Decision::Create(message) => message,
            Decision::Count { name, namespace, count, message } => {
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                let patch = json!({"count": count, "lastTimestamp": Time(note.at), "message": message});
                match api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                    Err(error) if crate::is_not_found(&error) => message,
                    Err(error) => {
                        tracing::debug!(err = %component::chain(&error), "Failed to count an event");
                        continue;
                    }
                    Ok(_) => continue,
                }
            }
        };
        let event = new_event(&note, message);
        let (name, namespace) =
            (event.metadata.name.clone().unwrap_or_default(), event.metadata.namespace.clone().unwrap_or_default());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        // A server that starts, or is replaced: worth a few tries, then the event is lost.
        for attempt in 0..4_u32 {
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => {
                    correlator.remember(key, name, namespace, now);
                    break;
                }
                Err(kube::Error::Api(status)) => {
                    tracing::debug!(err = status.message, reason = note.reason, "API server refused an event");
                    break;
                }
                Err(error) => {
                    tracing::debug!(err = %component::chain(&error), "Failed to send an event");
                    tokio::time::sleep(Duration::from_millis(500 << attempt)).await;
                }
            }
        }
    }
}

fn new_event(note: &Note, message: String) -> Event {
    let nanos = note.at.as_nanosecond();
    let object = note.about.name.as_deref().unwrap_or("unknown");
    let namespace =
        note.about.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta { name: Some(format!("{object}.{nanos:x}")), namespace: Some(namespace), ..Default::default() },
        involved_object: note.about.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        type_: Some(if note.kind == Kind::Warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        source: Some(note.source.clone()),
        reporting_component: Some(note.source.component.clone().unwrap_or_default()),
        reporting_instance: Some(note.source.host.clone().unwrap_or_default()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let about = ObjectReference { name: Some("x".into()), ..Default::default() };
        Note {
            about,
            source: EventSource::default(),
            kind: Kind::Normal,
            reason: "Tested".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_and_floods_end() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let (key, decision) = correlator.decide(&note("a"), now);
        assert_eq!(decision, Decision::Create("a".into()));
        correlator.remember(key, "x.1".into(), "default".into(), now);
        let (_, decision) = correlator.decide(&note("a"), now);
        assert_eq!(decision, Decision::Count { name: "x.1".into(), namespace: "default".into(), count: 2, message: "a".into() });
        let dropped = (0..40).filter(|_| correlator.decide(&note("a"), now).1 == Decision::Drop).count();
        assert_eq!(dropped, 40 - 23, "a burst of 25, two of them above");
    }

    #[tokio::test(start_paused = true)]
    async fn many_similar_messages_become_one() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        for index in 0..10 {
            assert_eq!(correlator.decide(&note(&index.to_string()), now).1, Decision::Create(index.to_string()));
        }
        assert_eq!(correlator.decide(&note("last"), now).1, Decision::Create("(combined from similar events): last".into()));
    }
}
