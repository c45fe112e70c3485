//! The loop: take a pod, decide, assume, and let binding go on beside the next decision.
//!
//! One lock guards cluster and queues; it is held for a decision (some tens of microseconds) and for noting an event, never across
//! an await.
//!
//! Upstream: pkg/scheduler/{scheduler,schedule_one,eventhandlers}.go

use std::collections::HashMap;
use std::sync::Arc;

use component::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::bind::Effects;
use crate::cluster::{Cluster, NodeIdx};
use crate::config::Profile;
use crate::event::Event;
use crate::extender::{Choice, Extender};
use crate::metrics;
use crate::object::Named;
use crate::object::node::Node;
use crate::object::pod::Pod;
use crate::plugin::Failure;
use crate::plugin::default_preemption::{Outcome, best, preempt};
use crate::plugin::dynamic_resources::{self, POST_FILTER_MESSAGE};
use crate::plugin::volume_binding;
use crate::queue::{Backoff, Queue, Waiting};
use crate::schedule::{Attempt, Diagnosis, Rotation};
use crate::stores::Stores;

/// Bindings under way at once; the next decision waits for a place. Each is one request.
const MAX_BINDING: usize = 128;

/// How often refusals are counted for the gauge, and gauges are set while there is always something to do.
const COUNT_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// The scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Scheduler(Arc<Shared>);

struct Shared {
    core: Mutex<Core>,
    wake: Notify,
    stores: Stores,
    profiles: HashMap<String, Arc<Profile>>,
    extenders: Vec<Extender>,
}

/// What the lock guards.
struct Core {
    cluster: Cluster,
    queue: Queue,
    rotation: Rotation,
    /// When refusals were last counted for the gauge, and how many events there had been.
    counted: Option<Instant>,
    counted_events: u64,
}

/// What came of one try.
pub enum Step {
    /// Bind the pod to the node.
    Bind(Box<Bind>),
    /// Extenders have a say: see [`Scheduler::settle`].
    Consult(Box<Consult>),
    /// It fits nowhere.
    Refused(Box<Refused>),
    /// The pod is not to be tried (it is being deleted).
    Skipped,
}

/// What a pod needs before it is bound.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its volumes.
    pub volumes: volume_binding::Plan,
    /// Its devices.
    pub devices: dynamic_resources::Plan,
}

/// A pod and its node.
pub struct Bind {
    /// The pod.
    pub waiting: Waiting,
    /// The node's name.
    pub node: String,
    /// Its volumes and devices.
    pub plan: Plan,
    /// When the try began.
    pub started: Instant,
    /// How many nodes were looked at, and how many would have done.
    pub evaluated: (usize, usize),
}

/// A pod with nodes that will do as far as plugins are concerned.
pub struct Consult {
    /// The pod.
    pub waiting: Waiting,
    /// Names and scores.
    pub ranked: Vec<(String, i64)>,
    /// When the try began.
    pub started: Instant,
}

/// A pod that fits nowhere.
pub struct Refused {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Why, for people.
    pub message: String,
    /// A new nomination: `Some("")` voids the old one.
    pub nominate: Option<String>,
    /// Pods that must go.
    pub victims: Vec<Arc<Pod>>,
    /// Pods of lower priority whose nomination is void now.
    pub outbid: Vec<Arc<Pod>>,
    /// Where room could be made, if extenders are to judge that: see [`Scheduler::promise`].
    pub choices: Vec<Choice>,
}

impl Refused {
    fn new(pod: Arc<Pod>) -> Self {
        Self { pod, message: String::new(), nominate: None, victims: Vec::new(), outbid: Vec::new(), choices: Vec::new() }
    }

    /// Promises the pod the node where it does least harm.
    fn promise(&mut self, cluster: &mut Cluster) {
        let choices = std::mem::take(&mut self.choices);
        let Some(choice) = best(choices, |choice| (&choice.victims, choice.violations)) else { return };
        metrics::VICTIMS.observe(choice.victims.len() as f64);
        let lower = cluster.nominated.on(&choice.node).iter().filter(|other| other.spec.priority < self.pod.spec.priority);
        self.outbid = lower.cloned().collect();
        for other in &self.outbid {
            cluster.nominated.remove(other.uid());
        }
        cluster.nominated.set(self.pod.clone(), &choice.node);
        self.nominate = Some(choice.node);
        self.victims = choice.victims;
    }
}

