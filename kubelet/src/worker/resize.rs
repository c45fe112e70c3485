//! In-place resize: grants what the definition asks for now, and brings it into force. Upstream: pkg/kubelet/allocation

pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::events::Kind;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Worker;
use crate::cgroup::values;
use crate::pod::resources::{Requests, of_pod};
use crate::pod::{init_containers, spec};
use crate::runtime::actions::{Actions, Kill, Slot, Why};
use crate::runtime::observed::{PodRuntime, State};
use plan::{Given, Verdict};

/// What a worker knows of its pod's resources.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// Given by this node; `None` until the first look.
    allocated: Option<Given>,
    /// In force.
    pub actuated: Given,
    /// Why the definition's wish is not granted: `Deferred` or `Infeasible`, and for a person.
    pub pending: Option<(&'static str, String)>,
    /// Granted and not in force yet; the text says what failed, if something did.
    pub in_progress: Option<String>,
}

impl Resize {
    /// Whether trying again later may help.
    pub fn is_deferred(&self) -> bool {
        matches!(self.pending, Some(("Deferred", _)))
    }

    /// Notes that a container started with what it was given.
    pub fn started(&mut self, container: &Container) {
        self.actuated.insert(container.name.clone(), plan::of(container));
    }
}

impl Worker {
    /// The pod as this node runs it: with the resources it was given. Grants what can be granted.
    pub(super) fn allocate(&mut self, desired: &Arc<Pod>, runtime: &PodRuntime) -> Arc<Pod> {
        let told = self.handle.view.read().status.clone();
        let allocated = match self.resize.allocated.take() {
            Some(allocated) => allocated,
            // The first look: what a former kubelet told, if it made the containers that are there.
            None if !runtime.containers.is_empty() => {
                let (allocated, actuated) = plan::recover(desired, &told);
                self.resize.actuated = actuated;
                plan::asked(desired).into_iter().chain(allocated).collect()
            }
            None => plan::asked(desired),
        };
        let have = plan::with(desired, &allocated);
        let verdict = if self.admitted || !runtime.containers.is_empty() {
            plan::decide(desired, &have, &self.kubelet.node.allocatable.read(), &self.used_by_others())
        } else {
            Verdict::Granted
        };
        let before = self.resize.pending.take();
        let (pod, allocated) = match verdict {
            Verdict::Same => (desired.clone(), allocated),
            Verdict::Granted => (desired.clone(), plan::asked(desired)),
            Verdict::Deferred(why) => {
                self.resize.pending = Some(("Deferred", why));
                (Arc::new(have), allocated)
            }
            Verdict::Infeasible(why) => {
                self.resize.pending = Some(("Infeasible", why));
                (Arc::new(have), allocated)
            }
        };
        self.resize.allocated = Some(allocated);
        if let Some((reason, why)) = self.resize.pending.as_ref().filter(|pending| Some(*pending) != before.as_ref()) {
            self.kubelet.event(desired, Kind::Warning, &format!("Resize{reason}"), format!("Pod resize {reason}: {why}"));
        }
        self.handle.view.write().allocated = Some(pod.clone());
        pod
    }

    /// Requests of the other pods that run here.
    fn used_by_others(&self) -> BTreeMap<String, i64> {
        let mut out = BTreeMap::new();
        for handle in self.kubelet.workers.list() {
            let there = handle.view().stage < super::Stage::Clean && handle.view().runtime.sandbox().is_some();
            if handle.uid == self.handle.uid || !there {
                continue;
            }
            let pod = handle.allocated();
            for name in ["cpu", "memory"] {
                *out.entry(name.to_owned()).or_default() += of_pod(&pod, Requests, name).unwrap_or(0);
            }
        }
        out
    }

