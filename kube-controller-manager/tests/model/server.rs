//! An API server in memory: objects, versions, conflicts, finalizers, graceful deletion, and watches that lag. It serves any resource
//! by its path, and knows of kinds only how pods are deleted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::Service;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What happened to an object, as it is now or was last.
pub(crate) enum Change<'a> {
    Created(&'a Value),
    Updated(&'a Value),
    Removed(&'a Value),
}

pub(crate) type Check = Box<dyn FnMut(&Objects, &str, Change<'_>) -> Option<String> + Send>;

/// By resource, then by `namespace/name`.
pub(crate) type Objects = BTreeMap<String, BTreeMap<String, Value>>;

pub(crate) struct State {
    pub(crate) objects: Objects,
    log: BTreeMap<String, Vec<(u64, &'static str, Value)>>,
    version: u64,
    names: u64,
    pub(crate) rng: StdRng,
    /// The share of writes that fail, before or after they took effect.
    pub(crate) trouble: f64,
    /// The longest time that a watch event may take.
    pub(crate) lag: Duration,
    /// Called at every change; what it returns is a broken rule.
    pub(crate) check: Check,
    pub(crate) broken: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// What a path names.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Target {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3 });
        let namespace = if parts[0] == "namespaces" && parts.len() > 2 {
            let namespace = parts[1].to_owned();
            parts.drain(..2);
            namespace
        } else {
            String::new()
        };
        let part = |at: usize| parts.get(at).map_or(String::new(), |part| (*part).to_owned());
        Target { resource: part(0), namespace, name: part(1), subresource: part(2) }
    }

    fn key(&self) -> String {
        client::key(&self.namespace, &self.name)
    }
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message});
    (code, status)
}

impl State {
    fn put(&mut self, resource: &str, key: &str, mut object: Value, now: &str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let old = self.objects.entry(resource.to_owned()).or_default().insert(key.to_owned(), object.clone());
        // What is being deleted and held by nothing goes with this write.
        let meta = &object["metadata"];
        let held = meta["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let graceful = resource == "pods" && meta["deletionGracePeriodSeconds"] != json!(0);
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.entry(resource.to_owned()).or_default().push((self.version, kind, object.clone()));
        let change = old.as_ref().map_or(Change::Created(&object), |_| Change::Updated(&object));
        self.broken.extend((self.check)(&self.objects, resource, change).map(|rule| format!("{now}: {rule}")));
        if meta["deletionTimestamp"].is_string() && !held && !graceful {
            self.remove(resource, key, now);
        }
        object
    }

    pub(crate) fn remove(&mut self, resource: &str, key: &str, now: &str) {
        let Some(old) = self.objects.get_mut(resource).and_then(|objects| objects.remove(key)) else { return };
        self.version += 1;
        let mut last = old.clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.entry(resource.to_owned()).or_default().push((self.version, "DELETED", last));
        let broken = (self.check)(&self.objects, resource, Change::Removed(&old));
        self.broken.extend(broken.map(|rule| format!("{now}: {rule}")));
    }

    fn create(&mut self, target: &Target, mut object: Value, now: &str) -> (u16, Value) {
        self.names += 1;
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            meta["name"] = json!(format!("{}{:05}", meta["generateName"].as_str().unwrap_or(""), self.names));
        }
        meta["uid"] = json!(format!("uid-{}", self.names));
        meta["creationTimestamp"] = json!(now);
        meta["generation"] = json!(1);
        if !target.namespace.is_empty() {
            meta["namespace"] = json!(target.namespace);
        }
        let key = client::key(&target.namespace, meta["name"].as_str().unwrap_or(""));
        if self.objects.get(&target.resource).is_some_and(|objects| objects.contains_key(&key)) {
            return failure(409, "AlreadyExists", &format!("{key} already exists"));
        }
        if target.resource == "pods" {
            object["status"] = json!({"phase": "Pending"});
        }
        (201, self.put(&target.resource, &key, object, now))
    }

    fn write(&mut self, target: &Target, mut object: Value, now: &str) -> (u16, Value) {
        let key = target.key();
        let Some(old) = self.objects.get(&target.resource).and_then(|objects| objects.get(&key)).cloned() else {
            return failure(404, "NotFound", &format!("{key} not found"));
        };
        let version = &object["metadata"]["resourceVersion"];
        if version.is_string() && *version != old["metadata"]["resourceVersion"] {
            return failure(409, "Conflict", "the object has been modified");
        }
        let uid = &object["metadata"]["uid"];
        if uid.is_string() && *uid != old["metadata"]["uid"] {
            return failure(409, "Conflict", "the uid differs");
        }
        if target.subresource == "status" {
            let mut changed = old.clone();
            changed["status"] = object["status"].take();
            changed["metadata"]["annotations"] = object["metadata"]["annotations"].take();
            object = changed;
        } else {
            object["status"] = old["status"].clone();
            for fixed in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                object["metadata"][fixed] = old["metadata"][fixed].clone();
            }
        }
        if object["spec"] != old["spec"] {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        (200, self.put(&target.resource, &key, object, now))
    }

    fn patch(&mut self, target: &Target, patch: &Value, now: &str) -> (u16, Value) {
        let Some(old) = self.objects.get(&target.resource).and_then(|objects| objects.get(&target.key())).cloned() else {
            return failure(404, "NotFound", &format!("{} not found", target.key()));
        };
        if patch["metadata"]["uid"].is_string() && patch["metadata"]["uid"] != old["metadata"]["uid"] {
            return failure(409, "Conflict", "the uid differs");
        }
        let mut object = old;
        merge(&mut object, patch);
        self.write(target, object, now)
    }

    fn delete(&mut self, target: &Target, options: &Value, now: &str) -> (u16, Value) {
        let key = target.key();
        let Some(mut object) = self.objects.get(&target.resource).and_then(|objects| objects.get(&key)).cloned() else {
            return failure(404, "NotFound", &format!("{key} not found"));
        };
        let uid = &options["preconditions"]["uid"];
        if uid.is_string() && *uid != object["metadata"]["uid"] {
            return failure(409, "Conflict", "the uid differs");
        }
        let bound = target.resource == "pods" && object["spec"]["nodeName"].is_string();
        let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let grace = if bound && !ended { options["gracePeriodSeconds"].as_i64().unwrap_or(30) } else { 0 };
        if object["metadata"]["deletionTimestamp"].is_null() || grace == 0 {
            object["metadata"]["deletionTimestamp"] = json!(now);
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            self.put(&target.resource, &key, object, now);
        }
        (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}))
    }
}