impl Scheduler {
    /// A scheduler with these profiles, by `schedulerName`.
    pub fn new(profiles: Vec<Profile>, backoff: Backoff, stores: Stores) -> Self {
        Self::extended(profiles, backoff, stores, Vec::new())
    }

    /// The same with extenders.
    pub fn extended(profiles: Vec<Profile>, backoff: Backoff, stores: Stores, extenders: Vec<Extender>) -> Self {
        let core = Core {
            cluster: Cluster::default(),
            queue: Queue::new(backoff),
            rotation: Rotation::default(),
            counted: None,
            counted_events: 0,
        };
        let profiles = profiles.into_iter().map(|profile| (profile.name.clone(), Arc::new(profile))).collect();
        Self(Arc::new(Shared { core: Mutex::new(core), wake: Notify::new(), stores, profiles, extenders }))
    }

    /// Everything that plugins look up besides nodes and pods.
    pub fn stores(&self) -> &Stores {
        &self.0.stores
    }

    /// The extenders that have a say about a pod.
    pub fn extenders(&self, pod: &Pod) -> Vec<Extender> {
        self.0.extenders.iter().filter(|extender| extender.interested(pod)).cloned().collect()
    }

    /// The profile of a pod, if it is ours to place.
    pub fn profile(&self, pod: &Pod) -> Option<&Arc<Profile>> {
        self.0.profiles.get(&pod.spec.scheduler_name)
    }

    /// Notes a pod as it is now; `old` is what it was before.
    pub fn upsert_pod(&self, old: Option<&Arc<Pod>>, new: &Arc<Pod>) {
        if new.is_terminal() {
            return self.remove_pod(new);
        }
        let now = Instant::now();
        let mut core = self.0.core.lock();
        if new.node_name.is_empty() {
            let assumed = core.cluster.placed(new.uid()).is_some();
            if assumed || self.profile(new).is_none() {
                return;
            }
            if new.terminating() {
                core.queue.remove(new.uid());
                core.cluster.nominated.remove(new.uid());
                return;
            }
            if !new.nominated.is_empty() || old.is_some_and(|old| !old.nominated.is_empty()) {
                core.cluster.nominated.set(new.clone(), &new.nominated);
            }
            core.queue.upsert(new.clone(), now);
        } else {
            let uid = new.uid();
            let before = core.cluster.placed(uid);
            core.queue.remove(uid);
            core.cluster.nominated.remove(uid);
            core.cluster.upsert_pod(new.clone());
            let event = match (old, before) {
                (Some(old), Some((_, false))) => Event::AssignedPodUpdated(old.clone(), new.clone()),
                // Confirmed as assumed: nothing new for others but what assuming it was.
                (_, Some((_, true))) => Event::AssignedPodAdded(new.clone()),
                _ => Event::AssignedPodAdded(new.clone()),
            };
            core.queue.on_event(&event, now);
        }
        drop(core);
        self.0.wake.notify_one();
    }

    /// Notes that a pod is gone, or needs its node no more.
    pub fn remove_pod(&self, pod: &Arc<Pod>) {
        let mut core = self.0.core.lock();
        core.queue.remove(pod.uid());
        let nominated = core.cluster.nominated.node_of(pod.uid()).is_some();
        core.cluster.nominated.remove(pod.uid());
        let placed = core.cluster.placed(pod.uid()).is_some();
        core.cluster.remove_pod(pod.uid());
        if placed || nominated {
            core.queue.on_event(&Event::AssignedPodDeleted(pod.clone()), Instant::now());
            drop(core);
            self.0.wake.notify_one();
        }
    }

    /// Notes a node as it is now.
    pub fn upsert_node(&self, old: Option<&Arc<Node>>, new: &Arc<Node>) {
        let mut core = self.0.core.lock();
        core.cluster.upsert_node(new.clone());
        let event = match old {
            Some(old) => Event::NodeUpdated(old.clone(), new.clone()),
            None => Event::NodeAdded(new.clone()),
        };
        if core.queue.on_event(&event, Instant::now()) > 0 {
            drop(core);
            self.0.wake.notify_one();
        }
    }

    /// Notes that a node is gone.
    pub fn remove_node(&self, name: &str) {
        self.0.core.lock().cluster.remove_node(name);
    }

    /// Notes anything else that may help a waiting pod.
    pub fn on_event(&self, event: &Event) {
        if self.0.core.lock().queue.on_event(event, Instant::now()) > 0 {
            self.0.wake.notify_one();
        }
    }

