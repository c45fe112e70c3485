//! A model of the whole: an API that keeps objects, watches that lag behind it, and controllers that crash. Whatever the order of
//! things, no more pods may exist at once than the set ever wanted, and in the end exactly as many as it wants now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::plan::{self, Observed, Scale};
use crate::expectations::Expectations;
use crate::key::Key;

/// What the server has, and what the watch has still to tell.
struct World {
    wanted: i32,
    pods: BTreeMap<String, Arc<Pod>>,
    events: VecDeque<Event>,
    names: u32,
}

enum Event {
    Wanted(i32),
    Added(Arc<Pod>),
    Removed(String),
}

/// One controller process: its cache and its expectations die with it.
struct Process {
    wanted: i32,
    cache: BTreeMap<String, Arc<Pod>>,
    expectations: Expectations,
}

impl World {
    fn create(&mut self) {
        self.names += 1;
        let name = format!("p{}", self.names);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": "web"}, "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]}, "status": {"phase": "Running"}})).unwrap();
        let pod = Arc::new(pod);
        self.pods.insert(name, Arc::clone(&pod));
        self.events.push_back(Event::Added(pod));
    }

    fn remove(&mut self, name: &str) -> bool {
        let there = self.pods.remove(name).is_some();
        if there {
            self.events.push_back(Event::Removed(name.to_owned()));
        }
        there
    }
}

impl Process {
    /// A fresh process lists before it acts: its cache is what the server has now.
    fn start(world: &mut World) -> Process {
        world.events.clear();
        Process { wanted: world.wanted, cache: world.pods.clone(), expectations: Expectations::default() }
    }

    fn deliver(&mut self, event: Event, key: &Key) {
        match event {
            Event::Wanted(wanted) => self.wanted = wanted,
            Event::Added(pod) => {
                self.cache.insert(pod.name_any(), pod);
                self.expectations.creation_observed(key);
            }
            Event::Removed(name) => {
                self.cache.remove(&name);
                self.expectations.deletion_observed(key, &name);
            }
        }
    }

    /// One sync; `crash_after` writes the process dies in the middle of it, and `fails` makes writes fail now and then.
    fn sync(&self, world: &mut World, key: &Key, crash_after: Option<usize>, rng: &mut StdRng) {
        let set: ReplicaSet = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "rs"},
            "spec": {"replicas": self.wanted, "selector": {"matchLabels": {"app": "web"}}}}))
        .unwrap();
        let pods: Vec<Arc<Pod>> = self.cache.values().cloned().collect();
        let observed = Observed { set: Arc::new(set), related: pods.clone(), pods, settled: self.expectations.satisfied(key) };
        let active = plan::claims(&observed).keep;
        let mut writes = crash_after.unwrap_or(usize::MAX);
        match plan::scale(&observed, &active, jiff::Timestamp::UNIX_EPOCH) {
            Scale::Nothing => {}
            Scale::Create(count) => {
                self.expectations.expect_creations(key, count);
                for _ in 0..count {
                    if writes == 0 {
                        return;
                    }
                    writes -= 1;
                    if rng.random_bool(0.1) { self.expectations.creation_observed(key) } else { world.create() }
                }
            }
            Scale::Delete(doomed) => {
                self.expectations.expect_deletions(key, doomed.iter().map(|pod| pod.uid().unwrap()));
                for pod in doomed {
                    if writes == 0 {
                        return;
                    }
                    writes -= 1;
                    if rng.random_bool(0.1) || !world.remove(&pod.name_any()) {
                        self.expectations.deletion_observed(key, &pod.uid().unwrap());
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_interleaving_of_writes_crashes_and_late_events_makes_surplus_pods() {
    let key = Key::new("d", "web");
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World { wanted: 5, pods: BTreeMap::new(), events: VecDeque::new(), names: 0 };
        let mut process = Process::start(&mut world);
        let mut most = 5;
        for _ in 0..200 {
            match rng.random_range(0..100) {
                0..40 => process.sync(&mut world, &key, None, &mut rng),
                40..80 => {
                    if let Some(event) = world.events.pop_front() {
                        process.deliver(event, &key);
                    }
                }
                80..88 => {
                    world.wanted = rng.random_range(0..12);
                    most = most.max(world.wanted);
                    world.events.push_back(Event::Wanted(world.wanted));
                }
                88..95 => {
                    let victim = world.pods.keys().nth(rng.random_range(0..world.pods.len().max(1))).cloned();
                    if let Some(victim) = victim {
                        world.remove(&victim);
                    }
                }
                _ => {
                    let after = rng.random_range(0..4);
                    process.sync(&mut world, &key, Some(after), &mut rng);
                    process = Process::start(&mut world);
                }
            }
            assert!(
                world.pods.len() <= usize::try_from(most).unwrap(),
                "seed {seed}: {} pods, never more than {most} wanted",
                world.pods.len()
            );
        }
        // Left alone, it settles on what is wanted.
        for _ in 0..200 {
            while let Some(event) = world.events.pop_front() {
                process.deliver(event, &key);
            }
            process.sync(&mut world, &key, None, &mut rng);
        }
        assert_eq!(world.pods.len(), usize::try_from(world.wanted).unwrap(), "seed {seed}");
    }
}
