//! The controllers as they are, against an API server in memory, in virtual time: watches lag, writes fail before or after they took
//! effect, processes are killed at any instant and start again, users scale and roll and delete, pods start, fail and end. Rules are
//! checked at every single write; in the end, left alone, everything must come to rest as the users wished.
//!
//! `RK_MODEL_SEEDS=200` tries more histories; a broken rule names its seed.

mod server;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use client::events::Recorder;
use client::informer::Informers;
use component::tasks::Tasks;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use kube_controller_manager::config::Config;
use kube_controller_manager::context::Context;
use kube_controller_manager::controllers::CONTROLLERS;
use kube_controller_manager::options::Options;
use kube_controller_manager::pods::slim;
use rand::Rng;
use serde_json::{Value, json};
use server::{Change, Check, Objects, Server};

thread_local! {
    static START: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// Virtual time. Each test has its thread.
fn now() -> Timestamp {
    let start = START.get().unwrap_or_else(|| {
        START.set(Some(tokio::time::Instant::now()));
        tokio::time::Instant::now()
    });
    let seconds = i64::try_from(start.elapsed().as_secs()).unwrap_or(0);
    Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::from_secs(seconds)
}

/// One life of a controller manager.
struct Process {
    alive: Arc<AtomicBool>,
    tasks: Tasks,
}

impl Process {
    fn start(server: &Server, names: &[&str]) -> Process {
        let (alive, tasks) = (Arc::new(AtomicBool::new(true)), Tasks::new());
        let client = server.client(Arc::clone(&alive));
        let config = Config::new(Options::parse_from(["kube-controller-manager", "--kubeconfig=/none"])).unwrap();
        let config = Arc::new(config);
        let informers = Informers::new(client.clone(), tasks.clone());
        informers.trim(slim::slim);
        let (recorder, _) = Recorder::for_tests();
        for row in CONTROLLERS.iter().filter(|row| names.contains(&row.name)) {
            let ctx = Context {
                name: row.name,
                client: client.clone(),
                watches: client.clone(),
                config: Arc::clone(&config),
                tasks: tasks.clone(),
                informers: informers.clone(),
                recorder: recorder.clone(),
                clock: now,
            };
            let (starting, stop) = ((row.start)(ctx), tasks.token());
            tasks.spawn(row.name, async move {
                if let Some(started) = stop.run_until_cancelled(starting).await {
                    started.expect("the controller starts");
                }
            });
        }
        Process { alive, tasks }
    }

    /// From this instant nothing that it sends arrives, and nothing arrives at it.
    fn kill(self) {
        self.alive.store(false, Ordering::Release);
        self.tasks.stop();
    }
}

const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// Scheduler and kubelets: pods are bound, start, end and go, each step now or later.
fn live(server: &Server) {
    let pods: Vec<Value> = server.state.lock().objects.get("pods").into_iter().flatten().map(|(_, pod)| pod.clone()).collect();
    let stamp = now().to_string();
    for pod in pods {
        if server.random(|rng| rng.random_bool(0.6)) {
            continue;
        }
        let (meta, mut next) = (&pod["metadata"], pod.clone());
        let path = format!("/api/v1/namespaces/d/pods/{}", meta["name"].as_str().unwrap());
        let ready =
            |yes: bool| json!([{"type": "Ready", "status": if yes { "True" } else { "False" }, "lastTransitionTime": stamp}]);
        let ended = |phase: &str| {
            let state = json!({"terminated": {"exitCode": i32::from(phase == "Failed"), "finishedAt": stamp}});
            json!({"phase": phase, "conditions": ready(false), "containerStatuses":
                [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
        };
        let phase = pod["status"]["phase"].as_str().unwrap_or("");
        if meta["deletionTimestamp"].is_string() {
            if phase == "Running" || phase == "Pending" {
                next["status"] = ended("Failed");
                server.call(&Method::PUT, &format!("{path}/status"), &next);
            } else {
                server.call(&Method::DELETE, &path, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}));
            }
        } else if pod["spec"]["nodeName"].is_null() {
            let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
            let node = pod.pointer(terms).cloned().unwrap_or_else(|| json!(NODES[server.random(|rng| rng.random_range(0..3))]));
            next["spec"]["nodeName"] = node;
            server.call(&Method::PUT, &path, &next);
        } else if phase == "Pending" {
            next["status"] = json!({"phase": "Running", "conditions": ready(true)});
            server.call(&Method::PUT, &format!("{path}/status"), &next);
        } else if phase == "Running" && meta["ownerReferences"][0]["kind"] == "Job" && server.random(|rng| rng.random_bool(0.4)) {
            let fails = server.random(|rng| rng.random_bool(0.15));
            next["status"] = ended(if fails { "Failed" } else { "Succeeded" });
            server.call(&Method::PUT, &format!("{path}/status"), &next);
        }
    }
}

/// A user (or a node that dies): one more thing happens.
fn meddle(server: &Server, path: &str, scales: bool, rolls: bool) {
    match server.random(|rng| rng.random_range(0..10)) {
        0..4 if scales => {
            let replicas = server.random(|rng| rng.random_range(0..8));
            server.call(&Method::PATCH, path, &json!({"spec": {"replicas": replicas}}));
        }
        4..6 if rolls => {
            let image = server.random(|rng| rng.random_range(0..3));
            let template = json!({"metadata": {"annotations": {"image": image.to_string()}}});
            server.call(&Method::PATCH, path, &json!({"spec": {"template": template}}));
        }
        6..9 => {
            let names: Vec<String> =
                server.state.lock().objects.get("pods").into_iter().flatten().map(|(key, _)| key.clone()).collect();
            if !names.is_empty() {
                let name = &names[server.random(|rng| rng.random_range(0..names.len()))];
                let options =
                    if server.random(|rng| rng.random_bool(0.3)) { json!({"gracePeriodSeconds": 0}) } else { json!({}) };
                server.call(&Method::DELETE, &format!("/api/v1/namespaces/d/pods/{}", client::split_key(name).1), &options);
            }
        }
        _ => {}
    }
}

/// A history: chaos for a while, then calm until `settled`, or never.
struct Story {
    names: &'static [&'static str],
    path: &'static str,
    scales: bool,
    rolls: bool,
    check: fn() -> Check,
    setup: fn(&Server),
    settled: fn(&Objects) -> Result<(), String>,
}

async fn play(story: &Story, seed: u64) {
    let server = Server::new(seed, (story.check)());
    for node in NODES {
        server.call(&Method::POST, "/api/v1/nodes", &json!({"metadata": {"name": node}, "status": {}}));
    }
    (story.setup)(&server);
    {
        let mut state = server.state.lock();
        state.trouble = 0.05;
        state.lag = Duration::from_secs(3);
    }
    let mut process = Process::start(&server, story.names);
    for _ in 0..400 {
        let pause = server.random(|rng| rng.random_range(1..400));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        live(&server);
        if server.random(|rng| rng.random_bool(0.15)) {
            meddle(&server, story.path, story.scales, story.rolls);
        }
        if server.random(|rng| rng.random_bool(0.03)) {
            process.kill();
            process = Process::start(&server, story.names);
        }
        let broken = server.state.lock().broken.clone();
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
    }
    server.state.lock().trouble = 0.0;
    let mut state = Err("never looked at".to_owned());
    for _ in 0..4000 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        live(&server);
        state = (story.settled)(&server.state.lock().objects);
        if state.is_ok() {
            break;
        }
    }
    // Rest is rest: what has settled stays.
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        live(&server);
    }
    let after = (story.settled)(&server.state.lock().objects);
    process.kill();
    let broken = server.state.lock().broken.clone();
    assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
    assert_eq!((state, after), (Ok(()), Ok(())), "seed {seed}: never came to rest");
}

