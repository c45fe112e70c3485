//! Events: what components tell people. Repeats are counted on one object, floods are thinned, and no caller ever waits.
//!
//! Upstream: client-go/tools/record

mod correlator;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use component::tasks::Tasks;
use correlator::{Correlator, Decision};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events waiting to be looked at; further ones are dropped, since events are best effort. Upstream keeps 1,000; a scheduler that
/// binds thousands of pods at once says something about each.
const QUEUE: usize = 5_000;
/// Requests under way at the same time. What concerns one event stays in order: it goes to one sender.
const SENDERS: usize = 8;
/// Waiting for one sender. When it is full the others wait, and the first queue fills.
const SENDER_QUEUE: usize = 64;

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        }
    }
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
        let (stop, inner) = (tasks.token(), tasks.clone());
        tasks.spawn("events", async move {
            stop.run_until_cancelled(send_all(client, inner, receiver)).await;
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

/// What one sender is to do.
struct Send {
    note: Note,
    decision: Decision,
}

/// Decides about notes one after the other, and hands them to the senders.
async fn send_all(client: Client, tasks: Tasks, mut receiver: mpsc::Receiver<Note>) {
    let senders: Vec<mpsc::Sender<Send>> = (0..SENDERS)
        .map(|_| {
            let (sender, mut queue) = mpsc::channel::<Send>(SENDER_QUEUE);
            let (client, stop) = (client.clone(), tasks.token());
            tasks.spawn("event-sender", async move {
                while let Some(Some(send)) = stop.run_until_cancelled(queue.recv()).await {
                    stop.run_until_cancelled(deliver(&client, send)).await;
                }
            });
            sender
        })
        .collect();
    let mut correlator = Correlator::default();
    while let Some(note) = receiver.recv().await {
        let decision = correlator.decide(&note, Instant::now());
        let name = match &decision {
            Decision::Drop => continue,
            Decision::Create { name, .. } | Decision::Count { name, .. } => name,
        };
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SENDERS as u64).unwrap_or(0);
        if senders[index].send(Send { note, decision }).await.is_err() {
            return;
        }
    }
}

/// One event to the server. A server that starts, or is replaced, is worth a few tries; then the event is lost.
async fn deliver(client: &Client, Send { note, decision }: Send) {
    let namespace = namespace_of(&note);
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let (name, message, count, since) = match decision {
        Decision::Drop => return,
        Decision::Create { name, message } => (name, message, 1, note.at),
        Decision::Count { name, message, count, since } => {
            let patch = json!({"count": count, "lastTimestamp": Time(note.at), "message": message});
            match api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                // It has expired, or never arrived: once more, with the count it has by now.
                Err(error) if crate::is_not_found(&error) => (name, message, count, since),
                Err(error) => return tracing::debug!(err = %component::chain(&error), "Failed to count an event"),
                Ok(_) => return,
            }
        }
    };
    let event = new_event(&note, name, namespace, message, count, since);
    for attempt in 0..4_u32 {
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) => {
                return tracing::debug!(err = status.message, reason = note.reason, "API server refused an event");
            }
            Err(error) => {
                tracing::debug!(err = %component::chain(&error), "Failed to send an event");
                tokio::time::sleep(Duration::from_millis(500 << attempt)).await;
            }
        }
    }
}

/// Where the event lives: with its object; with those of no namespace in `default`.
fn namespace_of(note: &Note) -> String {
    note.about.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned())
}

fn new_event(note: &Note, name: String, namespace: String, message: String, count: i32, since: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: note.about.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        type_: Some(note.kind.text().to_owned()),
        count: Some(count),
        first_timestamp: Some(Time(since)),
        last_timestamp: Some(Time(note.at)),
        source: Some(note.source.clone()),
        reporting_component: Some(note.source.component.clone().unwrap_or_default()),
        reporting_instance: Some(note.source.host.clone().unwrap_or_default()),
        ..Event::default()
    }
}
