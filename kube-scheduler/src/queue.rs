//! Pods that wait: ready to be tried, backing off, unschedulable until something changes, or gated.
//!
//! Not locked and without a clock: its owner passes the time in.
//!
//! Upstream: pkg/scheduler/backend/queue

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Event;
use crate::metrics;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::plugin;
use crate::plugin::scheduling_gates::gated;

/// How long pods wait between tries.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure. Upstream: podInitialBackoffSeconds, 1 s.
    pub initial: Duration,
    /// At most. Upstream: podMaxBackoffSeconds, 10 s.
    pub max: Duration,
    /// So long at most without any event: events can be missed. Upstream: 5 min.
    pub unschedulable: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { initial: seconds(1), max: seconds(10), unschedulable: seconds(300) }
    }
}

/// A waiting pod.
#[derive(Clone)]
pub struct Waiting {
    /// The pod as last seen.
    pub pod: Arc<Pod>,
    /// How often it has been tried.
    pub attempts: u32,
    /// How often it was refused in a row; the exponent of its backoff.
    refusals: u32,
    /// Since when it waits in its place.
    since: Instant,
    /// When it first came.
    pub first: Instant,
    /// How many events there had been when it was handed out.
    events: u64,
    /// Who refused it last; empty after errors.
    pub refused_by: Vec<&'static str>,
    place: Place,
}

/// Where a pod waits, with its position there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Active(Rank),
    /// Until then. Not after errors, pods come early when nothing else is to be done.
    Backoff(Instant, u64, bool),
    /// Since then.
    Unschedulable(Instant, u64),
    Gated,
    /// Handed out by [`Queue::pop`].
    InFlight,
}

type Rank = (Reverse<i32>, Instant, u64);

/// The queues.
pub struct Queue {
    backoff: Backoff,
    pods: HashMap<String, Waiting>,
    active: BTreeMap<Rank, String>,
    backing_off: BTreeMap<(Instant, u64), String>,
    unschedulable: BTreeMap<(Instant, u64), String>,
    gated: usize,
    tickets: u64,
    /// How many events there have been: one that comes while a pod is being decided on must not be lost on it.
    events: u64,
}

/// How many pods wait where: the labels of `scheduler_pending_pods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Ready.
    pub active: usize,
    /// Backing off.
    pub backoff: usize,
    /// Unschedulable.
    pub unschedulable: usize,
    /// Gated.
    pub gated: usize,
}