fn tell(story: &Story) {
    let seeds = std::env::var("RK_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    for seed in 0..seeds {
        START.set(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(story, seed));
    }
}

fn nothing() -> Check {
    Box::new(|_, _, _| None)
}

fn all<'a>(objects: &'a Objects, resource: &str) -> impl Iterator<Item = &'a Value> {
    objects.get(resource).into_iter().flat_map(BTreeMap::values)
}

fn is_active(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Value) -> bool {
    is_active(pod) && pod["status"]["conditions"][0]["status"] == "True"
}

fn active(objects: &Objects) -> Vec<&Value> {
    all(objects, "pods").filter(|pod| is_active(pod)).collect()
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, have: T, want: T) -> Result<(), String> {
    if have == want { Ok(()) } else { Err(format!("{what}: {have:?} instead of {want:?}")) }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn selector() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

/// No more than the most that was ever wished, whatever happens.
fn never_too_many(resource: &'static str, spare: usize) -> Check {
    let mut most = 0;
    Box::new(move |objects, changed, _| {
        let wanted = all(objects, resource).filter_map(|object| object["spec"]["replicas"].as_u64()).max().unwrap_or(0);
        most = most.max(usize::try_from(wanted).unwrap() + spare);
        let have = active(objects).len();
        (changed == "pods" && have > most).then(|| format!("{have} pods, never more than {most} wanted"))
    })
}

#[test]
fn replica_sets_never_have_too_many_pods_and_end_with_the_right_number() {
    tell(&Story {
        names: &["replicaset-controller"],
        path: "/apis/apps/v1/namespaces/d/replicasets/web",
        scales: true,
        rolls: false,
        check: || never_too_many("replicasets", 0),
        setup: |server| {
            let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
                "spec": {"replicas": 5, "selector": selector(), "template": template()}});
            server.call(&Method::POST, "/apis/apps/v1/namespaces/d/replicasets", &set);
            // An orphan to adopt.
            let pod = json!({"metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": {"containers": []}});
            server.call(&Method::POST, "/api/v1/namespaces/d/pods", &pod);
        },
        settled: |objects| {
            let set = &objects["replicasets"]["d/web"];
            let wanted = set["spec"]["replicas"].as_u64().unwrap();
            expect("active", active(objects).len() as u64, wanted)?;
            expect("pods", all(objects, "pods").count() as u64, wanted)?;
            expect("readyReplicas", set["status"]["readyReplicas"].as_u64().unwrap_or(0), wanted)?;
            expect("observedGeneration", &set["status"]["observedGeneration"], &set["metadata"]["generation"])
        },
    });
}

