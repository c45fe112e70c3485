//! One line about a pod: how many containers are ready, what state it is in, how often it restarted.
//!
//! Upstream: printPod in pkg/printers/internalversion/printers.go

use serde_json::Value;

use crate::column::{human_duration, unix};
use crate::tree::Tree;

/// The three cells that depend on all containers.
pub(super) struct Summary {
    pub(super) ready: String,
    pub(super) status: String,
    pub(super) restarts: String,
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container.int("restartCount").unwrap_or(0);
        self.last = self.last.max(unix(container.path("lastState.terminated.finishedAt")));
    }
}

pub(super) fn summary(pod: &Value, now: i64) -> Summary {
    let (spec, status) = (pod.at("spec"), pod.at("status"));
    let init = spec.items("initContainers");
    let sidecar = |name: &str| init.iter().any(|c| c.text("name") == name && c.text("restartPolicy") == "Always");
    let condition = |kind: &str| status.items("conditions").iter().find(|c| c.text("type") == kind);

    let mut reason = match status.text("reason") {
        "" => status.text("phase"),
        reason => reason,
    }
    .to_owned();
    if condition("PodScheduled").is_some_and(|c| c.text("reason") == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }

    let total = spec.len_of("containers") + init.iter().filter(|c| c.text("restartPolicy") == "Always").count();
    let mut ready = 0;
    let (mut all, mut sidecars) = (Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (index, container) in status.items("initContainerStatuses").iter().enumerate() {
        all.add(container);
        let restartable = sidecar(container.text("name"));
        if restartable {
            sidecars.add(container);
        }
        let state = container.at("state");
        let (terminated, waiting) = (state.at("terminated"), state.at("waiting"));
        if !terminated.is_null() && terminated.int("exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if restartable && container.truth("started") {
            ready += usize::from(container.truth("ready"));
            continue;
        }
        reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !matches!(waiting.text("reason"), "" | "PodInitializing") {
            format!("Init:{}", waiting.text("reason"))
        } else {
            format!("Init:{index}/{}", init.len())
        };
        initializing = true;
        break;
    }

    if !initializing || condition("Initialized").is_some_and(|c| c.text("status") == "True") {
        all = sidecars;
        let mut running = false;
        for container in status.items("containerStatuses").iter().rev() {
            all.add(container);
            let state = container.at("state");
            let (terminated, waiting) = (state.at("terminated"), state.at("waiting"));
            if !waiting.text("reason").is_empty() {
                reason = waiting.text("reason").to_owned();
            } else if !terminated.is_null() {
                reason = ended(terminated);
            } else if container.truth("ready") && !state.at("running").is_null() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = condition("Ready").is_some_and(|c| c.text("status") == "True");
            reason = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if pod.at("metadata").has("deletionTimestamp") {
        if status.text("reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(status.text("phase"), "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }

    let restarts = match all.last {
        Some(last) if all.count != 0 => format!("{} ({} ago)", all.count, human_duration(now - last)),
        _ => all.count.to_string(),
    };
    Summary { ready: format!("{ready}/{total}"), status: reason, restarts }
}

fn ended(terminated: &Value) -> String {
    let signal = terminated.int("signal").unwrap_or(0);
    match terminated.text("reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", terminated.int("exitCode").unwrap_or(0)),
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells(pod: &Value) -> (String, String, String) {
        let now = unix(&"2026-01-01T00:10:00Z".into()).unwrap();
        let summary = summary(pod, now);
        (summary.ready, summary.status, summary.restarts)
    }

    fn expect(pod: Value, ready: &str, status: &str, restarts: &str) {
        assert_eq!(cells(&pod), (ready.to_owned(), status.to_owned(), restarts.to_owned()), "{pod}");
    }

    #[test]
    fn the_status_tells_the_worst_of_the_containers() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        expect(json!({"spec": spec, "status": {"phase": "Pending"}}), "0/3", "Pending", "0");
        expect(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
            "0/3",
            "Init:0/2",
            "0",
        );
        expect(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]}}),
            "0/3",
            "Init:CrashLoopBackOff",
            "2 (5m ago)",
        );
        let done = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "s", "started": true, "ready": true, "state": {"running": {}}}]);
        expect(
            json!({"spec": spec, "status": {"phase": "Running", "initContainerStatuses": done, "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "restartCount": 1, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}),
            "2/3",
            "ImagePullBackOff",
            "1",
        );
        expect(
            json!({"metadata": {"deletionTimestamp": "x"}, "spec": spec, "status": {"phase": "Running"}}),
            "0/3",
            "Terminating",
            "0",
        );
        expect(
            json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}}),
            "0/1",
            "ExitCode:3",
            "0",
        );
    }
}