    /// Tries the next pod, if one is ready. What follows from it is the caller's to do, see [`Effects`].
    pub fn step(&self) -> Option<Step> {
        let started = Instant::now();
        let mut core = self.0.core.lock();
        let waiting = core.queue.pop(started)?;
        let pod = waiting.pod.clone();
        let Some(profile) = self.profile(&pod).cloned() else { return Some(Step::Skipped) };
        if pod.terminating() {
            core.queue.remove(pod.uid());
            return Some(Step::Skipped);
        }
        let Core { cluster, queue, rotation, .. } = &mut *core;
        cluster.refresh();
        let asks = |extender: &Extender| !(extender.filter.is_empty() && extender.prioritize.is_empty());
        let consult = self.0.extenders.iter().any(|extender| asks(extender) && extender.interested(&pod));
        let (decision, post) = decide(cluster, &self.0.stores, &profile, &pod, rotation, consult);
        metrics::ALGORITHM_SECONDS.observe(started.elapsed().as_secs_f64());
        match decision {
            Ok(Found::One(node, plan, evaluated)) => {
                let node = assume(cluster, &self.0.stores, &pod, node, &plan);
                Some(Step::Bind(Box::new(Bind { waiting, node, plan, started, evaluated })))
            }
            Ok(Found::Many(ranked)) => {
                let ranked = ranked.into_iter().map(|(idx, score)| (cluster.node(idx).name.to_string(), score)).collect();
                Some(Step::Consult(Box::new(Consult { waiting, ranked, started })))
            }
            Err(diagnosis) => {
                let total = cluster.order().len();
                let mut refused = Refused::new(pod.clone());
                let mut by = diagnosis.plugins();
                let text = match post {
                    None => None,
                    Some(Outcome::NotEligible(why)) => Some(why.to_owned()),
                    Some(Outcome::Hopeless(why)) => {
                        if !pod.nominated.is_empty() || cluster.nominated.node_of(pod.uid()).is_some() {
                            refused.nominate = Some(String::new());
                            cluster.nominated.remove(pod.uid());
                        }
                        Some(why)
                    }
                    Some(Outcome::Found(candidates)) => {
                        let name = |idx| cluster.node(idx).name.to_string();
                        let choices = candidates.into_iter().map(|candidate| Choice {
                            node: name(candidate.node),
                            victims: candidate.victims,
                            violations: candidate.violations,
                        });
                        refused.choices = choices.collect();
                        let judged = self.0.extenders.iter().any(|one| !one.preempt.is_empty() && one.interested(&pod));
                        if !judged {
                            refused.promise(cluster);
                        }
                        by.push("DefaultPreemption");
                        None
                    }
                };
                let text = text.map(|text| format!("{POST_FILTER_MESSAGE}, preemption: {text}"));
                refused.message = diagnosis.message(total, text.as_deref());
                queue.refused(pod.uid(), by, started);
                Some(Step::Refused(Box::new(refused)))
            }
        }
    }

    /// Ends a consultation: the best of `ranked` that still will do is taken. `failed` are the nodes that extenders refused.
    pub fn settle(&self, consult: Consult, mut ranked: Vec<(String, i64)>, failed: Vec<(String, Failure)>) -> Step {
        let Consult { waiting, started, ranked: considered } = consult;
        let pod = waiting.pod.clone();
        let mut core = self.0.core.lock();
        let Some(profile) = self.profile(&pod).filter(|_| core.queue.get(pod.uid()).is_some()) else { return Step::Skipped };
        let Core { cluster, queue, .. } = &mut *core;
        cluster.refresh();
        let total = cluster.order().len();
        let mut diagnosis = Diagnosis::default();
        let mut chosen = None;
        match Attempt::begin(cluster, &self.0.stores, profile, &pod) {
            Err(found) => diagnosis = found,
            Ok(mut attempt) => {
                ranked.sort_by_key(|(_, score)| std::cmp::Reverse(*score));
                for (name, _) in &ranked {
                    let Some(idx) = cluster.find(name).filter(|idx| cluster.node(*idx).node.is_some()) else { continue };
                    match attempt.check_with_nominated(idx, cluster.node(idx)) {
                        Ok(()) => {
                            chosen = Some(idx);
                            break;
                        }
                        Err(failure) => diagnosis.nodes.push((idx, failure)),
                    }
                }
                diagnosis.nodes.extend(failed.into_iter().filter_map(|(name, failure)| Some((cluster.find(&name)?, failure))));
            }
        }
        let Some(idx) = chosen else {
            let message = diagnosis.message(total, None);
            queue.refused(pod.uid(), vec!["Extender"], started);
            return Step::Refused(Box::new(Refused { message, ..Refused::new(pod) }));
        };
        let plan = plan_for(cluster, &self.0.stores, &pod, idx);
        let node = assume(cluster, &self.0.stores, &pod, idx, &plan);
        let evaluated = (considered.len(), ranked.len());
        Step::Bind(Box::new(Bind { waiting, node, plan, started, evaluated }))
    }