#[test]
fn deployments_come_to_rest_with_one_revision_of_the_right_size() {
    tell(&Story {
        names: &["deployment-controller", "replicaset-controller"],
        path: "/apis/apps/v1/namespaces/d/deployments/web",
        scales: true,
        rolls: true,
        // Both sets may be up to date with different wishes of the past: each alone keeps to its own.
        check: || {
            let mut most: HashMap<String, usize> = HashMap::new();
            Box::new(move |objects, changed, _| {
                for set in all(objects, "replicasets") {
                    let wanted = usize::try_from(set["spec"]["replicas"].as_u64().unwrap_or(0)).unwrap();
                    let uid = set["metadata"]["uid"].as_str().unwrap().to_owned();
                    let entry = most.entry(uid.clone()).or_default();
                    *entry = (*entry).max(wanted);
                    let have =
                        active(objects).iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == json!(uid)).count();
                    if changed == "pods" && have > *entry {
                        return Some(format!("{have} pods of {uid}, never more than {entry} wanted"));
                    }
                }
                None
            })
        },
        setup: |server| {
            let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec":
                {"replicas": 4, "selector": selector(), "template": template(), "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}});
            server.call(&Method::POST, "/apis/apps/v1/namespaces/d/deployments", &deployment);
        },
        settled: |objects| {
            let deployment = &objects["deployments"]["d/web"];
            let wanted = deployment["spec"]["replicas"].as_u64().unwrap();
            let image = &deployment["spec"]["template"]["metadata"]["annotations"]["image"];
            expect("active", active(objects).len() as u64, wanted)?;
            for pod in active(objects) {
                expect("image", &pod["metadata"]["annotations"]["image"], image)?;
            }
            expect("updatedReplicas", deployment["status"]["updatedReplicas"].as_u64().unwrap_or(0), wanted)?;
            expect("availableReplicas", deployment["status"]["availableReplicas"].as_u64().unwrap_or(0), wanted)?;
            expect("replicas", deployment["status"]["replicas"].as_u64().unwrap_or(0), wanted)?;
            expect("observedGeneration", &deployment["status"]["observedGeneration"], &deployment["metadata"]["generation"])?;
            let sets: Vec<&Value> = all(objects, "replicasets").collect();
            let templates: BTreeSet<String> =
                sets.iter().map(|set| set["spec"]["template"]["metadata"]["annotations"].to_string()).collect();
            expect("sets with different templates", templates.len(), sets.len())?;
            expect("old sets at most two", sets.len() <= 3, true)
        },
    });
}

fn stateful(policy: &str) -> Value {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"}, "spec": {"replicas": 3, "serviceName": "web",
        "selector": selector(), "template": template(), "podManagementPolicy": policy, "volumeClaimTemplates": [claim],
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}})
}

