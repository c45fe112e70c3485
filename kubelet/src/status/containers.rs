//! Container statuses. Upstream: pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, VolumeMountStatus,
};

use super::{Observed, from_nanos};
use crate::pod::{init_containers, is_sidecar, spec};
use crate::runtime::actions::{Health, should_restart};
use crate::runtime::observed::{ContainerRecord, PodRuntime, State};

/// Which list the containers are from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum List {
    /// Init containers.
    Init,
    /// Containers; whether the init containers are through.
    Main {
        /// See above.
        initialized: bool,
    },
    /// Ephemeral containers.
    Ephemeral,
}

/// Whether the pod got past its init containers.
pub fn has_initialized(pod: &Pod, runtime: &PodRuntime) -> bool {
    spec(pod).containers.iter().any(|container| runtime.latest_active(&container.name).is_some())
        || init_containers(pod).iter().all(|container| {
            let record = runtime.latest_active(&container.name);
            if is_sidecar(container) {
                record.is_some_and(|record| record.state == State::Running)
            } else {
                record.is_some_and(|record| record.state == State::Exited && record.exit_code == 0)
            }
        })
}

/// The statuses of one list, in the order of the definition.
pub fn statuses(
    observed: &Observed<'_>,
    containers: &[Container],
    previous: Option<&[ContainerStatus]>,
    list: List,
) -> Vec<ContainerStatus> {
    containers
        .iter()
        .map(|container| {
            let old = previous.unwrap_or_default().iter().find(|status| status.name == container.name);
            status(observed, container, old, list)
        })
        .collect()
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    ContainerState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..Default::default() }
}

fn terminated(record: &ContainerRecord, runtime_name: &str) -> ContainerState {
    let reason = match record.reason.as_str() {
        "" if record.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(record.full_id(runtime_name)),
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: Some(record.message.clone()).filter(|message| !message.is_empty()),
            started_at: from_nanos(record.started_at),
            finished_at: from_nanos(record.finished_at),
            signal: None,
        }),
        ..Default::default()
    }
}