    /// Takes the best of the choices that extenders left.
    pub fn promise(&self, refused: &mut Refused) {
        refused.promise(&mut self.0.core.lock().cluster);
    }

    /// Something went wrong on the way to a decision: the pod is tried again after a while.
    pub fn failed(&self, pod: &Pod) {
        self.0.core.lock().queue.failed(pod.uid(), Instant::now());
        self.0.wake.notify_one();
    }

    /// The pod could not be bound: it gives its place up and is tried again after a while.
    pub fn unbind(&self, pod: &Arc<Pod>, plan: &Plan) {
        forget_volumes(&self.0.stores, &plan.volumes);
        dynamic_resources::forget(&self.0.stores, pod, &plan.devices);
        let now = Instant::now();
        let mut core = self.0.core.lock();
        if core.cluster.placed(pod.uid()).is_some_and(|(_, assumed)| assumed) {
            core.cluster.remove_pod(pod.uid());
            core.queue.on_event(&Event::AssignedPodDeleted(pod.clone()), now);
        }
        core.queue.failed(pod.uid(), now);
        drop(core);
        self.0.wake.notify_one();
    }

    /// Schedules until `tasks` stop.
    pub async fn run(self, effects: Effects, tasks: Tasks) {
        let permits = Arc::new(Semaphore::new(MAX_BINDING));
        let stop = tasks.token();
        let mut measured = Instant::now();
        loop {
            if measured.elapsed() >= COUNT_INTERVAL {
                self.measure();
                measured = Instant::now();
            }
            let Some(Ok(permit)) = stop.run_until_cancelled(permits.clone().acquire_owned()).await else { return };
            match self.step() {
                Some(step) => {
                    let (scheduler, effects) = (self.clone(), effects.clone());
                    match step {
                        Step::Skipped => {}
                        Step::Bind(bind) => tasks.spawn("bind", async move {
                            effects.bind(&scheduler, *bind).await;
                            drop(permit);
                        }),
                        Step::Consult(consult) => tasks.spawn("consult", async move {
                            effects.consult(&scheduler, *consult).await;
                            drop(permit);
                        }),
                        Step::Refused(refused) => tasks.spawn("refuse", async move {
                            effects.refuse(&scheduler, *refused).await;
                            drop(permit);
                        }),
                    }
                    // Let watch events and bindings in between decisions.
                    tokio::task::yield_now().await;
                }
                None => {
                    drop(permit);
                    let due = self.measure();
                    let sleep = async {
                        match due {
                            Some(due) => tokio::time::sleep_until(due).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.0.wake.notified() => {}
                        () = sleep => {}
                    }
                }
            }
        }
    }

    /// Sets the gauges; when something falls due.
    fn measure(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut core = self.0.core.lock();
        let lengths = core.queue.lengths();
        for (queue, length) in [
            ("active", lengths.active),
            ("backoff", lengths.backoff),
            ("unschedulable", lengths.unschedulable),
            ("gated", lengths.gated),
        ] {
            metrics::PENDING.with_label_values(&[queue]).set(length as i64);
        }
        let (pods, assumed) = core.cluster.counts();
        for (kind, count) in [("nodes", core.cluster.order().len()), ("pods", pods), ("assumed_pods", assumed)] {
            metrics::CACHE_SIZE.with_label_values(&[kind]).set(count as i64);
        }
        let due = core.queue.next_due();
        // Who refused whom takes a look at every pod: not more often than that.
        if let Some(last) = core.counted.filter(|last| now < *last + COUNT_INTERVAL) {
            return if core.queue.events() == core.counted_events {
                due
            } else {
                due.into_iter().chain([last + COUNT_INTERVAL]).min()
            };
        }
        metrics::UNSCHEDULABLE.reset();
        for ((plugin, profile), count) in core.queue.refusals() {
            metrics::UNSCHEDULABLE.with_label_values(&[plugin, &profile]).set(count as i64);
        }
        core.counted = Some(now);
        core.counted_events = core.queue.events();
        due
    }
}

/// What a decision found.
enum Found {
    /// This node, with these volumes; how many nodes were looked at, and how many would have done.
    One(NodeIdx, Plan, (usize, usize)),
    /// These nodes, with scores, for extenders to choose from.
    Many(Vec<(NodeIdx, i64)>),
}

type Decision = Result<Found, Diagnosis>;

/// Chooses a node, and volumes there; where there is none, sees whether others can make room.
fn decide(
    cluster: &Cluster,
    stores: &Stores,
    profile: &Profile,
    pod: &Pod,
    rotation: &mut Rotation,
    consult: bool,
) -> (Decision, Option<Outcome>) {
    let mut attempt = match Attempt::begin(cluster, stores, profile, pod) {
        Ok(attempt) => attempt,
        Err(diagnosis) => {
            let total = cluster.order().len();
            if total == 0 {
                return (Err(Diagnosis { no_nodes: true, ..diagnosis }), None);
            }
            // No node can help, and upstream says that in these words.
            let why = format!("0/{total} nodes are available: {total} Preemption is not helpful for scheduling.");
            return (Err(diagnosis), profile.preempts.then_some(Outcome::Hopeless(why)));
        }
    };
    let found = if consult {
        attempt.rank(rotation).map(Found::Many)
    } else {
        attempt.choose(rotation).map(|choice| {
            let plan = plan_for(cluster, stores, pod, choice.node);
            Found::One(choice.node, plan, (choice.evaluated, choice.feasible))
        })
    };
    match found {
        Ok(found) => (Ok(found), None),
        Err(diagnosis) if diagnosis.no_nodes || !profile.preempts => (Err(diagnosis), None),
        Err(diagnosis) => {
            metrics::PREEMPTIONS.inc();
            let since = Instant::now();
            let outcome = preempt(&mut attempt, &diagnosis, rotation.start);
            metrics::point("PostFilter", &profile.name, matches!(outcome, Outcome::Found(_)), since);
            (Err(diagnosis), Some(outcome))
        }
    }
}

/// What the pod needs on the node, which has been found to have it.
fn plan_for(cluster: &Cluster, stores: &Stores, pod: &Pod, idx: NodeIdx) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = &cluster.node(idx).node else { return plan };
    if !pod.spec.volumes.is_empty() {
        plan.volumes = volume_binding::plan(stores, pod, node).unwrap_or_default();
    }
    if !pod.spec.resource_claims.is_empty() {
        plan.devices = dynamic_resources::plan(stores, pod, node).unwrap_or_default();
    }
    plan
}