fn stateful_settled(objects: &Objects) -> Result<(), String> {
    let set = &objects["statefulsets"]["d/web"];
    let wanted = set["spec"]["replicas"].as_u64().unwrap();
    let names: Vec<String> = active(objects).iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    expect("names", names, (0..wanted).map(|n| format!("web-{n}")).collect())?;
    let image = &set["spec"]["template"]["metadata"]["annotations"]["image"];
    for pod in active(objects) {
        expect("image", &pod["metadata"]["annotations"]["image"], image)?;
        let claim = format!("d/data-{}", pod["metadata"]["name"].as_str().unwrap());
        expect("claim", objects["persistentvolumeclaims"].contains_key(&claim), true)?;
    }
    expect("readyReplicas", set["status"]["readyReplicas"].as_u64().unwrap_or(0), wanted)?;
    expect("currentRevision", &set["status"]["currentRevision"], &set["status"]["updateRevision"])?;
    expect("observedGeneration", &set["status"]["observedGeneration"], &set["metadata"]["generation"])
}

#[test]
fn stateful_sets_keep_their_names_and_come_to_rest_in_order() {
    tell(&Story {
        names: &["statefulset-controller"],
        path: "/apis/apps/v1/namespaces/d/statefulsets/web",
        scales: true,
        rolls: true,
        // In order: when a pod is made, every one before it is there.
        check: || {
            let mut rule = never_too_many("statefulsets", 0);
            let mut removed: Vec<String> = Vec::new();
            Box::new(move |objects, resource, change| {
                if let (Change::Removed(pod), "pods") = (&change, resource) {
                    removed.push(pod["metadata"]["name"].as_str().unwrap().to_owned());
                }
                if let (Change::Created(pod), "pods") = (&change, resource) {
                    let ordinal: u32 = pod["metadata"]["name"].as_str().unwrap().trim_start_matches("web-").parse().unwrap();
                    for before in 0..ordinal {
                        let name = format!("web-{before}");
                        // One that went since the controller looked is not the controller's fault.
                        if !objects["pods"].contains_key(&format!("d/{name}")) && !removed.contains(&name) {
                            return Some(format!("web-{ordinal} was made before {name}"));
                        }
                    }
                }
                rule(objects, resource, change)
            })
        },
        setup: |server| drop(server.call(&Method::POST, "/apis/apps/v1/namespaces/d/statefulsets", &stateful("OrderedReady"))),
        settled: stateful_settled,
    });
}

#[test]
fn parallel_stateful_sets_come_to_rest_too() {
    tell(&Story {
        names: &["statefulset-controller"],
        path: "/apis/apps/v1/namespaces/d/statefulsets/web",
        scales: true,
        rolls: true,
        check: || never_too_many("statefulsets", 0),
        setup: |server| drop(server.call(&Method::POST, "/apis/apps/v1/namespaces/d/statefulsets", &stateful("Parallel"))),
        settled: stateful_settled,
    });
}

#[test]
fn daemon_sets_have_one_pod_on_each_node() {
    tell(&Story {
        names: &["daemonset-controller"],
        path: "/apis/apps/v1/namespaces/d/daemonsets/web",
        scales: false,
        rolls: true,
        check: || {
            Box::new(|objects, changed, change| {
                let (Change::Created(_), "pods") = (change, changed) else { return None };
                let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
                let mut seen = BTreeSet::new();
                let mut double =
                    active(objects).into_iter().filter(|pod| !seen.insert(pod.pointer(affinity).map(Value::to_string)));
                double.next().map(|pod| format!("two pods for one node: {}", pod["metadata"]["name"]))
            })
        },
        setup: |server| {
            let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"}, "spec": {"selector": selector(),
                "template": template(), "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}}});
            server.call(&Method::POST, "/apis/apps/v1/namespaces/d/daemonsets", &set);
        },
        settled: |objects| {
            let set = &objects["daemonsets"]["d/web"];
            let mut nodes: Vec<&str> = active(objects).iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
            nodes.sort_unstable();
            expect("nodes", nodes, NODES.to_vec())?;
            let image = &set["spec"]["template"]["metadata"]["annotations"]["image"];
            for pod in active(objects) {
                expect("image", &pod["metadata"]["annotations"]["image"], image)?;
                expect("ready", is_ready(pod), true)?;
            }
            expect("updatedNumberScheduled", set["status"]["updatedNumberScheduled"].as_u64(), Some(3))?;
            expect("numberAvailable", set["status"]["numberAvailable"].as_u64(), Some(3))?;
            expect("observedGeneration", &set["status"]["observedGeneration"], &set["metadata"]["generation"])
        },
    });
}