    /// Brings what was granted into force: at once where the containers allow it, else by starting them anew (added to `actions`).
    /// Whether anything was tried. A definition that was never changed costs nothing.
    pub(super) async fn actuate(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime, actions: &mut Actions) -> bool {
        // The first generation is what the containers were made from.
        if pod.metadata.generation.is_none_or(|generation| generation <= 1) || actions.kill_pod {
            return false;
        }
        let mut changed: Vec<(String, Container)> = Vec::new();
        let mut waits = false;
        for container in plan::containers(pod) {
            let Some(record) = runtime.latest(&container.name).filter(|record| record.state == State::Running) else { continue };
            let want = plan::of(container);
            let have = self.resize.actuated.entry(container.name.clone()).or_insert_with(|| want.clone());
            if plan::same(have, &want) || actions.kill.iter().any(|kill| kill.id == record.id) {
                continue;
            }
            if plan::needs_restart(container, have, &want) {
                waits = true;
                let message = format!("Container {} resize requires restart", container.name);
                actions.kill.push(Kill { id: record.id.clone(), name: container.name.clone(), message, why: Why::Changed });
                actions.start.extend(slot(pod, &container.name));
            } else {
                changed.push((record.id.clone(), container.clone()));
            }
        }
        if changed.is_empty() {
            self.resize.in_progress = waits.then(String::new);
            return waits;
        }
        if self.resize.in_progress.is_none() {
            self.kubelet.event(pod, Kind::Normal, "ResizeStarted", "Pod resize started");
        }
        self.resize.in_progress = Some(String::new());
        match self.update(pod, changed).await {
            Ok(()) if !waits => {
                self.resize.in_progress = None;
                self.kubelet.event(pod, Kind::Normal, "ResizeCompleted", "Pod resize completed");
            }
            Ok(()) => {}
            Err(why) => {
                self.kubelet.event(pod, Kind::Warning, "ResizeError", format!("Pod resize error: {why}"));
                self.resize.in_progress = Some(why);
            }
        }
        crate::node::update_burstable(&self.kubelet);
        true
    }

    async fn update(&mut self, pod: &Arc<Pod>, changed: Vec<(String, Container)>) -> Result<(), String> {
        let kubelet = self.kubelet.clone();
        let (before, after) =
            (values::pod(&plan::with(pod, &self.resize.actuated), &kubelet.values), values::pod(pod, &kubelet.values));
        // The pod's bound is never below its containers': it grows first and shrinks last.
        let larger = values::Limits {
            memory: before.memory.zip(after.memory).map(|(before, after)| before.max(after)).or(after.memory),
            cpu_quota: match (before.cpu_quota, after.cpu_quota) {
                (Some(before), Some(after)) if before > 0 && after > 0 => Some(before.max(after)),
                (_, after) => after,
            },
            ..after.clone()
        };
        let bound = |limits: &values::Limits| kubelet.cgroups.ensure_pod(pod, limits).map_err(|error| error.to_string());
        bound(&larger)?;
        for (id, container) in changed {
            let wanted = values::container(pod, &container, &kubelet.values);
            let used = kubelet.cgroups.container_usage(pod, &id).map_or(0, |usage| usage.working_set);
            if wanted.memory_limit_in_bytes > 0 && u64::try_from(wanted.memory_limit_in_bytes).is_ok_and(|limit| limit < used) {
                return Err(format!(
                    "attempting to set container {:?} memory limit ({}) below current usage ({used})",
                    container.name, wanted.memory_limit_in_bytes
                ));
            }
            kubelet
                .cri
                .update_container_resources(&id, wanted)
                .await
                .map_err(|status| format!("failed to resize container {:?}: {}", container.name, status.message()))?;
            self.resize.started(&container);
        }
        bound(&after)
    }
}

fn slot(pod: &Pod, name: &str) -> Option<Slot> {
    let at = |list: &[Container]| list.iter().position(|container| container.name == name);
    at(&spec(pod).containers).map(Slot::Main).or_else(|| at(init_containers(pod)).map(Slot::Init))
}

/// What a status says of a pod's resize: the conditions' type, reason and message.
pub fn conditions(resize: &Resize) -> Vec<(&'static str, String, String)> {
    let pending = resize.pending.iter().map(|(reason, why)| ("PodResizePending", (*reason).to_owned(), why.clone()));
    let progress = resize.in_progress.iter().map(|why| {
        let reason = if why.is_empty() { "" } else { "Error" };
        ("PodResizeInProgress", reason.to_owned(), why.clone())
    });
    pending.chain(progress).collect()
}
