//! Servers and etcd are killed (SIGKILL) under a concurrent load of writes; the recorded history is then checked: nothing that was
//! acknowledged is lost, nothing is there that nobody wrote, and what was answered is in the order of time.
#![allow(clippy::unwrap_used)]

mod fixture;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fixture::{Etcd, Process, version};
use parking_lot::Mutex;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// What became of an operation.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// Done, at this version.
    Done(u64),
    /// Surely not done.
    Refused(u16),
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Debug)]
enum Act {
    /// This name was made.
    Create(String),
    /// This name was removed.
    Delete(String),
    /// This key was added to the shared map.
    Add(String),
    /// The counter went from this to the next number, by compare-and-swap.
    Count(u64),
    /// The counter was read: this number.
    Read(u64),
}

#[derive(Clone, Debug)]
struct Operation {
    act: Act,
    began: u64,
    ended: u64,
    outcome: Outcome,
}

#[derive(Default)]
struct History {
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, act: Act, began: u64, outcome: Outcome) {
        let ended = self.tick();
        self.operations.lock().push(Operation { act, began, ended, outcome });
    }
}

fn outcome(answer: &Result<(u16, Value), String>) -> Outcome {
    match answer {
        Ok((200 | 201, object)) => {
            let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            Outcome::Done(version.unwrap_or(0))
        }
        Ok((code, _)) if *code < 500 && *code != 429 => Outcome::Refused(*code),
        // 5xx: etcd may have done it all the same.
        _ => Outcome::Unknown,
    }
}