impl Queue {
    /// Empty queues.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            pods: HashMap::new(),
            active: BTreeMap::new(),
            backing_off: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            gated: 0,
            tickets: 0,
            events: 0,
        }
    }

    /// How many wait where.
    pub fn lengths(&self) -> Lengths {
        Lengths {
            active: self.active.len(),
            backoff: self.backing_off.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated,
        }
    }

    /// How many unschedulable pods each plugin has refused, by plugin and profile.
    pub fn refusals(&self) -> HashMap<(&'static str, String), usize> {
        let mut out = HashMap::new();
        for waiting in self.unschedulable.values().filter_map(|uid| self.pods.get(uid)) {
            for plugin in &waiting.refused_by {
                *out.entry((*plugin, waiting.pod.spec.scheduler_name.clone())).or_default() += 1;
            }
        }
        out
    }

    /// How many events there have been.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A waiting pod by uid.
    pub fn get(&self, uid: &str) -> Option<&Waiting> {
        self.pods.get(uid)
    }

    /// Adds a pod that is not bound, or notes its change. A change that may help moves it.
    pub fn upsert(&mut self, pod: Arc<Pod>, now: Instant) {
        let uid = pod.uid().to_owned();
        self.events += 1;
        let Some(waiting) = self.pods.get_mut(&uid) else {
            let waiting = Waiting {
                pod,
                attempts: 0,
                refusals: 0,
                since: now,
                first: now,
                refused_by: Vec::new(),
                events: 0,
                place: Place::InFlight,
            };
            self.pods.insert(uid.clone(), waiting);
            self.ready(&uid, now, "PodAdd");
            return;
        };
        let old = std::mem::replace(&mut waiting.pod, pod.clone());
        match waiting.place {
            // The order may depend on what changed.
            Place::Active(rank) if old.spec.priority != pod.spec.priority || gated(&pod) => {
                self.active.remove(&rank);
                self.ready(&uid, now, "PodUpdate");
            }
            Place::Gated if !gated(&pod) => {
                self.gated -= 1;
                self.ready(&uid, now, "PodUpdate");
            }
            // A change of its status alone (the condition just written, say) helps nothing.
            Place::Unschedulable(..)
                if old.spec == pod.spec && old.labels() == pod.labels() && old.generated_claims == pod.generated_claims => {}
            Place::Unschedulable(..) => {
                let event = Event::PodUpdated(old, pod);
                if helps(&self.pods[&uid], &event) {
                    self.wake(&uid, now, event.label());
                }
            }
            _ => {}
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.remove(uid) {
            self.leave(waiting.place);
        }
    }

    /// The next pod to try: by priority, then by age. It stays known until [`Queue::remove`], [`Queue::refused`] or [`Queue::failed`].
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        self.flush(now);
        let uid = match self.active.pop_first() {
            Some((_, uid)) => uid,
            None => {
                // Nothing better to do: whoever backs off may try early, but not after errors.
                let early = self.backing_off.iter().find(|(_, uid)| {
                    matches!(self.pods.get(*uid).map(|waiting| waiting.place), Some(Place::Backoff(_, _, true)))
                });
                let (key, uid) = early.map(|(key, uid)| (*key, uid.clone()))?;
                self.backing_off.remove(&key);
                uid
            }
        };
        let waiting = self.pods.get_mut(&uid)?;
        waiting.place = Place::InFlight;
        waiting.events = self.events;
        waiting.attempts += 1;
        Some(waiting.clone())
    }

    /// The pod fits nowhere: it waits for an event that helps.
    pub fn refused(&mut self, uid: &str, by: Vec<&'static str>, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.refusals += 1;
        waiting.refused_by = by;
        waiting.since = now;
        let missed = waiting.events != self.events;
        self.tickets += 1;
        waiting.place = Place::Unschedulable(now, self.tickets);
        self.unschedulable.insert((now, self.tickets), uid.to_owned());
        if missed {
            // Something happened while extenders were asked: it may have helped.
            return self.wake(uid, now, "ScheduleAttemptFailure");
        }
        metrics::INCOMING.with_label_values(&["ScheduleAttemptFailure", "unschedulable"]).inc();
    }

    /// Something went wrong that has nothing to do with the cluster: it is tried again after a while.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.refusals += 1;
        waiting.refused_by = Vec::new();
        waiting.since = now;
        let until = now + self.backoff.after(waiting.refusals);
        self.tickets += 1;
        waiting.place = Place::Backoff(until, self.tickets, false);
        self.backing_off.insert((until, self.tickets), uid.to_owned());
        metrics::INCOMING.with_label_values(&["ScheduleAttemptFailure", "backoff"]).inc();
    }

    /// Wakes the pods that an event may help; how many.
    pub fn on_event(&mut self, event: &Event, now: Instant) -> usize {
        self.events += 1;
        if self.unschedulable.is_empty() {
            return 0;
        }
        let helped: Vec<String> = self
            .unschedulable
            .values()
            .filter(|uid| self.pods.get(*uid).is_some_and(|waiting| helps(waiting, event)))
            .cloned()
            .collect();
        for uid in &helped {
            self.wake(uid, now, event.label());
        }
        helped.len()
    }

    /// When [`Queue::pop`] may have something to give that it has not now.
    pub fn next_due(&self) -> Option<Instant> {
        let flush = self.unschedulable.keys().next().map(|(since, _)| *since + self.backoff.unschedulable);
        self.backing_off.keys().next().map(|(until, _)| *until).into_iter().chain(flush).min()
    }

    fn flush(&mut self, now: Instant) {
        while let Some(entry) = self.backing_off.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let uid = entry.remove();
            self.ready(&uid, now, "BackoffComplete");
        }
        let limit = self.backoff.unschedulable;
        let old = self.unschedulable.iter().take_while(|((since, _), _)| now >= *since + limit);
        for uid in old.map(|(_, uid)| uid.clone()).collect::<Vec<_>>() {
            self.wake(&uid, now, Event::Timeout.label());
        }
    }

    /// Moves an unschedulable pod to where it will be tried: at once if its backoff is over.
    fn wake(&mut self, uid: &str, now: Instant, event: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        if let Place::Unschedulable(since, ticket) = waiting.place {
            self.unschedulable.remove(&(since, ticket));
        }
        let until = waiting.since + self.backoff.after(waiting.refusals);
        if until > now {
            self.tickets += 1;
            waiting.place = Place::Backoff(until, self.tickets, true);
            self.backing_off.insert((until, self.tickets), uid.to_owned());
            metrics::INCOMING.with_label_values(&[event, "backoff"]).inc();
        } else {
            self.ready(uid, now, event);
        }
    }

    fn ready(&mut self, uid: &str, now: Instant, event: &str) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        if gated(&waiting.pod) {
            waiting.place = Place::Gated;
            self.gated += 1;
            metrics::INCOMING.with_label_values(&[event, "gated"]).inc();
            return;
        }
        self.tickets += 1;
        // By age of the pod in the queue, as upstream's timestamp: a pod that was tried goes to the end of its priority.
        let rank = (Reverse(waiting.pod.spec.priority), if waiting.attempts == 0 { waiting.first } else { now }, self.tickets);
        waiting.place = Place::Active(rank);
        self.active.insert(rank, uid.to_owned());
        metrics::INCOMING.with_label_values(&[event, "active"]).inc();
    }

    fn leave(&mut self, place: Place) {
        match place {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(until, ticket, _) => drop(self.backing_off.remove(&(until, ticket))),
            Place::Unschedulable(since, ticket) => drop(self.unschedulable.remove(&(since, ticket))),
            Place::Gated => self.gated -= 1,
            Place::InFlight => {}
        }
    }
}

