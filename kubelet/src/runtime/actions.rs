//! What to do next for a pod that is to run: the heart of the kubelet, pure.
//!
//! Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions, computeInitContainerActions

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::{self, init_containers, is_sidecar, spec};
use crate::runtime::observed::{ContainerRecord, PodRuntime, State};

/// What a probe last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Passed.
    Success,
    /// Failed often enough.
    Failure,
}

/// The probes' results of running containers, by container id. No entry: not yet decided.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Liveness.
    pub liveness: HashMap<String, Health>,
    /// Startup.
    pub startup: HashMap<String, Health>,
    /// Readiness.
    pub readiness: HashMap<String, Health>,
}

/// Why a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Liveness probe failed.
    Liveness,
    /// Startup probe failed.
    Startup,
    /// Name or image changed.
    Changed,
    /// The runtime does not know what it does.
    Unknown,
}

/// A container to kill.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// Runtime's id.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// For the event.
    pub message: String,
    /// Which probe's grace period counts.
    pub why: Why,
}

/// Which list of the pod a container is in, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `initContainers[i]`.
    Init(usize),
    /// `containers[i]`.
    Main(usize),
    /// `ephemeralContainers[i]`.
    Ephemeral(usize),
}

/// What to do, in this order: kill, sandbox, ephemeral, init, main.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// Kill everything, the sandbox too.
    pub kill_pod: bool,
    /// Then make a new sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    /// Containers to kill.
    pub kill: Vec<Kill>,
    /// Containers to start, in order.
    pub start: Vec<Slot>,
}

/// Decides. `now_deleting` is not asked: a pod on its way out is the termination's affair.
pub fn pod_actions(pod: &Pod, runtime: &PodRuntime, verdicts: &Verdicts) -> Actions {
    let (changed, attempt) = sandbox_changed(pod, runtime);
    if changed {
        return with_new_sandbox(pod, runtime, attempt);
    }
    let mut actions = Actions::default();
    for (index, container) in spec(pod).ephemeral_containers.iter().flatten().enumerate() {
        if runtime.latest(&container.name).is_none() {
            actions.start.push(Slot::Ephemeral(index));
        }
    }
    let initialized = init_actions(pod, runtime, verdicts, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let mut kept = 0;
    let ephemeral = actions.start.iter().filter(|slot| matches!(slot, Slot::Ephemeral(_))).count();
    let before = actions.start.len();
    for (index, container) in spec(pod).containers.iter().enumerate() {
        match judge(pod, container, runtime.latest(&container.name), verdicts) {
            Verdict::Keep => kept += 1,
            Verdict::Leave => {}
            Verdict::Start => actions.start.push(Slot::Main(index)),
            Verdict::Kill(kill, restart) => {
                actions.kill.push(kill);
                if restart {
                    actions.start.push(Slot::Main(index));
                }
            }
        }
    }
    if kept == 0 && actions.start.len() == before {
        actions.kill_pod = true;
        // Sidecars must not keep a finished pod alive.
        actions.start.truncate(ephemeral);
        actions.start.clear();
    }
    actions
}

/// Whether the pod needs a new sandbox, and the number it gets.
fn sandbox_changed(pod: &Pod, runtime: &PodRuntime) -> (bool, u32) {
    let Some(newest) = runtime.sandbox() else { return (true, 0) };
    let ready = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let host_network = pod::is_host_network(pod);
    let lost = !newest.ready || ready > 1 || newest.host_network != host_network || (!host_network && newest.ips.is_empty());
    (lost, if lost { newest.attempt + 1 } else { newest.attempt })
}

fn with_new_sandbox(pod: &Pod, runtime: &PodRuntime, attempt: u32) -> Actions {
    let mut actions = Actions { kill_pod: true, ..Default::default() };
    // A pod that never restarts and has run, has run.
    if pod::restart_policy(pod) == "Never" && attempt != 0 && !runtime.containers.is_empty() && !any_restart_rule(pod, runtime) {
        return actions;
    }
    let mut start: Vec<Slot> = Vec::new();
    for (index, container) in spec(pod).containers.iter().enumerate() {
        let succeeded =
            runtime.latest(&container.name).is_some_and(|record| record.state == State::Exited && record.exit_code == 0);
        if !(policy_of(pod, container) == "OnFailure" && succeeded) {
            start.push(Slot::Main(index));
        }
    }
    if start.is_empty() {
        return actions;
    }
    actions.create_sandbox = Some(attempt);
    actions.start = if init_containers(pod).is_empty() { start } else { vec![Slot::Init(0)] };
    actions
}

fn any_restart_rule(pod: &Pod, runtime: &PodRuntime) -> bool {
    spec(pod).containers.iter().any(|container| {
        container.restart_policy.is_some()
            && runtime.latest(&container.name).is_none_or(|record| should_restart(pod, container, record))
    })
}

/// The restart policy that counts for a container.
fn policy_of<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().unwrap_or_else(|| pod::restart_policy(pod))
}