/// As much of a strategic merge as controllers use: owner references by uid, finalizers as a set, conditions by type.
fn merge(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else { return };
    for (name, value) in fields {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(have) = object[list].as_array_mut() {
                have.retain(|item| !value.as_array().is_some_and(|gone| gone.contains(item)));
            }
            continue;
        }
        match value {
            Value::Null => {
                object.as_object_mut().map(|fields| fields.remove(name));
            }
            Value::Object(_) => {
                if !object[name].is_object() {
                    object[name] = json!({});
                }
                merge(&mut object[name], value);
            }
            Value::Array(items) => {
                let key = match name.as_str() {
                    "ownerReferences" => "uid",
                    "conditions" => "type",
                    _ => "",
                };
                let mut list = object[name].as_array().cloned().unwrap_or_default();
                for item in items {
                    let same = |have: &Value| if key.is_empty() { have == item } else { have[key] == item[key] };
                    list.retain(|have| !same(have));
                    if item["$patch"] != "delete" {
                        list.push(item.clone());
                    }
                }
                object[name] = json!(list);
            }
            other => object[name] = other.clone(),
        }
    }
}

impl Server {
    pub(crate) fn new(seed: u64, check: Check) -> Server {
        let state = State {
            objects: BTreeMap::new(),
            log: BTreeMap::new(),
            version: 1,
            names: 0,
            rng: StdRng::seed_from_u64(seed),
            trouble: 0.0,
            lag: Duration::from_millis(10),
            check,
            broken: Vec::new(),
        };
        Server { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    /// A user's or a node's request: no network between, and no trouble.
    pub(crate) fn call(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let answer = act(&mut self.state.lock(), method, &Target::parse(path), body, &crate::now().to_string());
        self.changed.notify_waiters();
        answer
    }

    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.state.lock().rng)
    }

