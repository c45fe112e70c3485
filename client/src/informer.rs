//! Shared informers: one watch per kind and process, one [`Store`], many handlers.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use component::tasks::Tasks;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::store::{IndexFn, Store};

/// What happened to an object. Handlers run in order, on the informer's task: they must only note keys.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// First seen (also for everything already there when a handler is added).
    Added(Arc<K>),
    /// Replaced: old, new.
    Updated(Arc<K>, Arc<K>),
    /// Gone; the last state seen.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated(_, object) | Self::Deleted(object) => object,
        }
    }

    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Updated(old, _) | Self::Deleted(old) => Some(old),
        }
    }
}

/// What an informer can watch: typed objects, and `kube::core::PartialObjectMeta` by [`Informer::start_metadata`].
pub trait Object: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Object for K {}

/// Objects asked for at once in a list. All of a page are in memory untrimmed at the same time, and what is kept of each lies scattered
/// over the room that the whole page took; with upstream's 500 a list of pods leaves three times as much behind.
pub const PAGE: u32 = 100;

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    store: Store<K>,
    handlers: Mutex<Vec<Handler<K>>>,
    synced: AtomicBool,
    progress: Notify,
}

/// A running watch of one kind. Cheap to clone.
pub struct Informer<K>(Arc<Shared<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Object> Informer<K> {
    /// Starts a watch of `api` with `config` (selectors; `watcher::Config::default()` for all) until `tasks` stop.
    /// `trim` may drop what the component never reads, before the object is stored.
    pub fn start(tasks: &Tasks, api: Api<K>, config: watcher::Config, trim: fn(&mut K)) -> Self
    where
        K::DynamicType: Default,
    {
        let this = Self::idle();
        let (shared, stop) = (this.clone(), tasks.token());
        let name = format!("informer-{}", K::plural(&K::DynamicType::default()));
        tasks.spawn(&name, async move {
            let follow = async {
                // From the start again after a restore of etcd: a stream that is ahead of the server would go on later, in another history.
                while shared.clone().follow(watcher::watcher(api.clone(), config.clone()), trim).await {}
            };
            stop.run_until_cancelled(follow).await;
        });
        this
    }

    /// A store that nobody feeds: for tests, which call [`Informer::apply`] and [`Informer::delete`].
    pub fn idle() -> Self {
        Self(Arc::new(Shared {
            store: Store::default(),
            handlers: Mutex::default(),
            synced: AtomicBool::new(false),
            progress: Notify::new(),
        }))
    }

    /// Feeds the store from a watcher's stream (also of another API: metadata, dynamic objects). Ends with `true` where the stream is ahead of
    /// the server and a new one is to be made.
    pub async fn follow<S>(self, stream: S, trim: fn(&mut K)) -> bool
    where
        S: futures::Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    {
        let mut stream = std::pin::pin!(stream);
        let mut listed: HashSet<String> = HashSet::new();
        let mut failures = 0_u32;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    failures = 0;
                    match event {
                        Event::Apply(mut object) => {
                            trim(&mut object);
                            self.apply(object);
                        }
                        Event::Delete(object) => self.delete(&crate::key_of(&object)),
                        Event::Init => listed.clear(),
                        Event::InitApply(mut object) => {
                            trim(&mut object);
                            listed.insert(crate::key_of(&object));
                            self.apply(object);
                        }
                        Event::InitDone => {
                            for key in self.0.store.keys() {
                                if !listed.contains(&*key) {
                                    self.delete(&key);
                                }
                            }
                            listed = HashSet::new();
                            self.set_synced();
                        }
                    }
                }
                Err(error) if is_ahead(&error) => {
                    tracing::info!(err = component::chain(&error), "The server's storage is older than the watch, listing anew");
                    tokio::time::sleep(Duration::from_millis(100).mul_f64(0.5 + rand::random::<f64>())).await;
                    return true;
                }
                Err(error) => {
                    failures += 1;
                    let text = component::chain(&error);
                    if failures == 3 || failures.is_multiple_of(60) {
                        tracing::warn!(err = text, "Watch failed, trying again");
                    } else {
                        tracing::debug!(err = text, "Watch failed, trying again");
                    }
                    // 50 ms, 100 ms … 3.2 s: a restarted API server is found again quickly, an absent one is not hammered.
                    let pause = Duration::from_millis(50 << failures.saturating_sub(1).min(6));
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                }
            }
        }
        false
    }

    /// Notes an object as the API server has it now, and tells the handlers. Same or no newer version: nothing is told.
    pub fn apply(&self, object: K) {
        let object = Arc::new(object);
        let handlers = self.0.handlers.lock();
        let change = match self.0.store.put(&crate::key_of(&*object), object.clone()) {
            None => Change::Added(object),
            Some(old) if old.meta().uid != object.meta().uid => {
                // Deleted and made again between two looks: two things happened.
                for handler in handlers.iter() {
                    handler(&Change::Deleted(old.clone()));
                }
                Change::Added(object)
            }
            Some(old)
                if old.meta().resource_version.is_some() && old.meta().resource_version == object.meta().resource_version =>
            {
                return;
            }
            Some(old) => Change::Updated(old, object),
        };
        for handler in handlers.iter() {
            handler(&change);
        }
    }

    /// Notes that an object is gone, and tells the handlers.
    pub fn delete(&self, key: &str) {
        let handlers = self.0.handlers.lock();
        if let Some(old) = self.0.store.remove(key) {
            for handler in handlers.iter() {
                handler(&Change::Deleted(old.clone()));
            }
        }
    }

    /// Marks the store complete (tests; the watch does it by itself).
    pub fn set_synced(&self) {
        self.0.synced.store(true, Ordering::Release);
        self.0.progress.notify_waiters();
    }

    /// The objects.
    pub fn store(&self) -> &Store<K> {
        &self.0.store
    }

    /// Adds an index to the store.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        self.0.store.add_index(name, values_of);
    }

    /// Adds a handler; it is told `Added` for everything already known. A handler must not call back into this informer's
    /// `on_change`, `apply` or `delete`; reading the store is fine.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.0.store.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Whether the store has been complete once.
    pub fn is_synced(&self) -> bool {
        self.0.synced.load(Ordering::Acquire)
    }

    /// Waits until the store has been complete once.
    pub async fn synced(&self) {
        loop {
            let progress = self.0.progress.notified();
            if self.is_synced() {
                return;
            }
            progress.await;
        }
    }
}

