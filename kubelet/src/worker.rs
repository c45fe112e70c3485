//! One task per pod: observes, decides, applies, until the pod is gone.
//!
//! A worker holds no state that matters: after a restart it finds everything in the runtime, on disk and in the API. It goes through
//! three stages: run (make the runtime match the definition), terminate (stop everything), clean (give back what the pod had).
//!
//! Upstream: pkg/kubelet/pod_workers.go, pkg/kubelet/kubelet.go SyncPod, SyncTerminatingPod, SyncTerminatedPod

pub mod admission;
pub mod fit;
pub mod resize;
pub mod sync;
pub mod terminate;
mod timing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::kubelet::Shared;
use crate::pod;
use crate::runtime::observed::PodRuntime;
use crate::status::StartErrors;

/// All workers.
pub struct Workers {
    handles: RwLock<HashMap<String, Arc<Handle>>>,
    /// Waits of crashing containers.
    pub crash_backoff: Backoff,
}

/// What others see of a worker and tell it.
pub struct Handle {
    /// The pod's uid.
    pub uid: String,
    request: Mutex<Request>,
    /// For the loop: remembers one poke.
    wake: Notify,
    /// For those who watch the request while the loop is at work.
    changed: Notify,
    /// The node took it; from then on it counts for others.
    admitted: AtomicBool,
    view: RwLock<View>,
}

/// What a worker is to do.
#[derive(Clone)]
pub struct Request {
    /// The newest definition.
    pub pod: Arc<Pod>,
    /// The kubelet ends the pod: reason and message of its status.
    pub verdict: Option<(String, String)>,
    /// Grace period in place of the pod's own, seconds.
    pub grace: Option<i64>,
    /// No source has the pod any more.
    pub removed: bool,
    /// A definition that arrived while the pod of the same uid was on its way out.
    pub again: Option<Arc<Pod>>,
    /// When the pod was first seen.
    pub seen: Instant,
}

impl Request {
    fn terminating(&self) -> bool {
        self.removed || self.verdict.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds between SIGTERM and SIGKILL.
    pub fn grace_seconds(&self) -> i64 {
        self.grace.unwrap_or_else(|| pod::grace_period_seconds(&self.pod)).max(0)
    }
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// Makes the pod run.
    Run,
    /// Stops it.
    Terminate,
    /// Gives back what it had.
    Clean,
    /// Nothing more to do until the pod is removed.
    Finished,
}

/// What a worker last saw.
#[derive(Clone)]
pub struct View {
    /// What the runtime has.
    pub runtime: Arc<PodRuntime>,
    /// What was told.
    pub status: Arc<PodStatus>,
    /// Where the worker is.
    pub stage: Stage,
    /// The pod with the resources that this node has given it; `None` before the first look.
    pub allocated: Option<Arc<Pod>>,
}

impl Handle {
    /// What the worker last saw.
    pub fn view(&self) -> View {
        self.view.read().clone()
    }

    /// The pod with the resources that this node has given it: what counts against the node.
    pub fn allocated(&self) -> Arc<Pod> {
        let allocated = self.view.read().allocated.clone();
        allocated.unwrap_or_else(|| self.request.lock().pod.clone())
    }

    /// What it is to do.
    pub fn request(&self) -> Request {
        self.request.lock().clone()
    }

    /// Makes it look again.
    pub fn poke(&self) {
        self.wake.notify_one();
        self.changed.notify_waiters();
    }

