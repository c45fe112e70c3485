//! The last stages: stops a pod, tells its end, gives back what it had.

use std::sync::Arc;
use std::time::Duration;

use client::events::Kind;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Next, Request, Stage, Worker};
use crate::containers::{self, Stop};
use crate::pod::{self, init_containers, is_sidecar};
use crate::runtime::observed::{ContainerRecord, PodRuntime, State};
use crate::volume;

impl Worker {
    pub(super) async fn terminate(&mut self, request: &Request) -> Next {
        let pod = &self.handle.view.read().allocated.clone().unwrap_or_else(|| request.pod.clone());
        let runtime = match self.observe().await {
            Ok(runtime) => runtime,
            Err(status) => {
                tracing::debug!(pod = pod::log_name(pod), err = %status, "Failed to ask the runtime");
                return self.failed();
            }
        };
        let verdict = request.verdict.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str()));
        // While containers still stop, the status says what they do; the phase does not jump ahead.
        self.publish(pod, &runtime, false, None);
        let grace = Duration::from_secs(u64::try_from(request.grace_seconds()).unwrap_or(0));
        if let Err(error) = self.kill_pod(Some(pod), &runtime, grace).await {
            self.kubelet.event(pod, Kind::Warning, "FailedKillPod", format!("error killing pod: {error}"));
            return self.failed();
        }
        let runtime = match self.observe().await {
            Ok(runtime) => runtime,
            Err(_) => return self.failed(),
        };
        if runtime.running().next().is_some() || runtime.sandboxes.iter().any(|sandbox| sandbox.ready) {
            return self.failed();
        }
        self.kubelet.probes.forget(&self.handle.uid);
        self.publish(pod, &runtime, true, verdict);
        self.failures = 0;
        self.enter(Stage::Clean);
        Next::Now
    }

    /// Stops everything of a pod: containers together, then sidecars from the last to the first, then the sandboxes.
    pub(super) async fn kill_pod(&self, pod: Option<&Arc<Pod>>, runtime: &PodRuntime, grace: Duration) -> crate::cri::Result<()> {
        let ip = runtime.ips().first().cloned().unwrap_or_default();
        let sidecars: Vec<&str> = pod
            .map(|pod| {
                init_containers(pod)
                    .iter()
                    .filter(|container| is_sidecar(container))
                    .map(|container| container.name.as_str())
                    .collect()
            })
            .unwrap_or_default();
        let (late, early): (Vec<&ContainerRecord>, Vec<&ContainerRecord>) = runtime
            .containers
            .iter()
            .filter(|record| record.state != State::Exited)
            .partition(|record| sidecars.contains(&record.name()));
        let began = Instant::now();
        let stop = |record: &ContainerRecord, grace: Duration| {
            let (kubelet, ip, message, record) =
                (&self.kubelet, &ip, format!("Stopping container {}", record.name()), record.clone());
            async move {
                let how = Stop { message: &message, grace, pod: pod.map(|pod| &**pod), ip };
                containers::stop(kubelet, &record, &how).await
            }
        };
        futures::future::join_all(early.into_iter().map(|record| stop(record, grace)))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        for name in sidecars.iter().rev() {
            for record in late.iter().filter(|record| record.name() == *name) {
                stop(record, grace.saturating_sub(began.elapsed())).await?;
            }
        }
        let stops = runtime
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready || Some(&sandbox.id) == runtime.sandbox().map(|newest| &newest.id));
        futures::future::join_all(stops.map(|sandbox| self.kubelet.cri.stop_pod_sandbox(&sandbox.id)))
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        Ok(())
    }

    /// Gives back volumes and cgroups; the log files and the dead containers stay until the pod is removed.
    pub(super) async fn clean(&mut self, request: &Request) -> Next {
        let (kubelet, uid) = (self.kubelet.clone(), self.handle.uid.clone());
        if let Err(why) = crate::csi::unmount::pod(&kubelet, &uid).await {
            if self.failures == 0 {
                kubelet.event(&request.pod, Kind::Warning, "FailedUnMount", why.clone());
            }
            tracing::debug!(pod = pod::log_name(&request.pod), err = why, "Failed to take a volume back; trying again");
            return self.failed();
        }
        let result = tokio::task::spawn_blocking({
            let (kubelet, uid) = (kubelet.clone(), uid.clone());
            move || {
                let dir = kubelet.config.pod_dir(&uid);
                volume::mount::unmount_below(&dir)?;
                // The files of last words are read from here until the end.
                for part in ["volumes", "volume-subpaths"] {
                    volume::tear_down(&dir.join(part))?;
                }
                kubelet.cgroups.remove_pod(&uid)
            }
        })
        .await;
        if let Err(error) = result.map_err(std::io::Error::other).and_then(|inner| inner) {
            tracing::warn!(pod = pod::log_name(&request.pod), err = %error, "Failed to clean up after pod; trying again");
            return self.failed();
        }
        kubelet.allocation.release(&kubelet, &uid).await;
        kubelet.objects.forget(&uid);
        kubelet.images.forget(&uid);
        kubelet.workers.crash_backoff.forget(&uid);
        crate::node::update_burstable(&kubelet);
        self.enter(Stage::Finished);
        kubelet.status.finish(&request.pod);
        // A static pod of the same name may wait for this.
        for handle in kubelet.workers.list() {
            if pod::is_static(&handle.request().pod) {
                handle.poke();
            }
        }
        Next::Now
    }

    /// Removes what is left: containers, sandboxes, logs, directories.
    pub(super) async fn dispose(&self, request: &Request) {
        let kubelet = &self.kubelet;
        if let Ok(runtime) = self.observe().await {
            for record in &runtime.containers {
                crate::logs::remove_container(kubelet, Some(&request.pod), record).await;
            }
            for sandbox in &runtime.sandboxes {
                if let Err(status) = kubelet.cri.stop_pod_sandbox(&sandbox.id).await {
                    tracing::debug!(err = %status, "Failed to stop sandbox");
                }
                if let Err(status) = kubelet.cri.remove_pod_sandbox(&sandbox.id).await {
                    tracing::warn!(pod = pod::log_name(&request.pod), err = %status, "Failed to remove sandbox");
                }
            }
        }
        let _ = std::fs::remove_dir_all(kubelet.log_directory(&request.pod));
        if let Err(error) = volume::tear_down(&kubelet.config.pod_dir(&self.handle.uid)) {
            tracing::warn!(pod = pod::log_name(&request.pod), err = %error, "Failed to remove pod directory");
        }
        kubelet.status.forget(&self.handle.uid);
    }
}
