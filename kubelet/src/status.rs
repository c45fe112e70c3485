//! What the API says about a pod: from its definition and what the runtime has of it. Pure.
//!
//! Upstream: pkg/kubelet/kubelet_pods.go generateAPIPodStatus, pkg/kubelet/status

pub mod conditions;
pub mod containers;
pub mod manager;
pub mod patch;
pub mod phase;

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::{self, init_containers, qos, spec};
use crate::runtime::actions::Verdicts;
use crate::runtime::observed::PodRuntime;
use crate::worker::resize::Resize;

/// Why a container does not start, by its name: reason and message of its `waiting` state.
pub type StartErrors = HashMap<String, (String, String)>;

/// Everything a status depends on.
pub struct Observed<'a> {
    /// Definition.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub runtime: &'a PodRuntime,
    /// What the probes say.
    pub verdicts: &'a Verdicts,
    /// Why containers do not start.
    pub errors: &'a StartErrors,
    /// The status told last.
    pub previous: &'a PodStatus,
    /// Node's addresses, primary first.
    pub host_ips: &'a [String],
    /// Name of the runtime in container ids.
    pub runtime_name: &'a str,
    /// The pod is over: nothing of it will run again.
    pub terminal: bool,
    /// Reason and message for a pod that the kubelet ended (`Evicted`, `DeadlineExceeded`).
    pub verdict: Option<(&'a str, &'a str)>,
    /// What became of a change of its resources.
    pub resize: &'a Resize,
    /// Now.
    pub now: Timestamp,
}

/// The status of a pod that the node does not take. Nothing of it was ever there, so it has no container statuses.
pub fn rejected(pod: &Pod, previous: &PodStatus, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        start_time: previous.start_time.clone().or_else(|| Some(Time(to_seconds(now)))),
        observed_generation: pod.metadata.generation,
        conditions: previous
            .conditions
            .as_ref()
            .map(|list| list.iter().filter(|condition| condition.type_ == "PodScheduled").cloned().collect()),
        ..Default::default()
    }
}

/// Whether this is what [`rejected`] told.
fn was_rejected(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed") && status.reason.is_some() && status.container_statuses.is_none()
}

/// The status.
pub fn generate(observed: &Observed<'_>) -> PodStatus {
    let Observed { pod, runtime, previous, .. } = *observed;
    if was_rejected(previous) && runtime.sandboxes.is_empty() && runtime.containers.is_empty() {
        return previous.clone();
    }
    let initialized = containers::has_initialized(pod, runtime);
    let mut init =
        containers::statuses(observed, init_containers(pod), previous.init_container_statuses.as_deref(), containers::List::Init);
    let mut main = containers::statuses(
        observed,
        &spec(pod).containers,
        previous.container_statuses.as_deref(),
        containers::List::Main { initialized: initialized || init_containers(pod).is_empty() },
    );
    let ephemeral = containers::statuses(
        observed,
        &pod::container::ephemeral(pod),
        previous.ephemeral_container_statuses.as_deref(),
        containers::List::Ephemeral,
    );
    let mut phase = phase::of(pod, &init, &main, observed.terminal);
    if observed.verdict.is_some() {
        phase = "Failed";
    }
    if observed.terminal && !matches!(phase, "Succeeded" | "Failed") {
        phase = "Failed";
    }
    if observed.terminal {
        containers::end(&mut init, &mut main, initialized || init_containers(pod).is_empty());
    }
    // What is over stays over.
    if let Some(old @ ("Succeeded" | "Failed")) = previous.phase.as_deref() {
        phase = if old == "Succeeded" { "Succeeded" } else { "Failed" };
    }
    let ips: Vec<String> = match (pod::is_host_network(pod), runtime.ips()) {
        (true, _) if runtime.sandbox().is_some() || previous.pod_ip.is_some() => observed.host_ips.to_vec(),
        (true, _) => Vec::new(),
        (false, []) => previous
            .pod_ips
            .iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .filter(|_| runtime.sandbox().is_none() || observed.terminal)
            .collect(),
        (false, ips) => ips.to_vec(),
    };
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        host_ip: observed.host_ips.first().cloned(),
        host_ips: Some(observed.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect())
            .filter(|list: &Vec<_>| !list.is_empty()),
        pod_ip: ips.first().cloned(),
        pod_ips: Some(ips.into_iter().map(|ip| PodIP { ip }).collect()).filter(|list: &Vec<_>| !list.is_empty()),
        start_time: previous.start_time.clone().or_else(|| Some(Time(to_seconds(observed.now)))),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        observed_generation: pod.metadata.generation,
        init_container_statuses: Some(init).filter(|list| !list.is_empty()),
        container_statuses: Some(main).filter(|list| !list.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|list| !list.is_empty()),
        reason: previous.reason.clone(),
        message: previous.message.clone(),
        ..Default::default()
    };
    if let Some((reason, message)) = observed.verdict {
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    status.conditions = Some(conditions::all(observed, &status));
    status
}

/// API times have whole seconds.
pub fn to_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Of the runtime's nanoseconds; `None` for zero.
pub fn from_nanos(nanos: i64) -> Option<Time> {
    if nanos <= 0 { None } else { Timestamp::from_second(nanos / 1_000_000_000).ok().map(Time) }
}

#[cfg(test)]
mod tests;