    /// Completes when the request is as `holds` says.
    async fn until(&self, holds: impl Fn(&Request) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds(&self.request.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl Workers {
    /// No pods yet. `max_crash_wait`: the longest wait between restarts.
    pub fn new(max_crash_wait: Duration) -> Self {
        Self { handles: RwLock::default(), crash_backoff: Backoff::new(max_crash_wait) }
    }

    /// A pod's worker.
    pub fn get(&self, uid: &str) -> Option<Arc<Handle>> {
        self.handles.read().get(uid).cloned()
    }

    /// All workers.
    pub fn list(&self) -> Vec<Arc<Handle>> {
        self.handles.read().values().cloned().collect()
    }

    /// Makes a pod's worker look again.
    pub fn poke(&self, uid: &str) {
        if let Some(handle) = self.get(uid) {
            handle.poke();
        }
    }

    /// The pod's primary address, as last seen.
    pub fn pod_ip(&self, uid: &str) -> Option<String> {
        let handle = self.get(uid)?;
        let view = handle.view();
        view.runtime.ips().first().cloned().or_else(|| view.status.pod_ip.clone())
    }

    /// Gives a definition to the pod's worker, which is started where there is none.
    pub fn update(&self, kubelet: &Shared, pod: Arc<Pod>) {
        self.put(kubelet, pod, false);
    }

    fn put(&self, kubelet: &Shared, pod: Arc<Pod>, again: bool) {
        let uid = pod::uid(&pod).to_owned();
        let mut handles = self.handles.write();
        if let Some(handle) = handles.get(&uid) {
            let mut request = handle.request.lock();
            if request.removed {
                request.again = Some(pod);
            } else {
                request.pod = pod;
            }
            drop(request);
            handle.poke();
            return;
        }
        let told = pod.status.clone().unwrap_or_default();
        let handle = Arc::new(Handle {
            uid: uid.clone(),
            request: Mutex::new(Request { pod, verdict: None, grace: None, removed: false, again: None, seen: Instant::now() }),
            wake: Notify::new(),
            changed: Notify::new(),
            admitted: AtomicBool::new(false),
            view: RwLock::new(View { runtime: Arc::default(), status: Arc::new(told), stage: Stage::Run, allocated: None }),
        });
        handles.insert(uid, handle.clone());
        drop(handles);
        // A pod that is new since the first look at the runtime has nothing there.
        let fresh = kubelet.node.known_at_start.get().is_some_and(|known| !known.contains(&handle.uid)) && !again;
        let worker = Worker {
            timing: timing::Timing::new(fresh),
            kubelet: kubelet.clone(),
            handle,
            errors: StartErrors::new(),
            due: HashMap::new(),
            generation: None,
            resize: resize::Resize::default(),
            failures: 0,
            admitted: false,
            cgroup_done: false,
            fresh,
        };
        kubelet.tasks.spawn("pod", async move {
            let stop = worker.kubelet.tasks.token();
            stop.run_until_cancelled(worker.run()).await;
        });
    }

    /// Tells that no source has the pod any more; `last` is its last state, which may hold a shorter grace period.
    pub fn remove(&self, uid: &str, last: Option<&Arc<Pod>>) {
        if let Some(handle) = self.get(uid) {
            {
                let mut request = handle.request.lock();
                request.removed = true;
                if let Some(last) = last.filter(|last| last.metadata.deletion_timestamp.is_some()) {
                    request.pod = last.clone();
                }
            }
            handle.poke();
        }
    }

    /// Ends a pod for the kubelet's own reasons; its status tells why.
    pub fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>) {
        if let Some(handle) = self.get(uid) {
            {
                let mut request = handle.request.lock();
                request.verdict.get_or_insert((reason.to_owned(), message.to_owned()));
                request.grace = grace.or(request.grace);
            }
            handle.poke();
        }
    }

    /// Whether a static pod of this name, under another uid, has not ended yet.
    pub fn name_taken(&self, full_name: &str, uid: &str) -> bool {
        self.handles.read().values().any(|handle| {
            handle.uid != uid && {
                let request = handle.request.lock();
                pod::is_static(&request.pod)
                    && pod::full_name(&request.pod) == full_name
                    && handle.view.read().stage != Stage::Finished
                    && request.removed
            }
        })
    }

    fn forget(&self, uid: &str) {
        self.handles.write().remove(uid);
        // Static pods of the same name may wait for this end.
        for handle in self.handles.read().values() {
            if pod::is_static(&handle.request.lock().pod) {
                handle.poke();
            }
        }
    }
}

/// The worker itself.
pub struct Worker {
    timing: timing::Timing,
    kubelet: Shared,
    handle: Arc<Handle>,
    errors: StartErrors,
    /// Before when a container that did not start is not tried again.
    due: HashMap<String, Instant>,
    /// The definition that was last worked on: a changed one is tried at once.
    generation: Option<i64>,
    resize: resize::Resize,
    failures: u32,
    admitted: bool,
    cgroup_done: bool,
    /// Nothing was ever asked of the runtime for this pod.
    fresh: bool,
}

/// When to look again, unless poked.
enum Next {
    /// At once.
    Now,
    /// After a while.
    After(Duration),
}

impl Worker {
    async fn run(mut self) {
        loop {
            let request = self.handle.request();
            let stage = self.handle.view.read().stage;
            let next = match stage {
                Stage::Run if request.terminating() => {
                    self.enter(Stage::Terminate);
                    Next::Now
                }
                Stage::Run => {
                    let handle = self.handle.clone();
                    let began = Instant::now();
                    let next = tokio::select! {
                        biased;
                        () = handle.until(Request::terminating) => Next::Now,
                        next = self.sync(&request) => next,
                    };
                    self.timing.synced(&request, &self.handle.view(), began);
                    next
                }
                Stage::Terminate => {
                    self.kubelet.probes.stop_killers(&self.handle.uid);
                    let handle = self.handle.clone();
                    let grace = request.grace_seconds();
                    tokio::select! {
                        next = self.terminate(&request) => next,
                        () = handle.until(|request| request.grace_seconds() < grace) => Next::Now,
                    }
                }
                Stage::Clean => self.clean(&request).await,
                Stage::Finished if request.removed => {
                    self.dispose(&request).await;
                    let again = self.handle.request.lock().again.take();
                    self.kubelet.workers.forget(&self.handle.uid);
                    if let Some(pod) = again {
                        self.kubelet.workers.put(&self.kubelet, pod, true);
                    }
                    return;
                }
                Stage::Finished => Next::After(Duration::from_secs(600)),
            };
            if let Next::After(wait) = next {
                tokio::select! {
                    () = self.handle.wake.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }

    fn enter(&self, stage: Stage) {
        self.handle.view.write().stage = stage;
    }

    /// The wait before trying again what failed: from 300 ms, doubling to 10 s.
    fn failed(&mut self) -> Next {
        self.failures = (self.failures + 1).min(6);
        Next::After(Duration::from_millis(150 << self.failures).min(Duration::from_secs(10)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
