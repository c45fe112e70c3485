//! The loop without an API server: what it assumes, gives back and never forgets, under any order of news.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;

fn scheduler() -> Scheduler {
    Scheduler::new(vec![Profile::named("default-scheduler")], Backoff::default(), Stores::default())
}

fn node(name: &str, cpu: &str) -> Arc<Node> {
    let value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, on: &str, cpu: &str) -> Arc<Pod> {
    decode(json!({
        "metadata": {"name": name, "uid": name, "namespace": "d"},
        "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
    }))
}

fn decode(value: Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn bound(pod: &Pod, on: &str) -> Arc<Pod> {
    let mut pod = pod.clone();
    on.clone_into(&mut pod.node_name);
    Arc::new(pod)
}

fn bind(step: Option<Step>) -> Box<Bind> {
    match step {
        Some(Step::Bind(bind)) => bind,
        Some(Step::Refused(refused)) => panic!("refused: {}", refused.message),
        _ => panic!("nothing to bind"),
    }
}

fn free(scheduler: &Scheduler, name: &str) -> Option<i64> {
    let core = scheduler.0.core.lock();
    let info = core.cluster.node(core.cluster.find(name)?);
    Some(info.allocatable.milli_cpu - info.requested.milli_cpu)
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_gives_the_place_back_and_is_tried_again_after_a_while() {
    let scheduler = scheduler();
    scheduler.upsert_node(None, &node("a", "1"));
    scheduler.upsert_pod(None, &pod("p", "", "1"));
    let first = bind(scheduler.step());
    assert_eq!((first.node.as_str(), free(&scheduler, "a")), ("a", Some(0)));
    scheduler.unbind(&first.waiting.pod, &first.plan);
    assert_eq!(free(&scheduler, "a"), Some(1000));
    assert!(scheduler.step().is_none(), "after an error even an idle scheduler waits");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(bind(scheduler.step()).waiting.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_while_a_pod_is_bound_to_it_is_not_forgotten() {
    let scheduler = scheduler();
    scheduler.upsert_node(None, &node("a", "1"));
    scheduler.upsert_pod(None, &pod("p", "", "1"));
    let first = bind(scheduler.step());
    scheduler.remove_node("a");
    scheduler.upsert_node(None, &node("a", "1"));
    assert_eq!(free(&scheduler, "a"), Some(0), "the binding may still succeed");
    scheduler.upsert_pod(Some(&first.waiting.pod), &bound(&first.waiting.pod, "a"));
    scheduler.upsert_pod(None, &pod("q", "", "1"));
    assert!(matches!(scheduler.step(), Some(Step::Refused(_))));
    scheduler.remove_pod(&bound(&first.waiting.pod, "a"));
    assert_eq!(bind(scheduler.step()).waiting.pod.name(), "q");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_another_scheduler_binds_elsewhere_counts_where_it_is() {
    let scheduler = scheduler();
    scheduler.upsert_node(None, &node("a", "1"));
    scheduler.upsert_node(None, &node("b", "1"));
    scheduler.upsert_pod(None, &pod("p", "", "1"));
    let ours = bind(scheduler.step());
    let elsewhere = if ours.node == "a" { "b" } else { "a" };
    scheduler.upsert_pod(Some(&ours.waiting.pod), &bound(&ours.waiting.pod, elsewhere));
    assert_eq!((free(&scheduler, &ours.node), free(&scheduler, elsewhere)), (Some(1000), Some(0)));
    // Our own binding fails, of course: that must not take the pod off the other node.
    scheduler.unbind(&ours.waiting.pod, &ours.plan);
    assert_eq!(free(&scheduler, elsewhere), Some(0));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert!(scheduler.step().is_none(), "it is bound: nobody tries it again");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_at_the_start_counts_in_any_order() {
    let scheduler = scheduler();
    scheduler.upsert_pod(None, &pod("old", "a", "1"));
    scheduler.upsert_pod(None, &pod("new", "", "1"));
    scheduler.upsert_node(None, &node("a", "1500m"));
    assert!(matches!(scheduler.step(), Some(Step::Refused(_))));
    scheduler.upsert_node(None, &node("b", "1"));
    assert_eq!(bind(scheduler.step()).node, "b");
}

/// Whatever the order of pods, nodes, confirmations, failed bindings and deletions: no node gets more than it has, sums are those of
/// the pods, and in the end nobody waits who would fit.
#[tokio::test(start_paused = true)]
async fn no_order_of_news_breaks_the_sums_or_loses_a_pod() {
    for seed in 0..150 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let scheduler = scheduler();
        // What the API has: nodes with their room, pods with their size and place.
        let mut nodes: HashMap<String, i64> = HashMap::new();
        let mut pods: HashMap<String, (i64, Option<String>)> = HashMap::new();
        let mut binding: Vec<Box<Bind>> = Vec::new();
        let mut made = 0;
        for _ in 0..120 {
            match rng.random_range(0..10) {
                0 => {
                    let name = format!("n{}", rng.random_range(0..4));
                    let cpu = rng.random_range(1..5) * 1000;
                    if nodes.insert(name.clone(), cpu).is_none() {
                        scheduler.upsert_node(None, &node(&name, &format!("{cpu}m")));
                    } else {
                        let old = scheduler.0.core.lock().cluster.find(&name);
                        let old = old.and_then(|idx| scheduler.0.core.lock().cluster.node(idx).node.clone());
                        scheduler.upsert_node(old.as_ref(), &node(&name, &format!("{cpu}m")));
                    }
                }
                1 => {
                    if let Some(name) = nodes.keys().min().cloned().filter(|_| rng.random_bool(0.3)) {
                        nodes.remove(&name);
                        scheduler.remove_node(&name);
                    }
                }
                2..=4 => {
                    let (name, cpu) = (format!("p{made}"), rng.random_range(1..9) * 250);
                    made += 1;
                    scheduler.upsert_pod(None, &pod(&name, "", &format!("{cpu}m")));
                    pods.insert(name, (cpu, None));
                }
                5 => {
                    let mut names: Vec<_> = pods.keys().cloned().collect();
                    names.sort();
                    if let Some(name) = names.get(rng.random_range(0..names.len().max(1))) {
                        let (cpu, on) = pods.remove(name).unwrap();
                        scheduler.remove_pod(&pod(name, on.as_deref().unwrap_or(""), &format!("{cpu}m")));
                    }
                }
                6..=7 => match scheduler.step() {
                    Some(Step::Bind(bind)) => binding.push(bind),
                    Some(Step::Refused(_) | Step::Skipped) | None => {}
                    Some(Step::Consult(_)) => panic!("there are no extenders"),
                },
                _ if !binding.is_empty() => {
                    let bind = binding.swap_remove(rng.random_range(0..binding.len()));
                    finish(&scheduler, &mut pods, &bind, rng.random_bool(0.7));
                }
                _ => tokio::time::advance(std::time::Duration::from_millis(300)).await,
            }
        }
        // Everything comes to rest.
        for _ in 0..1_000 {
            for bind in binding.drain(..) {
                finish(&scheduler, &mut pods, &bind, true);
            }
            match scheduler.step() {
                Some(Step::Bind(bind)) => binding.push(bind),
                Some(_) => {}
                None => match scheduler.measure().filter(|due| *due < Instant::now() + std::time::Duration::from_secs(60)) {
                    Some(due) => tokio::time::advance(due - Instant::now()).await,
                    None => break,
                },
            }
        }
        let mut used: HashMap<&str, i64> = HashMap::new();
        for (cpu, on) in pods.values() {
            if let Some(on) = on {
                *used.entry(on).or_default() += cpu;
            }
        }
        for (name, room) in &nodes {
            let (used, known) = (used.get(name.as_str()).copied().unwrap_or(0), free(&scheduler, name));
            assert_eq!(known, Some(room - used), "seed {seed}: the sums of {name}");
            for (waiting, (cpu, on)) in &pods {
                assert!(
                    on.is_some() || *cpu > room - used,
                    "seed {seed}: {waiting} ({cpu}) waits, and {name} has {} left",
                    room - used
                );
            }
        }
    }
}

/// The API's answer to a binding, and the watch event that follows from it.
fn finish(scheduler: &Scheduler, pods: &mut HashMap<String, (i64, Option<String>)>, bind: &Bind, good: bool) {
    let name = bind.waiting.pod.name();
    match pods.get_mut(name).filter(|_| good) {
        Some((_, on)) => {
            assert!(on.is_none(), "{name} is bound twice");
            *on = Some(bind.node.clone());
            scheduler.upsert_pod(Some(&bind.waiting.pod), &bound(&bind.waiting.pod, &bind.node));
        }
        None => scheduler.unbind(&bind.waiting.pod, &bind.plan),
    }
}