impl Backoff {
    fn after(&self, refusals: u32) -> Duration {
        self.initial.saturating_mul(2_u32.saturating_pow(refusals.saturating_sub(1).min(30))).min(self.max)
    }
}

/// Whether one of those who refused the pod says that the event helps. Without knowing who refused, any event does.
fn helps(waiting: &Waiting, event: &Event) -> bool {
    if matches!(event, Event::Timeout) || waiting.refused_by.is_empty() {
        return true;
    }
    waiting
        .refused_by
        .iter()
        .any(|name| plugin::by_name(name).and_then(|plugin| plugin.hint).is_none_or(|hint| hint(&waiting.pod, event)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<Pod> {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let value = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "schedulingGates": gates, "containers": []}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now).map(|waiting| waiting.pod.name().to_owned())).collect()
    }

    #[test]
    fn priority_first_then_age() {
        let now = Instant::now();
        let mut queue = Queue::new(Backoff::default());
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.upsert(pod(name, priority, &[]), now);
        }
        queue.remove("c");
        assert_eq!(names(&mut queue, now), ["b", "d", "a"]);
    }

    #[test]
    fn what_happens_during_a_decision_is_not_missed() {
        let now = Instant::now();
        let mut queue = Queue::new(Backoff::default());
        queue.upsert(pod("a", 0, &[]), now);
        queue.pop(now);
        queue.on_event(&Event::AssignedPodDeleted(pod("x", 0, &[])), now);
        queue.refused("a", vec!["NodeResourcesFit"], now);
        assert_eq!((queue.lengths().unschedulable, queue.lengths().backoff), (0, 1));
    }

    #[test]
    fn gated_pods_wait_for_their_last_gate() {
        let now = Instant::now();
        let mut queue = Queue::new(Backoff::default());
        queue.upsert(pod("a", 0, &["x"]), now);
        assert_eq!((names(&mut queue, now).len(), queue.lengths().gated), (0, 1));
        queue.upsert(pod("a", 0, &[]), now);
        assert_eq!(names(&mut queue, now), ["a"]);
    }

    #[test]
    fn refused_pods_wait_for_an_event_that_helps() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut queue = Queue::new(Backoff::default());
        queue.upsert(pod("a", 0, &[]), start);
        queue.upsert(pod("b", 0, &[]), start);
        queue.pop(start);
        queue.refused("a", vec!["NodeResourcesFit"], start);
        queue.pop(start);
        queue.refused("b", vec!["NodePorts"], start);
        let gone = pod("x", 0, &[]);
        assert_eq!(queue.on_event(&Event::AssignedPodAdded(gone.clone()), start), 0);
        assert_eq!(queue.on_event(&Event::AssignedPodDeleted(gone.clone()), start), 1);
        // Idle: its backoff need not be over.
        assert_eq!(queue.lengths().backoff, 1);
        assert_eq!(names(&mut queue, start), ["a"]);
        queue.failed("a", start);
        assert_eq!(names(&mut queue, start + second).len(), 0, "the second failure waits for two seconds, whoever is idle");
        assert_eq!(names(&mut queue, start + 2 * second), ["a"]);
        assert_eq!(names(&mut queue, start + 300 * second), ["b"]);
    }
}
