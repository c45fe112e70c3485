//! The watch cache: every object of the cluster in memory, complete up to a known revision, fed by one watch on etcd.
//!
//! See README.md of this crate for the theory.

pub mod entry;
pub mod extract;
mod facts;
pub mod feed;
pub mod filter;
mod lister;
pub mod resource;
pub mod unreadable;
pub mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch as latest};

use crate::storage::{Error, Storage};
use resource::{ResourceCache, Snapshot};

/// How long a read waits for the cache to reach a revision. Upstream: blockTimeout, 3 s.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long the stream may stay behind before a key is written to move it on, see [`Storage::touch`].
const TOUCH_AFTER: Duration = Duration::from_millis(15);

/// All resource caches and how far they have come.
pub struct Caches {
    /// etcd.
    pub storage: Storage,
    by_path: ArcSwap<HashMap<String, Arc<ResourceCache>>>,
    /// The revision that all caches have passed; 0 before the first load.
    progress: latest::Sender<u64>,
    /// Set when etcd was seen at an older revision than the caches.
    rewound: Notify,
    touching: tokio::sync::Mutex<()>,
    by_resource: ArcSwap<HashMap<(String, String), lister::Known>>,
    /// Resources that lie in other etcds.
    others: Vec<Arc<Caches>>,
}

impl Caches {
    /// Empty caches for the given resources.
    pub fn new(storage: Storage, resources: impl IntoIterator<Item = ResourceCache>, others: Vec<Arc<Self>>) -> Arc<Self> {
        let by_path = resources.into_iter().map(|cache| (cache.path.clone(), Arc::new(cache))).collect();
        Arc::new(Self {
            storage,
            by_path: ArcSwap::from_pointee(by_path),
            progress: latest::Sender::new(0),
            rewound: Notify::new(),
            touching: tokio::sync::Mutex::default(),
            by_resource: ArcSwap::default(),
            others,
        })
    }

    /// The cache of the objects below this path.
    pub fn by_path(&self, path: &str) -> Option<Arc<ResourceCache>> {
        self.by_path.load().get(path).cloned().or_else(|| self.others.iter().find_map(|other| other.by_path(path)))
    }

    /// The caches of the etcd that holds the objects below this path: these, or others.
    pub fn home(self: &Arc<Self>, path: &str) -> Arc<Self> {
        self.others.iter().find(|other| other.by_path.load().contains_key(path)).unwrap_or(self).clone()
    }

    /// These and all others.
    pub fn homes(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::once(self).chain(&self.others)
    }

    /// All caches.
    pub fn all(&self) -> Vec<Arc<ResourceCache>> {
        self.by_path.load().values().cloned().chain(self.others.iter().flat_map(|other| other.all())).collect()
    }

    /// The revision that all caches have passed.
    pub fn revision(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Completes once the caches were loaded the first time.
    pub async fn loaded(&self) {
        for caches in std::iter::once(self).chain(self.others.iter().map(AsRef::as_ref)) {
            let _ = caches.progress.subscribe().wait_for(|revision| *revision > 0).await;
        }
    }

    /// Waits until the caches hold everything that was written before the call.
    ///
    /// # Errors
    /// etcd or the stream do not answer in time.
    pub async fn fresh(&self) -> Result<u64, Status> {
        let before = self.revision();
        let revision = self.storage.current_revision().await.map_err(unavailable)?;
        if revision < before {
            // etcd was restored from an older state: what the caches hold is no longer true.
            self.rewound.notify_one();
            return Err(Status::new(504, "Timeout", "etcd went back to an older revision, the cache is being rebuilt"));
        }
        let mut progress = self.progress.subscribe();
        if *progress.borrow() >= revision {
            return Ok(revision);
        }
        let behind = |progress: &mut latest::Receiver<u64>, wait: Duration| {
            let mut progress = progress.clone();
            async move { tokio::time::timeout(wait, progress.wait_for(|have| *have >= revision)).await.is_err() }
        };
        if behind(&mut progress, TOUCH_AFTER).await {
            {
                let _one = self.touching.lock().await;
                if self.revision() < revision {
                    let touched = self.storage.touch().await;
                    if touched.is_err() && behind(&mut progress, CATCH_UP).await {
                        return Err(too_late(revision, self.revision()));
                    }
                    if touched.is_ok() {
                        // Let those who wait for the lock find the progress made.
                        let _ = behind(&mut progress, CATCH_UP).await;
                    }
                }
            }
            if behind(&mut progress, CATCH_UP).await {
                return Err(too_late(revision, self.revision()));
            }
        }
        Ok(revision)
    }

    /// Waits until the caches have reached `revision`, which a client names.
    ///
    /// # Errors
    /// "Too large resource version", as upstream, where they do not in time.
    pub async fn reach(&self, revision: u64) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        // The stream may be behind only because of keys outside the prefix.
        if self.storage.current_revision().await.is_ok_and(|current| current >= revision) {
            return self.fresh().await.map(|_| ());
        }
        let mut progress = self.progress.subscribe();
        match tokio::time::timeout(CATCH_UP, progress.wait_for(|have| *have >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(too_late(revision, self.revision())),
        }
    }

    /// Waits for the first load (or, after a restore of etcd, for the next).
    ///
    /// # Errors
    /// 429 where it takes too long, as upstream while its storage initializes.
    pub async fn ready(&self) -> Result<(), Status> {
        if self.revision() > 0 {
            return Ok(());
        }
        match tokio::time::timeout(CATCH_UP, self.loaded()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Status::too_many_requests("storage is (re)initializing", 1)),
        }
    }

    /// The resource as it is now, with a revision at which that is exactly so.
    pub fn snapshot(&self, cache: &ResourceCache) -> Snapshot {
        cache.snapshot(self.revision())
    }
}

fn too_late(wanted: u64, have: u64) -> Status {
    Status::new(504, "Timeout", format!("Timeout: Too large resource version: {wanted}, current: {have}")).with_details(
        serde_json::json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }),
    )
}

/// The status of a failed call to etcd.
pub fn unavailable(error: Error) -> Status {
    match error {
        Error::Compacted => Status::expired("The resourceVersion for the provided list is too old."),
        Error::Unavailable(why) if why.contains("timed out") => {
            Status::new(504, "Timeout", "etcdserver: request timed out").with_details(serde_json::json!({"retryAfterSeconds": 1}))
        }
        // Upstream passes etcd's words on as they are: a full database is told by them.
        Error::Refused(why) => Status::new(500, "", why),
        other => Status::internal(other),
    }
}
