//! What a controller is given: its own client, the shared stores, its queue, a recorder, the configuration, and the clock.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::events::{Kind, Recorder};
use client::informer::{Informer, Informers};
use component::tasks::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};

pub use client::informer::Change;
pub use client::queue::{Queue, Requeue};

use crate::config::Config;
use crate::key::Key;
use crate::{owner, queue_name};

/// Any kind that a controller stores or writes.
pub trait Object: client::informer::Object + Resource<DynamicType = ()> {}
impl<K: client::informer::Object + Resource<DynamicType = ()>> Object for K {}

/// Handed to a controller's start function; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The controller's name, also that of its queue and its metrics.
    pub name: &'static str,
    /// Speaks with the controller's own credentials.
    pub client: Client,
    /// The process's own identity on a connection of its own, for the garbage collector's many watches: a server allows only so
    /// many streams on one connection, and requests must not wait for watches to end.
    pub watches: Client,
    pub config: Arc<Config>,
    pub tasks: Tasks,
    pub informers: Informers,
    pub recorder: Recorder,
    /// The time, in whole seconds; [`now`], or a model's.
    pub clock: fn() -> Timestamp,
}

impl Context {
    /// The shared store of a kind; its watch starts with the first caller.
    pub fn store<K: Object>(&self) -> Store<K> {
        let informer = self.informers.get::<K>();
        informer.add_index(CONTROLLER_INDEX, |object| vec![controller_index(object.meta())]);
        Store(informer)
    }

    /// A store of part of a kind: one namespace, or a field selector. For this controller alone.
    pub fn watch<K: Object>(&self, api: Api<K>, selection: watcher::Config) -> Store<K> {
        Store(Informer::start(&self.tasks, api, selection, |object| object.meta_mut().managed_fields = None))
    }

    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn cluster<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    pub fn queue(&self) -> Queue<Key> {
        Queue::new(queue_name::of(self.name))
    }

    /// The time, in whole seconds as the API stores it.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Works on the keys of `queue` until shutdown. A failed key comes back with backoff.
    pub fn run<F, Fut>(&self, queue: &Queue<Key>, workers: usize, sync: F)
    where
        F: Fn(Key) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Requeue>> + Send + 'static,
    {
        queue.run(&self.tasks, workers, move |key| {
            let syncing = sync(key);
            async move { syncing.await.map_err(Failure) }
        });
    }

    /// Runs `work` every `period`, the first time at once, until shutdown. Errors are logged.
    pub fn every<F, Fut>(&self, period: Duration, work: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send,
    {
        let (stop, name) = (self.tasks.token(), self.name);
        self.tasks.spawn(name, async move {
            loop {
                if let Some(Err(error)) = stop.run_until_cancelled(work()).await {
                    tracing::warn!(controller = name, err = format!("{error:#}"), "Periodic work failed");
                }
                if stop.run_until_cancelled(tokio::time::sleep(period)).await.is_none() {
                    return;
                }
            }
        });
    }

    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.recorder.about(about.clone(), Kind::Normal, reason, message);
    }

    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.recorder.about(about.clone(), Kind::Warning, reason, message);
    }
}

/// The time, in whole seconds as the API stores it.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Look again when `at` has come.
pub fn requeue_at(at: Option<Timestamp>, now: Timestamp) -> Requeue {
    match at {
        // One second more: timestamps are cut to whole seconds.
        Some(at) => Requeue::After(Duration::from_secs(u64::try_from(at.duration_since(now).as_secs()).unwrap_or(0) + 1)),
        None => Requeue::No,
    }
}

/// An error with its causes on one line.
struct Failure(anyhow::Error);

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

const CONTROLLER_INDEX: &str = "controller";

fn controller_index(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    match owner::controller_of(meta) {
        Some(controller) => controller.uid.clone(),
        None => format!("orphan/{}", meta.namespace.as_deref().unwrap_or("")),
    }
}

/// A shared, read-only view of all objects of a kind.
#[derive(Clone)]
pub struct Store<K>(Informer<K>);

impl<K: Object> Store<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.store().get(&key.to_string())
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.store().list()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.store().list_namespace(namespace)
    }

    /// The objects whose controller has this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.0.store().by_index(CONTROLLER_INDEX, uid)
    }

    /// The objects of a namespace that have no controller.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.store().by_index(CONTROLLER_INDEX, &format!("orphan/{namespace}"))
    }

    pub fn add_index(&self, name: &'static str, values_of: fn(&K) -> Vec<String>) {
        self.0.add_index(name, values_of);
    }

    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.0.store().by_index(name, value)
    }

    /// Registers a handler. It runs on the watch's task: note keys, do no work.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.0.on_change(handler);
    }

    /// Adds the key of every changed object to `queue`.
    pub fn feed(&self, queue: &Queue<Key>) {
        let queue = queue.clone();
        self.on_change(move |change| queue.add(Key::of(change.object().as_ref())));
    }

    /// Waits until the store is complete. Never act before.
    pub async fn synced(&self) {
        self.0.synced().await;
    }
}