async fn writer(number: usize, servers: Arc<[Process; 2]>, history: Arc<History>, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let server = &servers[(number + round) % 2];
        let name = format!("w{number}-{round}");
        let began = history.tick();
        let body = json!({"metadata": {"name": name}, "data": {"by": name}}).to_string();
        let answer = server.ask("POST", MAPS, JSON, &body).await;
        let made = outcome(&answer);
        history.note(Act::Create(name.clone()), began, made.clone());
        if matches!(made, Outcome::Done(_)) && round % 3 == 0 {
            let began = history.tick();
            let answer = server.ask("DELETE", &format!("{MAPS}/{name}"), JSON, "").await;
            let gone = match outcome(&answer) {
                // The answer names no version of its own.
                Outcome::Done(_) => Outcome::Done(0),
                other => other,
            };
            history.note(Act::Delete(name.clone()), began, gone);
        }
        let began = history.tick();
        let answer = server.ask("PATCH", &format!("{MAPS}/shared"), MERGE, &json!({"data": {&name: name}}).to_string()).await;
        history.note(Act::Add(name.clone()), began, outcome(&answer));
        let began = history.tick();
        let Ok((200, mut counter)) = server.ask("GET", &format!("{MAPS}/counter"), JSON, "").await else {
            // Down: make room for those who bring it up again.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let read: u64 = counter["data"]["n"].as_str().unwrap().parse().unwrap();
        history.note(Act::Read(read), began, Outcome::Done(version(&counter)));
        counter["data"]["n"] = (read + 1).to_string().into();
        let began = history.tick();
        let answer = server.ask("PUT", &format!("{MAPS}/counter"), JSON, &counter.to_string()).await;
        history.note(Act::Count(read + 1), began, outcome(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_none_invented() {
    // With fsync: what etcd acknowledges is on disk.
    let mut etcd = Etcd::start_with(&[]);
    let servers = Arc::new([Process::new(&etcd), Process::new(&etcd)]);
    for server in servers.iter() {
        server.run();
        server.until_ready().await;
    }
    for (name, data) in [("shared", json!({})), ("counter", json!({"n": "0"}))] {
        let body = json!({"metadata": {"name": name}, "data": data}).to_string();
        assert_eq!(servers[0].ask("POST", MAPS, JSON, &body).await.unwrap().0, 201);
    }
    let (history, stop) = (Arc::new(History::default()), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> =
        (0..8).map(|number| tokio::spawn(writer(number, servers.clone(), history.clone(), stop.clone()))).collect();
    let done = |history: &History| history.operations.lock().iter().filter(|op| matches!(op.outcome, Outcome::Done(_))).count();
    let more = async |count: usize| {
        let from = done(&history);
        while done(&history) < from + count {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    more(200).await;
    for round in 0..4 {
        // One server, then etcd, then both at once; each time work goes on before the next blow.
        servers[round % 2].kill();
        more(20).await;
        servers[round % 2].run();
        more(100).await;
        etcd.stop();
        if round == 3 {
            servers[0].kill();
        }
        etcd.run("data");
        if round == 3 {
            servers[0].run();
        }
        more(100).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // What is there in the end, as etcd's own reader and both servers tell.
    let operations = history.operations.lock().clone();
    let mut finals = Vec::new();
    for server in servers.iter() {
        server.until_ready().await;
        let (code, list) = server.ask("GET", MAPS, JSON, "").await.unwrap();
        assert_eq!(code, 200);
        finals.push(list["items"].as_array().unwrap().clone());
    }
    assert_eq!(finals[0], finals[1], "the servers disagree");
    check(&operations, &finals[0]);
    let unknown = operations.iter().filter(|op| op.outcome == Outcome::Unknown).count();
    assert!(unknown > 0, "the blows hit nothing");
}

fn check(operations: &[Operation], items: &[Value]) {
    let there: HashMap<&str, &Value> = items.iter().map(|item| (item["metadata"]["name"].as_str().unwrap(), item)).collect();
    let deletes: HashMap<&str, &Outcome> = operations
        .iter()
        .filter_map(|op| if let Act::Delete(name) = &op.act { Some((name.as_str(), &op.outcome)) } else { None })
        .collect();
    let mut tried: HashSet<&str> = HashSet::from(["shared", "counter", "kube-root-ca.crt"]);
    let shared = there["shared"]["data"].as_object().unwrap();
    let (mut added, mut counted, mut most, mut read) = (HashSet::new(), HashMap::new(), 0, 0);
    for op in operations {
        match (&op.act, &op.outcome) {
            (Act::Create(name), outcome) => {
                tried.insert(name);
                let deleted = deletes.get(name.as_str());
                match (outcome, deleted) {
                    (Outcome::Done(_), None | Some(Outcome::Refused(_))) => {
                        assert!(there.contains_key(name.as_str()), "{name} was acknowledged and is lost");
                    }
                    (Outcome::Done(_), Some(Outcome::Done(_))) => assert!(!there.contains_key(name.as_str()), "{name} is back"),
                    (Outcome::Refused(_), _) => assert!(!there.contains_key(name.as_str()), "{name} was refused and is there"),
                    _ => {}
                }
                if let Some(found) = there.get(name.as_str()) {
                    assert_eq!(found["data"], json!({"by": name}));
                }
            }
            (Act::Add(name), outcome) => {
                added.insert(name.as_str());
                match outcome {
                    Outcome::Done(_) => assert!(shared.contains_key(name), "{name} was added and is lost"),
                    Outcome::Refused(code) => assert!(!shared.contains_key(name), "{name} was refused ({code}) and is there"),
                    Outcome::Unknown => {}
                }
            }
            (Act::Count(to), Outcome::Done(version)) => {
                // Each number is reached once: no update is lost.
                assert!(counted.insert(*to, *version).is_none(), "two were told that they counted to {to}");
                most = most.max(*to);
            }
            (Act::Count(to), Outcome::Unknown) => most = most.max(*to),
            (Act::Read(number), _) => read = read.max(*number),
            _ => {}
        }
    }
    for name in there.keys() {
        assert!(tried.contains(name), "{name} was invented");
    }
    for (key, value) in shared {
        assert!(added.contains(key.as_str()) && value == key, "{key} was invented");
    }
    let last: u64 = there["counter"]["data"]["n"].as_str().unwrap().parse().unwrap();
    assert!(counted.keys().all(|to| *to <= last) && last <= most, "the counter is at {last}");
    assert!(read <= last, "somebody read {read}, which was never there");
    // Versions tell the order of time: of writes, and of what reads have seen.
    let mut by_start: Vec<&Operation> = operations.iter().filter(|op| matches!(op.outcome, Outcome::Done(v) if v > 0)).collect();
    by_start.sort_by_key(|op| op.began);
    let mut by_end = by_start.clone();
    by_end.sort_by_key(|op| op.ended);
    let version = |op: &Operation| if let Outcome::Done(version) = op.outcome { version } else { 0 };
    let (mut ended, mut newest_write, mut newest_count) = (by_end.iter().peekable(), 0, 0);
    for op in by_start {
        while let Some(before) = ended.next_if(|before| before.ended < op.began) {
            match before.act {
                Act::Read(_) => {}
                Act::Count(_) => {
                    newest_count = newest_count.max(version(before));
                    newest_write = newest_write.max(version(before));
                }
                _ => newest_write = newest_write.max(version(before)),
            }
        }
        match op.act {
            Act::Read(_) => assert!(version(op) >= newest_count, "a read was stale: {op:?} after {newest_count}"),
            _ => assert!(version(op) > newest_write, "a write went back in time: {op:?} after {newest_write}"),
        }
    }
}

#[test]
fn the_checker_sees_what_is_wrong() {
    let item = |name: &str, data: Value| json!({"metadata": {"name": name}, "data": data});
    let base = || vec![item("shared", json!({"k": "k"})), item("counter", json!({"n": "2"}))];
    let op = |act: Act, began: u64, outcome: Outcome| Operation { act, began, ended: began + 1, outcome };
    let good = || {
        vec![
            op(Act::Add("k".into()), 0, Outcome::Done(10)),
            op(Act::Count(1), 2, Outcome::Done(11)),
            op(Act::Read(1), 4, Outcome::Done(11)),
            op(Act::Count(2), 6, Outcome::Unknown),
        ]
    };
    let wrong = |operations: &[Operation], items: &[Value]| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(operations, items))).is_err()
    };
    assert!(!wrong(&good(), &base()));
    let with = |extra: Operation| {
        let mut operations = good();
        operations.push(extra);
        operations
    };
    assert!(wrong(&with(op(Act::Create("lost".into()), 8, Outcome::Done(20))), &base()), "a lost create");
    assert!(wrong(&with(op(Act::Add("lost".into()), 8, Outcome::Done(20))), &base()), "a lost patch");
    assert!(wrong(&with(op(Act::Count(1), 8, Outcome::Done(20))), &base()), "a lost update");
    assert!(wrong(&with(op(Act::Count(3), 8, Outcome::Done(20))), &base()), "a lost count");
    assert!(wrong(&with(op(Act::Read(0), 8, Outcome::Done(9))), &base()), "a stale read");
    assert!(wrong(&with(op(Act::Count(2), 8, Outcome::Done(5))), &base()), "a version that goes back");
    assert!(wrong(&with(op(Act::Read(3), 8, Outcome::Done(20))), &base()), "a number that was never there");
    let mut invented = base();
    invented.push(item("invented", json!({})));
    assert!(wrong(&good(), &invented));
    assert!(wrong(&good(), &[item("shared", json!({"k": "k", "x": "x"})), item("counter", json!({"n": "2"}))]));
}