/// A run of which the runtime knows nothing any more.
fn lost(old: &ContainerStatus, message: &str) -> ContainerState {
    let started_at = old.state.as_ref().and_then(|state| state.running.as_ref()).and_then(|running| running.started_at.clone());
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: old.container_id.clone(),
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(message.to_owned()),
            started_at,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The last word on a pod that is over: a container of which nobody saw the end has an unknown one.
/// Upstream: pkg/kubelet/status/status_manager.go TerminatePod
pub fn end(init: &mut [ContainerStatus], main: &mut [ContainerStatus], initialized: bool) {
    const WHY: &str = "The container could not be located when the pod was terminated";
    let over = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    // Init containers after the one that was reached were never there.
    let reached = init.iter().rposition(|status| {
        over(status)
            || status.started == Some(true)
            || status.container_id.is_some()
            || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    let passed = if initialized { init.len() } else { reached.map_or(0, |index| index + 1) };
    let main = if initialized { main } else { &mut [] };
    for status in init[..passed].iter_mut().chain(main).filter(|status| !over(status)) {
        status.state = Some(lost(status, WHY));
        status.ready = false;
        status.started = Some(false);
    }
}

fn status(observed: &Observed<'_>, container: &Container, old: Option<&ContainerStatus>, list: List) -> ContainerStatus {
    let Observed { pod, runtime, verdicts, errors, runtime_name, .. } = *observed;
    let mut records = runtime.containers.iter().filter(|record| record.name() == container.name);
    let (newest, before) = (records.next(), records.next());
    let default_reason = match list {
        List::Init | List::Main { initialized: false } => "PodInitializing",
        List::Main { initialized: true } | List::Ephemeral => "ContainerCreating",
    };
    let mut out = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(waiting(default_reason, "")),
        ..Default::default()
    };
    match newest {
        None => no_record(observed, container, old, list, &mut out),
        Some(record) => {
            out.container_id = Some(record.full_id(runtime_name));
            if !record.image.is_empty() {
                out.image = record.image.clone();
            }
            out.image_id = record.image_ref.clone();
            out.restart_count = i32::try_from(record.about.restart_count).unwrap_or(i32::MAX);
            out.state = Some(match record.state {
                State::Running => ContainerState {
                    running: Some(ContainerStateRunning { started_at: from_nanos(record.started_at) }),
                    ..Default::default()
                },
                State::Created => waiting("ContainerCreating", ""),
                State::Exited => terminated(record, runtime_name),
                State::Unknown => match old.filter(|old| old.state.as_ref().is_some_and(|state| state.running.is_some())) {
                    Some(old) => lost(old, "The container could not be located when the pod was terminated"),
                    None => waiting(default_reason, ""),
                },
            });
            out.last_state = before
                .filter(|record| record.state == State::Exited)
                .map(|record| terminated(record, runtime_name))
                .or_else(|| old.filter(|old| old.container_id == out.container_id).and_then(|old| old.last_state.clone()));
            if record.state == State::Running {
                running_facts(observed, container, record, &mut out);
            }
        }
    }
    // A container that should run and cannot is waiting, and says why.
    let restartable = match newest {
        None => true,
        Some(record) if list == List::Init && !is_sidecar(container) => {
            record.state != State::Running
                && !(record.state == State::Exited && record.exit_code == 0)
                && should_restart(pod, container, record)
        }
        Some(record) if is_sidecar(container) => record.state != State::Running,
        Some(record) => should_restart(pod, container, record),
    };
    if let Some((reason, message)) = errors.get(&container.name).filter(|_| restartable && !observed.terminal) {
        if let Some(state) = out.state.take().filter(|state| state.terminated.is_some()) {
            out.last_state = Some(state);
        }
        out.state = Some(waiting(reason, message));
    }
    let running = out.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = newest.map_or("", |record| record.id.as_str());
    out.started = Some(running && (container.startup_probe.is_none() || verdicts.startup.get(id) == Some(&Health::Success)));
    out.ready = match list {
        List::Init if !is_sidecar(container) => {
            out.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|terminated| terminated.exit_code == 0)
        }
        List::Ephemeral => false,
        _ => {
            out.started == Some(true)
                && (container.readiness_probe.is_none() || verdicts.readiness.get(id) == Some(&Health::Success))
        }
    };
    out
}

fn no_record(
    observed: &Observed<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    list: List,
    out: &mut ContainerStatus,
) {
    let Some(old) = old else { return };
    let state = old.state.clone().unwrap_or_default();
    out.restart_count = old.restart_count;
    out.last_state = old.last_state.clone();
    // Its record was collected; what was told stays told.
    let collected_init = list == List::Init && !is_sidecar(container) && has_initialized(observed.pod, observed.runtime);
    if state.terminated.is_some() && (observed.terminal || collected_init || observed.runtime.sandbox().is_none()) {
        *out = old.clone();
        return;
    }
    if state.running.is_some() {
        let gone = lost(old, "The container could not be located when the pod was deleted.  The container used to be Running");
        if observed.terminal {
            out.container_id = old.container_id.clone();
            out.image_id = old.image_id.clone();
            out.state = Some(gone);
        } else {
            out.restart_count += 1;
            out.last_state = Some(gone);
        }
    } else if state.terminated.is_some() {
        out.last_state = Some(state);
    } else if observed.terminal {
        out.state = Some(state);
    }
}

fn running_facts(observed: &Observed<'_>, container: &Container, record: &ContainerRecord, out: &mut ContainerStatus) {
    if let Some(resources) =
        container.resources.as_ref().filter(|resources| resources.limits.is_some() || resources.requests.is_some())
    {
        out.resources = Some(observed.resize.actuated.get(&container.name).unwrap_or(resources).clone());
        out.allocated_resources = resources.requests.clone();
    }
    out.stop_signal = record.stop_signal.clone();
    if let Some(user) = &record.user {
        let linux =
            LinuxContainerUser { uid: user.uid, gid: user.gid, supplemental_groups: Some(user.supplemental_groups.clone()) };
        out.user = Some(ContainerUser { linux: Some(linux) });
    }
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let read_only = mount.read_only.unwrap_or(false);
            let recursive = record.mounts.iter().any(|(path, _, recursive)| *path == mount.mount_path && *recursive);
            let recursive = if recursive { "Enabled" } else { "Disabled" };
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| recursive.to_owned()),
                ..Default::default()
            }
        })
        .collect();
    out.volume_mounts = Some(mounts).filter(|mounts| !mounts.is_empty());
}