/// Whether an ended container is to run again.
pub fn should_restart(pod: &Pod, container: &Container, record: &ContainerRecord) -> bool {
    match record.state {
        State::Running => return false,
        State::Created | State::Unknown => return true,
        State::Exited => {}
    }
    restarts_on(pod, container, record.exit_code)
}

/// Whether a container that ended with this code is to run again: the first rule that fits, else its policy.
pub fn restarts_on(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let within = codes.values.iter().flatten().any(|code| *code == exit_code);
        if within == (codes.operator == "In") {
            return rule.action == "Restart" || rule.action == "RestartAllContainers";
        }
    }
    match policy_of(pod, container) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

enum Verdict {
    Keep,
    Leave,
    Start,
    Kill(Kill, bool),
}

fn judge(pod: &Pod, container: &Container, record: Option<&ContainerRecord>, verdicts: &Verdicts) -> Verdict {
    let Some(record) = record else { return Verdict::Start };
    if record.state != State::Running {
        return match (should_restart(pod, container, record), record.state) {
            (true, State::Unknown) => {
                let message = "Container is in \"Unknown\" state, try killing it before restart".to_owned();
                Verdict::Kill(kill(record, message, Why::Unknown), true)
            }
            (true, _) => Verdict::Start,
            (false, _) => Verdict::Leave,
        };
    }
    let name = &container.name;
    let (text, why, restart) = if record.about.hash != pod::container::hash(container) {
        (format!("Container {name} definition changed"), Why::Changed, true)
    } else if verdicts.liveness.get(&record.id) == Some(&Health::Failure) {
        (format!("Container {name} failed liveness probe"), Why::Liveness, policy_of(pod, container) != "Never")
    } else if verdicts.startup.get(&record.id) == Some(&Health::Failure) {
        (format!("Container {name} failed startup probe"), Why::Startup, policy_of(pod, container) != "Never")
    } else {
        return Verdict::Keep;
    };
    let text = if restart { format!("{text}, will be restarted") } else { text };
    Verdict::Kill(kill(record, text, why), restart)
}

fn kill(record: &ContainerRecord, message: String, why: Why) -> Kill {
    Kill { id: record.id.clone(), name: record.name().to_owned(), message, why }
}

/// Takes the init containers one step on; whether the main containers may run.
fn init_actions(pod: &Pod, runtime: &PodRuntime, verdicts: &Verdicts, actions: &mut Actions) -> bool {
    let inits = init_containers(pod);
    let initialized = spec(pod).containers.iter().any(|container| runtime.latest_active(&container.name).is_some());
    // Where the sequence has got to: later containers exist only after earlier ones did their part.
    let reached = inits.iter().rposition(|container| runtime.latest_active(&container.name).is_some());
    for (index, container) in inits.iter().enumerate() {
        let record = runtime.latest_active(&container.name);
        let passed = initialized || reached.is_some_and(|reached| reached > index);
        if is_sidecar(container) {
            let verdict = match record {
                Some(record) if record.state == State::Exited => Verdict::Start,
                other => judge(pod, container, other, verdicts),
            };
            match verdict {
                Verdict::Keep | Verdict::Leave => {
                    let id = record.map(|record| record.id.as_str()).unwrap_or("");
                    let started = container.startup_probe.is_none() || verdicts.startup.get(id) == Some(&Health::Success);
                    if !started && !passed {
                        return false;
                    }
                }
                Verdict::Start => {
                    actions.start.push(Slot::Init(index));
                    if !passed {
                        return false;
                    }
                }
                Verdict::Kill(kill, _) => {
                    actions.kill.push(kill);
                    actions.start.push(Slot::Init(index));
                    if !passed {
                        return false;
                    }
                }
            }
            continue;
        }
        if passed {
            continue;
        }
        match record {
            None => {
                actions.start.push(Slot::Init(index));
                return false;
            }
            Some(record) => match record.state {
                State::Running => return false,
                State::Exited if record.exit_code == 0 => {}
                State::Exited if !should_restart(pod, container, record) => {
                    *actions = Actions { kill_pod: true, ..Default::default() };
                    return false;
                }
                State::Exited | State::Created => {
                    actions.start.push(Slot::Init(index));
                    return false;
                }
                State::Unknown => {
                    let message = "Init container is in \"Unknown\" state, try killing it before restart".to_owned();
                    actions.kill.push(kill(record, message, Why::Unknown));
                    actions.start.push(Slot::Init(index));
                    return false;
                }
            },
        }
    }
    true
}

#[cfg(test)]
#[path = "actions/tests.rs"]
mod tests;