/// Ends of pods as they were, each uid once: what the Job must have counted.
fn job(indexed: bool) -> Value {
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "web"}, "spec": {"completions": 12, "parallelism": 4,
        "completionMode": mode, "backoffLimit": 1000, "selector": selector(), "template": template}})
}

/// Every pod that ended is counted once: as many ends as the status says, whatever crashed in between.
fn counted_once() -> Check {
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    Box::new(move |objects, changed, change| {
        if changed == "pods" {
            let (Change::Created(pod) | Change::Updated(pod) | Change::Removed(pod)) = change;
            let phase = pod["status"]["phase"].as_str().unwrap_or("").to_owned();
            // A pod that is removed while it runs was forced away; with the tracking finalizer that cannot be.
            if matches!(phase.as_str(), "Succeeded" | "Failed") || pod["metadata"]["deletionTimestamp"].is_string() {
                let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
                if ended.get(&uid).is_none_or(|known| known != "Succeeded") {
                    ended.insert(uid, phase);
                }
            }
            let have = active(objects).len();
            return (have > 4).then(|| format!("{have} active pods, parallelism is 4"));
        }
        let job = objects.get("jobs")?.get("d/web")?;
        let status = &job["status"];
        let succeeded = status["succeeded"].as_u64().unwrap_or(0) as usize;
        let failed = status["failed"].as_u64().unwrap_or(0) as usize;
        let really = ended.values().filter(|phase| *phase == "Succeeded").count();
        if succeeded > really || succeeded > 12 {
            return Some(format!("{succeeded} counted as succeeded, {really} did"));
        }
        let others = ended.len() - really;
        (failed > others).then(|| format!("{failed} counted as failed, {others} did"))
    })
}

fn job_settled(objects: &Objects) -> Result<(), String> {
    let job = &objects["jobs"]["d/web"];
    expect("succeeded", job["status"]["succeeded"].as_u64(), Some(12))?;
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    expect(
        "Complete",
        conditions.iter().any(|condition| condition["type"] == "Complete" && condition["status"] == "True"),
        true,
    )?;
    expect("active", active(objects).len(), 0)?;
    let held = all(objects, "pods").filter(|pod| pod["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()));
    expect("pods held by the tracking finalizer", held.count(), 0)
}

#[test]
fn jobs_count_every_end_once_and_complete() {
    tell(&Story {
        names: &["job-controller"],
        path: "/apis/batch/v1/namespaces/d/jobs/web",
        scales: false,
        rolls: false,
        check: counted_once,
        setup: |server| drop(server.call(&Method::POST, "/apis/batch/v1/namespaces/d/jobs", &job(false))),
        settled: job_settled,
    });
}

#[test]
fn indexed_jobs_run_each_index_to_its_end() {
    tell(&Story {
        names: &["job-controller"],
        path: "/apis/batch/v1/namespaces/d/jobs/web",
        scales: false,
        rolls: false,
        check: || {
            let mut rule = counted_once();
            Box::new(move |objects, resource, change| {
                if let (Change::Created(_), "pods") = (&change, resource) {
                    let index =
                        |pod: &Value| pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].to_string();
                    let mut seen = BTreeSet::new();
                    if let Some(pod) = active(objects).into_iter().find(|pod| !seen.insert(index(pod))) {
                        return Some(format!("two active pods for index {}", index(pod)));
                    }
                }
                rule(objects, resource, change)
            })
        },
        setup: |server| drop(server.call(&Method::POST, "/apis/batch/v1/namespaces/d/jobs", &job(true))),
        settled: |objects| {
            job_settled(objects)?;
            expect("completedIndexes", objects["jobs"]["d/web"]["status"]["completedIndexes"].as_str(), Some("0-11"))
        },
    });
}

#[test]
fn the_model_itself_finds_a_controller_that_is_not_there() {
    // Proof that the last word counts: without a controller nothing comes to rest.
    let story = Story {
        names: &[],
        path: "/apis/apps/v1/namespaces/d/replicasets/web",
        scales: false,
        rolls: false,
        check: nothing,
        setup: |_| {},
        settled: |objects| expect("active", active(objects).len(), 1),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    START.set(None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(&story, 0))));
    assert!(outcome.is_err());
}