/// The informers of a process: the same kind is watched once, however many ask.
#[derive(Clone)]
pub struct Informers {
    client: kube::Client,
    tasks: Tasks,
    running: Arc<Mutex<HashMap<TypeId, Entry>>>,
    /// `fn(&mut K)` by kind.
    trims: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
}

struct Entry {
    informer: Box<dyn Any + Send>,
    synced: Box<dyn Fn() -> bool + Send + Sync>,
    kind: String,
}

impl Informers {
    /// No watches yet; those that start stop with `tasks`.
    pub fn new(client: kube::Client, tasks: Tasks) -> Self {
        Self { client, tasks, running: Arc::default(), trims: Arc::default() }
    }

    /// From now on a new informer of `K` keeps of each object what `trim` leaves; it should drop the managed fields as well.
    pub fn trim<K: Object>(&self, trim: fn(&mut K)) {
        self.trims.lock().insert(TypeId::of::<K>(), Box::new(trim));
    }

    /// The cluster-wide informer of `K`, started on the first call. Managed fields are dropped: no component reads them.
    pub fn get<K>(&self) -> Informer<K>
    where
        K: Object,
        K::DynamicType: Default,
    {
        let mut running = self.running.lock();
        if let Some(entry) = running.get(&TypeId::of::<K>()).and_then(|entry| entry.informer.downcast_ref::<Informer<K>>()) {
            return entry.clone();
        }
        let api = Api::all(self.client.clone());
        let trim = self.trims.lock().get(&TypeId::of::<K>()).and_then(|trim| trim.downcast_ref::<fn(&mut K)>()).copied();
        let trim = trim.unwrap_or(|object| object.meta_mut().managed_fields = None);
        let informer = Informer::start(&self.tasks, api, watcher::Config::default().page_size(PAGE), trim);
        let probe = informer.clone();
        let entry = Entry {
            informer: Box::new(informer.clone()),
            synced: Box::new(move || probe.is_synced()),
            kind: K::kind(&K::DynamicType::default()).into_owned(),
        };
        running.insert(TypeId::of::<K>(), entry);
        informer
    }

    /// Waits until every informer asked for so far is complete; says every 10 s which are not.
    pub async fn synced(&self) {
        let mut waited = Duration::ZERO;
        loop {
            let missing: Vec<String> =
                self.running.lock().values().filter(|entry| !(entry.synced)()).map(|entry| entry.kind.clone()).collect();
            if missing.is_empty() {
                return;
            }
            const STEP: Duration = Duration::from_millis(10);
            tokio::time::sleep(STEP).await;
            waited += STEP;
            if waited.as_millis().is_multiple_of(10_000) {
                tracing::info!(kinds = missing.join(","), "Waiting for caches to sync");
            }
        }
    }

    /// The client the informers use.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }
}

/// Whether the server has not got as far as the version that the watch names.
fn is_ahead(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchError(status) => status,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.message.contains("Too large resource version")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;

    fn map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let (name, uid, version) = (Some(name.into()), Some(uid.into()), Some(version.into()));
        ConfigMap { metadata: ObjectMeta { name, uid, resource_version: version, ..Default::default() }, ..Default::default() }
    }

    #[test]
    fn handlers_see_each_change_once_and_recreation_as_two() {
        let informer = Informer::<ConfigMap>::idle();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.apply(map("early", "0", "1"));
        informer.on_change(move |change| {
            log.lock().push(match change {
                Change::Added(_) => "added",
                Change::Updated(..) => "updated",
                Change::Deleted(_) => "deleted",
            });
        });
        informer.apply(map("a", "1", "2"));
        informer.apply(map("a", "1", "2"));
        informer.apply(map("a", "1", "3"));
        informer.apply(map("a", "2", "5"));
        informer.delete("a");
        informer.delete("a");
        assert_eq!(*seen.lock(), ["added", "added", "updated", "deleted", "added", "deleted"]);
    }
}
