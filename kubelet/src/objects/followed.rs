//! Objects that pods show as files: one watch each, while a pod refers to it and as long as it can change.
//!
//! The first reader lists the object and starts its watch; later ones are answered from memory. A change wakes the pods that
//! refer to the object. While the watch is broken, a reader asks the server anew, and gets the last known state where that fails:
//! a pod may restart a container while the API server is away.
//!
//! Upstream: pkg/kubelet/util/manager/watch_based_manager.go

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ObjectError, message};

/// What can be followed.
pub trait Object:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
    /// Whether it never changes again.
    fn immutable(&self) -> bool;
}

impl Object for ConfigMap {
    fn immutable(&self) -> bool {
        self.immutable.unwrap_or(false)
    }
}

impl Object for Secret {
    fn immutable(&self) -> bool {
        self.immutable.unwrap_or(false)
    }
}

/// Wakes a pod, by uid.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// The followed objects of one kind.
pub struct Followed<K> {
    api: kube::Client,
    entries: Mutex<HashMap<String, Arc<Entry<K>>>>,
}

struct Entry<K> {
    namespace: String,
    name: String,
    /// Uids of the pods that refer to it.
    users: Mutex<HashSet<String>>,
    state: Mutex<State<K>>,
    /// One list at a time.
    turn: tokio::sync::Mutex<()>,
    /// Ends the watch with the entry.
    stop: CancellationToken,
    _guard: DropGuard,
}

struct State<K> {
    /// What is known: `Some(None)` is known to be absent.
    object: Option<Option<Arc<K>>>,
    /// Whether a watch keeps it true (or nothing can change it).
    live: bool,
    /// Whether a watch task runs.
    watched: bool,
}

impl<K: Object> Followed<K> {
    /// Nothing followed yet.
    pub fn new(api: kube::Client) -> Self {
        Self { api, entries: Mutex::default() }
    }

    /// An object for the pod `user`, which is woken by its changes from now on; `None` where it does not exist.
    ///
    /// # Errors
    /// The API server does not answer, and never did for this object.
    pub async fn get(&self, user: &str, namespace: &str, name: &str, wake: &Wake) -> Result<Option<Arc<K>>, ObjectError> {
        let entry = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(format!("{namespace}/{name}")).or_insert_with(|| Entry::new(namespace, name));
            entry.users.lock().insert(user.to_owned());
            entry.clone()
        };
        if let Some(object) = entry.live() {
            return Ok(object);
        }
        let _turn = entry.turn.lock().await;
        if let Some(object) = entry.live() {
            return Ok(object);
        }
        /// A reader does not wait longer for an API server that hangs, where an old state is at hand.
        const PATIENCE: Duration = Duration::from_secs(5);
        let listed = match tokio::time::timeout(PATIENCE, entry.list(&self.api)).await {
            Ok(listed) => listed,
            Err(_) => Err(ObjectError::Api("failed to sync cache: timed out waiting for the condition".into())),
        };
        match listed {
            Ok((object, version)) => {
                let start = {
                    let mut state = entry.state.lock();
                    state.object = Some(object.clone());
                    state.live = true;
                    let start = !state.watched && !object.as_ref().is_some_and(|object| object.immutable());
                    state.watched |= start;
                    start
                };
                if start {
                    let (api, weak, stop, wake) = (self.api.clone(), Arc::downgrade(&entry), entry.stop.clone(), wake.clone());
                    tokio::spawn(async move {
                        stop.run_until_cancelled(follow(api, weak, version, wake)).await;
                    });
                }
                Ok(object)
            }
            Err(error) => entry.state.lock().object.clone().ok_or(error),
        }
    }

    /// The pod refers to nothing any more; what nobody refers to is no longer watched.
    pub fn forget(&self, user: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut users = entry.users.lock();
            users.remove(user);
            !users.is_empty()
        });
    }
}

impl<K: Object> Entry<K> {
    fn new(namespace: &str, name: &str) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            users: Mutex::default(),
            state: Mutex::new(State { object: None, live: false, watched: false }),
            turn: tokio::sync::Mutex::default(),
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    fn live(&self) -> Option<Option<Arc<K>>> {
        let state = self.state.lock();
        if state.live { state.object.clone() } else { None }
    }

    fn fields(&self) -> String {
        format!("metadata.name={}", self.name)
    }

    async fn list(&self, api: &kube::Client) -> Result<(Option<Arc<K>>, String), ObjectError> {
        let api = Api::<K>::namespaced(api.clone(), &self.namespace);
        let list = api.list(&ListParams::default().fields(&self.fields())).await;
        let list = list.map_err(|error| ObjectError::Api(message(&error)))?;
        let version = list.metadata.resource_version.unwrap_or_default();
        Ok((list.items.into_iter().next().map(slim), version))
    }

