//! The phase of a pod. Upstream: pkg/kubelet/kubelet_pods.go getPhase

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::pod::{init_containers, is_sidecar, spec};
use crate::runtime::actions::restarts_on;

fn exit_code(status: &ContainerStatus, last: bool) -> Option<i32> {
    let state = if last { &status.last_state } else { &status.state };
    state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// `Pending`, `Running`, `Succeeded` or `Failed`. `terminal`: nothing of the pod will run again.
pub fn of(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], terminal: bool) -> &'static str {
    let (mut pending_init, mut failed_init, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0, 0);
    for (container, status) in init_containers(pod).iter().zip(init) {
        if is_sidecar(container) {
            if is_running(status) {
                pending_init += usize::from(status.started != Some(true));
                running += 1;
            } else if exit_code(status, false).or_else(|| exit_code(status, true)).is_none() {
                pending_init += 1;
            }
            continue;
        }
        match (is_running(status), exit_code(status, false), exit_code(status, true)) {
            (true, ..) => pending_init += 1,
            (_, Some(0), _) => {}
            (_, Some(code), _) if !restarts_on(pod, container, code) => failed_init += 1,
            _ => pending_init += 1,
        }
    }
    for status in main {
        match (is_running(status), exit_code(status, false), exit_code(status, true)) {
            (true, ..) => running += 1,
            (_, Some(code), _) => {
                stopped += 1;
                succeeded += usize::from(code == 0);
            }
            // Ended and to be started again.
            (_, None, Some(_)) => stopped += 1,
            (_, None, None) => waiting += 1,
        }
    }
    if failed_init > 0 {
        return "Failed";
    }
    let main_started =
        main.iter().any(|status| is_running(status) || exit_code(status, false).is_some() || exit_code(status, true).is_some());
    if terminal && running == 0 && (waiting == 0 && stopped > 0 || main_started) {
        return if waiting == 0 && stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    if pending_init > 0 && !main_started || waiting > 0 {
        return "Pending";
    }
    if stopped < main.len() || main.is_empty() {
        return if running > 0 { "Running" } else { "Pending" };
    }
    let ended = |status: &ContainerStatus| exit_code(status, false).or_else(|| exit_code(status, true));
    let again = spec(pod)
        .containers
        .iter()
        .zip(main)
        .any(|(container, status)| ended(status).is_some_and(|code| restarts_on(pod, container, code)));
    // Sidecars may still run.
    if again || running > 0 {
        return "Running";
    }
    if stopped == succeeded { "Succeeded" } else { "Failed" }
}
