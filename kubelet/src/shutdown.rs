//! Ends pods in order when the machine is told to shut down, while it waits for us.
//!
//! On where `shutdownGracePeriod` or `shutdownGracePeriodByPodPriority` is set and the machine has logind.
//! Upstream: pkg/kubelet/nodeshutdown

pub mod logind;
pub mod plan;

use std::sync::atomic::Ordering;
use std::time::Duration;

use client::events::Kind;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::kubelet::Shared;
use crate::metrics::metrics;
use crate::pod;
use crate::worker::Stage;
use plan::{Group, Line};

/// Why pods end and new ones are refused, in upstream's words.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// For pods that come while the node goes down: reason and message.
pub const REFUSED: (&str, &str) = ("NodeShutdown", "Pod was rejected as the node is shutting down.");
/// What makes the node not ready meanwhile.
pub const NOT_READY: &str = "node is shutting down";

/// Who tells of shutdowns and can delay them.
pub trait Bus: Send {
    /// Delays a shutdown while it is held.
    type Lock: Send;

    /// Takes the lock.
    fn inhibit(&mut self) -> impl Future<Output = Result<Self::Lock, String>> + Send;

    /// Waits for the next word: a shutdown begins, or was called off. `None`: nobody tells any more.
    fn next(&mut self) -> impl Future<Output = Option<bool>> + Send;
}

/// Waits for shutdowns until the tasks stop.
pub async fn run(kubelet: Shared, lines: Vec<Line>) {
    if lines.is_empty() {
        return;
    }
    loop {
        match logind::Logind::connect(u64::try_from(plan::total(&lines)).unwrap_or(0)).await {
            Ok(mut bus) => {
                if let Err(why) = follow(&kubelet, &mut bus, &lines).await {
                    tracing::warn!(err = why, "Failed to watch for shutdowns");
                }
            }
            Err(why) => tracing::warn!(err = why, "Graceful node shutdown needs systemd-logind"),
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Follows a bus until it ends.
///
/// # Errors
/// It gives no lock.
pub async fn follow<B: Bus>(kubelet: &Shared, bus: &mut B, lines: &[Line]) -> Result<(), String> {
    let mut lock = Some(bus.inhibit().await?);
    while let Some(begins) = bus.next().await {
        kubelet.node.shutting_down.store(begins, Ordering::Release);
        kubelet.node.status_soon.notify_one();
        if begins {
            tracing::info!("Shutdown manager detected new shutdown event, processing");
            kubelet.node_event(Kind::Normal, "Shutdown", "Shutdown manager detected shutdown event");
            end_pods(kubelet, lines).await;
            // The machine goes on.
            drop(lock.take());
        } else {
            kubelet.node_event(Kind::Normal, "Shutdown", "Shutdown manager detected shutdown cancellation");
            if lock.is_none() {
                lock = Some(bus.inhibit().await?);
            }
        }
    }
    Ok(())
}

async fn end_pods(kubelet: &Shared, lines: &[Line]) {
    metrics().shutdown_start.set(Timestamp::now().as_second() as f64);
    let handles = kubelet.workers.list();
    let active = handles.iter().filter(|handle| handle.view().stage < Stage::Clean);
    for Group { seconds, pods } in plan::groups(lines, active.map(|handle| handle.request().pod).collect()) {
        if pods.is_empty() {
            continue;
        }
        for (pod, grace) in &pods {
            kubelet.workers.evict(pod::uid(pod), REASON, MESSAGE, Some(*grace));
        }
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let gone = |uid: &str| kubelet.workers.get(uid).is_none_or(|handle| handle.view().stage >= Stage::Clean);
        while Instant::now() < deadline && !pods.iter().all(|(pod, _)| gone(pod::uid(pod))) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    metrics().shutdown_end.set(Timestamp::now().as_second() as f64);
    let state = serde_json::json!({
        "startTime": metrics().shutdown_start.get(), "endTime": metrics().shutdown_end.get(),
    });
    crate::allocation::checkpoint::save(&kubelet.config.root_dir.join("graceful_node_shutdown_state"), &state);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use component::tasks::Tasks;
    use parking_lot::Mutex;

    use super::*;
    use crate::fake_cri::Fake;
    use crate::worker::tests::{manifest, phase, start_with, wait_for};

    /// Says what it is told to, and notes when its lock is let go.
    struct FakeBus {
        words: VecDeque<bool>,
        log: Arc<Mutex<Vec<&'static str>>>,
    }

    struct FakeLock(Arc<Mutex<Vec<&'static str>>>);

    impl Drop for FakeLock {
        fn drop(&mut self) {
            self.0.lock().push("released");
        }
    }

    impl Bus for FakeBus {
        type Lock = FakeLock;

        async fn inhibit(&mut self) -> Result<FakeLock, String> {
            self.log.lock().push("held");
            Ok(FakeLock(self.log.clone()))
        }

        async fn next(&mut self) -> Option<bool> {
            self.words.pop_front()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pods_end_before_the_machine_does_and_new_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::default();
        fake.serve(&dir.path().join("cri.sock"));
        manifest(dir.path(), "{containers: [{name: a, image: 'x:1'}]}");
        let tasks = Tasks::new();
        let kubelet = start_with(dir.path(), &tasks, "").await;
        wait_for("running", || phase(&kubelet) == "Running").await;
        let log = Arc::new(Mutex::default());
        let mut bus = FakeBus { words: [true].into(), log: log.clone() };
        let lines = [Line { priority: 0, shutdown_grace_period_seconds: 30 }];
        follow(&kubelet, &mut bus, &lines).await.unwrap();
        assert_eq!(*log.lock(), ["held", "released"]);
        assert!(fake.calls().contains(&"stop a".to_owned()), "{:?}", fake.calls());
        wait_for("failed", || phase(&kubelet) == "Failed").await;
        let pod = kubelet.pods.list().remove(0);
        let status = kubelet.status.get(pod::uid(&pod)).unwrap();
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some(REASON), Some(MESSAGE)));
        assert_eq!(crate::worker::admission::admit(&kubelet, &pod).unwrap_err().reason, REFUSED.0);

        let mut bus = FakeBus { words: [false].into(), log };
        follow(&kubelet, &mut bus, &lines).await.unwrap();
        assert!(crate::worker::admission::admit(&kubelet, &pod).is_ok(), "called off");
        tasks.stop_and_wait(Duration::from_secs(5)).await;
    }
}