    /// Notes the newest state; whether it differs from what was known.
    fn put(&self, object: Option<Arc<K>>) -> bool {
        let version = |object: &Option<Arc<K>>| {
            object.as_ref().map(|object| (object.meta().uid.clone(), object.meta().resource_version.clone()))
        };
        let mut state = self.state.lock();
        let same = state.object.as_ref().is_some_and(|old| version(old) == version(&object));
        state.object = Some(object);
        state.live = true;
        !same
    }

    fn wake_users(&self, wake: &Wake) {
        let users: Vec<String> = self.users.lock().iter().cloned().collect();
        users.iter().for_each(|uid| wake(uid));
    }
}

/// Managed fields are nothing to a pod.
fn slim<K: Object>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}

/// What a stretch of watching ended with.
enum End {
    /// The server closed the stream: go on from the same place.
    Closed,
    /// The place is too old, or the server is away: list again.
    Lost,
    /// It cannot change any more, or nobody needs it.
    Done,
}

async fn follow<K: Object>(api: kube::Client, entry: Weak<Entry<K>>, mut version: String, wake: Wake) {
    let mut failures = 0_u32;
    loop {
        match watch(&api, &entry, &mut version, &wake, &mut failures).await {
            End::Closed => continue,
            End::Done => return,
            End::Lost => {}
        }
        if let Some(entry) = entry.upgrade() {
            entry.state.lock().live = false;
        }
        loop {
            // 200 ms, 400 ms … 25 s, not all objects at once.
            let pause = Duration::from_millis(200 << failures.min(7));
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            let Some(entry) = entry.upgrade() else { return };
            match entry.list(&api).await {
                Ok((object, at)) => {
                    version = at;
                    if entry.put(object) {
                        entry.wake_users(&wake);
                    }
                    break;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(namespace = entry.namespace, name = entry.name, err = %error, "Failed to read a followed object");
                }
            }
        }
    }
}

async fn watch<K: Object>(
    api: &kube::Client,
    entry: &Weak<Entry<K>>,
    version: &mut String,
    wake: &Wake,
    failures: &mut u32,
) -> End {
    let (namespace, fields) = match entry.upgrade() {
        Some(entry) => (entry.namespace.clone(), entry.fields()),
        None => return End::Done,
    };
    let api = Api::<K>::namespaced(api.clone(), &namespace);
    let stream = match api.watch(&WatchParams::default().fields(&fields), version).await {
        Ok(stream) => stream,
        Err(_) => {
            *failures = failures.saturating_add(1);
            return End::Lost;
        }
    };
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let Some(entry) = entry.upgrade() else { return End::Done };
        let object = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                *version = object.meta().resource_version.clone().unwrap_or_default();
                Some(slim(object))
            }
            Ok(WatchEvent::Deleted(object)) => {
                *version = object.meta().resource_version.clone().unwrap_or_default();
                None
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *version = bookmark.metadata.resource_version;
                continue;
            }
            Ok(WatchEvent::Error(_)) | Err(_) => {
                *failures = failures.saturating_add(1);
                return End::Lost;
            }
        };
        *failures = 0;
        let done = object.as_ref().is_some_and(|object| object.immutable());
        if entry.put(object) {
            entry.wake_users(wake);
        }
        if done {
            entry.state.lock().watched = false;
            return End::Done;
        }
    }
    // A server that closes at once is not asked in a circle.
    tokio::time::sleep(Duration::from_millis(100)).await;
    End::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: &str) -> Option<Arc<ConfigMap>> {
        let mut map = ConfigMap::default();
        map.metadata.resource_version = Some(version.to_owned());
        Some(Arc::new(map))
    }

    #[test]
    fn only_changes_wake_the_pods_that_refer_to_the_object() {
        let entry = Entry::<ConfigMap>::new("ns", "a");
        entry.users.lock().extend(["1".to_owned(), "2".to_owned()]);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let log = woken.clone();
        let wake: Wake = Arc::new(move |uid| log.lock().push(uid.to_owned()));
        for (object, changed) in [(map("1"), true), (map("1"), false), (map("2"), true), (None, true), (None, false)] {
            assert_eq!(entry.put(object.clone()), changed, "{object:?}");
        }
        assert_eq!(entry.live(), Some(None), "known to be absent");
        entry.state.lock().live = false;
        assert_eq!(entry.live(), None, "a broken watch vouches for nothing");
        entry.wake_users(&wake);
        woken.lock().sort();
        assert_eq!(*woken.lock(), ["1", "2"]);
    }

    #[test]
    fn the_watch_ends_with_the_last_reference() {
        let entry = Entry::<ConfigMap>::new("ns", "a");
        let stop = entry.stop.clone();
        assert!(!stop.is_cancelled());
        drop(entry);
        assert!(stop.is_cancelled());
    }
}