    /// A client whose requests and watches fall silent when `alive` ends: so it is for a process that was killed.
    pub(crate) fn client(&self, alive: Arc<AtomicBool>) -> kube::Client {
        kube::Client::new(Connection { server: self.clone(), alive }, "default")
    }

    async fn travel(&self, alive: &AtomicBool) {
        let time = self.random(|rng| rng.random_range(0..20));
        tokio::time::sleep(Duration::from_millis(time)).await;
        if !alive.load(Ordering::Acquire) {
            pending::<()>().await;
        }
    }

    async fn answer(self, request: Request<Body>, alive: Arc<AtomicBool>) -> io::Result<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let target = Target::parse(parts.uri.path());
        let query = parts.uri.query().unwrap_or("");
        let parameter =
            |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
        self.travel(&alive).await;
        if matches!(parameter("watch").as_deref(), Some("true" | "1")) {
            let from = parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            return Ok(self.watch(target.resource, from, alive));
        }
        let write = parts.method != Method::GET;
        let (early, late) = self.random(|rng| (rng.random_bool(0.5), rng.random_bool(0.5)));
        let trouble = write && {
            let mut state = self.state.lock();
            let share = state.trouble;
            state.rng.random_bool(share)
        };
        let answer = if trouble && early {
            failure(500, "InternalError", "trouble before")
        } else {
            let answer = act(&mut self.state.lock(), &parts.method, &target, &body, &crate::now().to_string());
            self.changed.notify_waiters();
            if trouble && late {
                self.travel(&alive).await;
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            answer
        };
        self.travel(&alive).await;
        let body = Full::new(Bytes::from(answer.1.to_string())).boxed_unsync();
        let response = Response::builder().status(answer.0).header("content-type", "application/json");
        Ok(response.body(body).expect("a valid response"))
    }

    fn watch(self, resource: String, from: u64, alive: Arc<AtomicBool>) -> Answer {
        let stream = futures::stream::unfold((self, resource, from, alive), |(server, resource, from, alive)| async move {
            let (version, kind, object) = loop {
                let mut changed = std::pin::pin!(server.changed.notified());
                changed.as_mut().enable();
                let next = {
                    let state = server.state.lock();
                    let log = state.log.get(&resource).map_or(&[][..], Vec::as_slice);
                    log.get(log.partition_point(|(version, ..)| *version <= from)).cloned()
                };
                match next {
                    Some(next) => break next,
                    None => changed.await,
                }
            };
            let lag = server.random(|rng| rng.random_range(0.0..1.0_f64).powi(4));
            let most = server.state.lock().lag;
            tokio::time::sleep(most.mul_f64(lag)).await;
            if !alive.load(Ordering::Acquire) {
                pending::<()>().await;
            }
            let mut line = json!({"type": kind, "object": object}).to_string();
            line.push('\n');
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), (server, resource, version, alive)))
        });
        let body = StreamBody::new(stream).boxed_unsync();
        Response::builder().header("content-type", "application/json").body(body).expect("a valid response")
    }
}

fn act(state: &mut State, method: &Method, target: &Target, body: &Value, now: &str) -> (u16, Value) {
    match *method {
        Method::POST => state.create(target, body.clone(), now),
        Method::PUT => state.write(target, body.clone(), now),
        Method::PATCH => state.patch(target, body, now),
        Method::DELETE => state.delete(target, body, now),
        _ if target.name.is_empty() => {
            let mine = |key: &String| target.namespace.is_empty() || key.starts_with(&format!("{}/", target.namespace));
            let objects = state.objects.get(&target.resource).into_iter().flatten();
            let items: Vec<&Value> = objects.filter(|(key, _)| mine(key)).map(|(_, object)| object).collect();
            (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
            )
        }
        _ => match state.objects.get(&target.resource).and_then(|objects| objects.get(&target.key())) {
            Some(object) => (200, object.clone()),
            None => failure(404, "NotFound", &format!("{} not found", target.key())),
        },
    }
}

#[derive(Clone)]
struct Connection {
    server: Server,
    alive: Arc<AtomicBool>,
}

impl Service<Request<Body>> for Connection {
    type Response = Answer;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answering = self.server.clone().answer(request, Arc::clone(&self.alive));
        Box::pin(answering)
    }
}
