//! Conditions of a pod. Upstream: pkg/kubelet/status/generate.go

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Observed, to_seconds};
use crate::pod::{self, init_containers, is_sidecar, spec};

/// The condition types that the kubelet owns; others in a status are left alone.
pub const OWNED: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];
/// Those of them that are only there while they hold.
pub const PASSING: &[&str] = &["PodResizePending", "PodResizeInProgress"];

/// All conditions of the kubelet; a condition that did not turn keeps its time.
pub fn all(observed: &Observed<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let (init, main) =
        (status.init_container_statuses.as_deref().unwrap_or_default(), status.container_statuses.as_deref().unwrap_or_default());
    let phase = status.phase.as_deref().unwrap_or("");
    let containers_ready = containers_ready(observed, init, main, phase);
    let ready = ready(observed, containers_ready.clone());
    let sandbox =
        observed.runtime.ready_sandbox().is_some_and(|sandbox| pod::is_host_network(observed.pod) || !sandbox.ips.is_empty());
    let scheduled = observed.previous.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled").cloned();
    let mut out = vec![
        finish(observed, "PodReadyToStartContainers", (sandbox && !observed.terminal, String::new(), String::new())),
        finish(observed, "Initialized", initialized(observed, init, main, phase)),
        finish(observed, "Ready", ready),
        finish(observed, "ContainersReady", containers_ready),
        scheduled.unwrap_or_else(|| finish(observed, "PodScheduled", (true, String::new(), String::new()))),
    ];
    if !observed.terminal {
        let resize = crate::worker::resize::conditions(observed.resize);
        out.extend(resize.into_iter().map(|(kind, reason, message)| finish(observed, kind, (true, reason, message))));
    }
    // Says to owners that the pod's end was not its own fault.
    let disrupted = observed
        .previous
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == DISRUPTED && condition.status == "True");
    match (observed.verdict, disrupted) {
        (_, Some(condition)) => out.push(condition.clone()),
        (Some(("Evicted", message)), None) => {
            out.push(finish(observed, DISRUPTED, (true, "TerminationByKubelet".into(), message.to_owned())));
        }
        _ => {}
    }
    out
}

/// See Pod failure policies of Jobs.
const DISRUPTED: &str = "DisruptionTarget";

/// Holds or not, reason, message.
type Verdict = (bool, String, String);

fn finish(observed: &Observed<'_>, kind: &str, (holds, reason, message): Verdict) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let old =
        observed.previous.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason).filter(|text| !text.is_empty()),
        message: Some(message).filter(|text| !text.is_empty()),
        last_transition_time: old
            .and_then(|old| old.last_transition_time.clone())
            .or_else(|| Some(Time(to_seconds(observed.now)))),
        observed_generation: observed.pod.metadata.generation,
        ..Default::default()
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(observed: &Observed<'_>, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return (false, "PodCompleted".into(), String::new()),
        "Failed" => return (false, "PodFailed".into(), String::new()),
        _ => {}
    }
    let sidecars =
        init_containers(observed.pod).iter().filter(|container| is_sidecar(container)).map(|container| &container.name);
    let names = sidecars.chain(spec(observed.pod).containers.iter().map(|container| &container.name));
    let mut unready = Vec::new();
    for name in names {
        let status = init.iter().chain(main).find(|status| status.name == *name);
        if !status.is_some_and(|status| status.ready) || observed.terminal {
            unready.push(name.as_str());
        }
    }
    if unready.is_empty() {
        (true, String::new(), String::new())
    } else {
        (false, "ContainersNotReady".into(), format!("containers with unready status: {}", list(&unready)))
    }
}

fn ready(observed: &Observed<'_>, containers: Verdict) -> Verdict {
    if !containers.0 {
        return containers;
    }
    let mut messages = Vec::new();
    for gate in spec(observed.pod).readiness_gates.iter().flatten() {
        let conditions = observed.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        match conditions.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => messages
                .push(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(condition) if condition.status != "True" => {
                messages.push(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                    gate.condition_type, condition.status
                ));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { containers } else { (false, "ReadinessGatesNotReady".into(), messages.join(", ")) }
}

fn initialized(observed: &Observed<'_>, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    let inits = init_containers(observed.pod);
    if inits.is_empty() {
        return if phase == "Succeeded" {
            (true, "PodCompleted".into(), String::new())
        } else {
            (true, String::new(), String::new())
        };
    }
    if phase == "Succeeded" {
        return (true, "PodCompleted".into(), String::new());
    }
    let started = main.iter().any(|status| {
        status.container_id.is_some() || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    let mut incomplete = Vec::new();
    for container in inits {
        let status = init.iter().find(|status| status.name == container.name);
        let done = if is_sidecar(container) {
            status.is_some_and(|status| status.started == Some(true))
        } else {
            status.is_some_and(|status| status.ready)
        };
        if !done && !started {
            incomplete.push(container.name.as_str());
        }
    }
    if incomplete.is_empty() {
        (true, String::new(), String::new())
    } else {
        (false, "ContainersNotInitialized".into(), format!("containers with incomplete status: {}", list(&incomplete)))
    }
}