/// Takes the node and the volumes for the pod; the node's name.
fn assume(cluster: &mut Cluster, stores: &Stores, pod: &Arc<Pod>, idx: NodeIdx, plan: &Plan) -> String {
    let since = Instant::now();
    let name = cluster.node(idx).name.to_string();
    cluster.nominated.remove(pod.uid());
    let mut assumed = Pod::clone(pod);
    assumed.node_name.clone_from(&name);
    cluster.assume(Arc::new(assumed), idx);
    assume_volumes(stores, &plan.volumes, &name);
    dynamic_resources::assume(stores, pod, &plan.devices);
    metrics::point("Reserve", &pod.spec.scheduler_name, true, since);
    name
}

/// Takes the planned volumes at once, so that the next pod does not.
fn assume_volumes(stores: &Stores, plan: &volume_binding::Plan, node: &str) {
    for (claim, volume) in &plan.bind {
        let mut taken = (**volume).clone();
        taken.claim = (claim.key(), claim.uid().to_owned());
        stores.volumes.put(volume.name(), Arc::new(taken));
    }
    for claim in &plan.provision {
        let mut waiting = (**claim).clone();
        node.clone_into(&mut waiting.selected_node);
        stores.claims.put(&claim.key(), Arc::new(waiting));
    }
}

/// Gives planned volumes back, where nothing newer is known about them.
fn forget_volumes(stores: &Stores, plan: &volume_binding::Plan) {
    for (_, volume) in &plan.bind {
        let now = stores.volumes.get(volume.name());
        if now.is_some_and(|now| now.metadata.resource_version == volume.metadata.resource_version) {
            stores.volumes.put(volume.name(), volume.clone());
        }
    }
    for claim in &plan.provision {
        let now = stores.claims.get(&claim.key());
        if now.is_some_and(|now| now.metadata.resource_version == claim.metadata.resource_version) {
            stores.claims.put(&claim.key(), claim.clone());
        }
    }
}

#[cfg(test)]
mod tests;
