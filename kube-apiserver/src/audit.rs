//! Audit: who did what, as events of `audit.k8s.io/v1`, at the level that the policy gives each request.
//!
//! A [`Record`] accompanies an audited request; it is begun once the user is known and writes an event at each stage.
//!
//! Upstream: apiserver/pkg/audit, apiserver/pkg/endpoints/filters/audit.go

pub mod log;
pub mod policy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use auth::user::User;
use http::HeaderMap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::call::{Response, micro_timestamp};
use crate::negotiate::Encoding;
use crate::request_info::RequestInfo;
use log::{Log, LogOptions};
use policy::{Level, Policy};

/// The flags, checked.
#[derive(Debug)]
pub struct AuditConfig {
    policy: Policy,
    log: LogOptions,
}

impl AuditConfig {
    /// `None` where nothing is audited: without a policy or without a place for events.
    ///
    /// # Errors
    /// An unusable policy or option.
    pub fn new(policy: Option<PathBuf>, log: LogOptions) -> Result<Option<Self>, String> {
        log.check()?;
        let Some(file) = policy else {
            if log.path.is_some() {
                tracing::warn!("No audit policy file provided, no events will be recorded for log backend");
            }
            return Ok(None);
        };
        let policy = Policy::load(&file)?;
        if log.path.is_none() {
            tracing::warn!("An audit policy without --audit-log-path: no events will be recorded");
            return Ok(None);
        }
        Ok(Some(Self { policy, log }))
    }
}

/// The policy in force and where events go.
pub struct Audit {
    policy: Policy,
    log: Arc<Log>,
}

/// When an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the request is looked at.
    RequestReceived,
    /// The head of a long-running answer went out.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The request panicked.
    Panic,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What is known of a request before it is looked at.
pub struct Seen<'a> {
    /// Its meaning.
    pub info: &'a RequestInfo,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Path and query.
    pub uri: String,
    /// Whence it came.
    pub address: SocketAddr,
    /// `Audit-ID`.
    pub id: String,
    /// When.
    pub at: Timestamp,
}

impl Audit {
    /// Opens the log.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(config: &AuditConfig, tasks: &component::tasks::Tasks) -> anyhow::Result<Self> {
        Ok(Self { policy: config.policy.clone(), log: Log::open(&config.log, tasks)? })
    }

    /// Begins the record of a request where the policy wants one. `user`: `None` where nobody could be authenticated.
    pub fn begin(&self, seen: &Seen<'_>, user: Option<&User>) -> Option<Arc<Record>> {
        let Seen { info, headers, uri, address, id, at } = seen;
        let verdict = self.policy.judge(info, user);
        if verdict.level == Level::None {
            return None;
        }
        let mut event = Map::new();
        for (key, value) in
            [("kind", "Event"), ("apiVersion", "audit.k8s.io/v1"), ("level", verdict.level.as_str()), ("auditID", id)]
        {
            event.insert(key.to_owned(), value.into());
        }
        event.insert("requestURI".into(), uri.as_str().into());
        event.insert("verb".into(), info.verb.as_str().into());
        event.insert("user".into(), user.map_or_else(|| json!({}), User::to_value));
        event.insert("sourceIPs".into(), json!(source_ips(headers, *address)));
        if let Some(agent) = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()) {
            event.insert("userAgent".into(), agent.into());
        }
        if info.is_resource {
            let mut reference = Map::new();
            let parts = [
                ("resource", &info.resource),
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ];
            for (key, value) in parts.into_iter().filter(|(_, value)| !value.is_empty()) {
                reference.insert(key.to_owned(), value.as_str().into());
            }
            event.insert("objectRef".into(), reference.into());
        }
        event.insert("requestReceivedTimestamp".into(), micro_timestamp(*at).into());
        let record = Arc::new(Record { verdict, log: self.log.clone(), event: Mutex::new(event) });
        record.emit(Stage::RequestReceived);
        Some(record)
    }
}

/// Proxies first, as they tell; the peer last.
fn source_ips(headers: &HeaderMap, address: SocketAddr) -> Vec<String> {
    let told = ["x-forwarded-for", "x-real-ip"].iter().filter_map(|name| headers.get(*name)?.to_str().ok());
    let mut out: Vec<String> = Vec::new();
    let told = told.flat_map(|value| value.split(',')).filter_map(|text| text.trim().parse::<std::net::IpAddr>().ok());
    for ip in told.chain([address.ip()]) {
        let ip = ip.to_string();
        if !out.contains(&ip) {
            out.push(ip);
        }
    }
    out
}

/// The audit of one request.
pub struct Record {
    verdict: policy::Verdict,
    log: Arc<Log>,
    event: Mutex<Map<String, Value>>,
}

impl Record {
    /// Notes a fact about the decision.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event.lock();
        event.entry("annotations").or_insert_with(|| json!({}))[key] = value.into();
    }

    /// Notes as whom the request goes on.
    pub fn impersonated(&self, user: &User) {
        self.event.lock().insert("impersonatedUser".into(), user.to_value());
    }

    /// Notes the body of the request.
    pub fn request(&self, body: &[u8], encoding: Encoding) {
        if body.is_empty() {
            return;
        }
        let Some(object) = tree(body, encoding) else { return };
        let mut event = self.event.lock();
        // A new object's name is known from its body only.
        if let (Some(reference), Some(metadata)) = (event.get_mut("objectRef"), object.get("metadata")) {
            for (key, from) in
                [("name", "name"), ("namespace", "namespace"), ("uid", "uid"), ("resourceVersion", "resourceVersion")]
            {
                if reference.get(key).is_none()
                    && let Some(value) = metadata.get(from).filter(|value| value.as_str().is_some_and(|text| !text.is_empty()))
                {
                    reference[key] = value.clone();
                }
            }
        }
        if self.verdict.level >= Level::Request {
            event.insert("requestObject".into(), self.shown(object));
        }
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields {
            let drop = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            drop(&mut object);
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                drop(item);
            }
        }
        object
    }

    /// Writes the events that belong to an answer, and gives the answer back to be sent. Bodies are read where the level asks for them;
    /// a long-running answer is complete when its body ends.
    pub async fn answered(self: &Arc<Self>, response: Response, long: bool) -> Response {
        let code = response.status().as_u16();
        let (parts, mut body) = response.into_parts();
        let encoding = encoding_of(&parts.headers);
        if long && code < 300 {
            self.status(code, None);
            self.emit(Stage::ResponseStarted);
            return http::Response::from_parts(parts, body.hold(Ending(self.clone())));
        }
        let wanted = self.verdict.level >= Level::RequestResponse;
        if wanted {
            body = body.gathered().await;
        }
        let object = match (&body, encoding) {
            // A Status says more than its code, at any level.
            (Body::Whole(Some(bytes)), Some(encoding)) if wanted || code >= 400 || is_status(bytes) => tree(bytes, encoding),
            _ => None,
        };
        self.status(code, object.as_ref().filter(|object| object["kind"] == "Status"));
        if wanted && let Some(object) = object {
            let object = self.shown(object);
            self.event.lock().insert("responseObject".into(), object);
        }
        self.emit(Stage::ResponseComplete);
        http::Response::from_parts(parts, body)
    }

    fn status(&self, code: u16, status: Option<&Value>) {
        let mut out = json!({"metadata": {}, "code": code});
        for key in ["status", "message", "reason", "details"] {
            if let Some(value) = status.and_then(|status| status.get(key)) {
                out[key] = value.clone();
            }
        }
        self.event.lock().insert("responseStatus".into(), out);
    }

    /// Writes an event.
    pub fn emit(&self, stage: Stage) {
        if self.verdict.omit_stages.iter().any(|omitted| omitted == stage.as_str()) {
            return;
        }
        let event = {
            let mut event = self.event.lock();
            event.insert("stage".into(), stage.as_str().into());
            event.insert("stageTimestamp".into(), micro_timestamp(Timestamp::now()).into());
            Value::Object(event.clone())
        };
        self.log.write(event);
    }
}

/// Completes the record of a long-running request when its body ends.
struct Ending(Arc<Record>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.emit(Stage::ResponseComplete);
    }
}

fn is_status(body: &[u8]) -> bool {
    body.starts_with(br#"{"kind":"Status""#) || body.starts_with(br#"{"apiVersion":"v1","kind":"Status""#)
}

fn encoding_of(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    match value.split(';').next()?.trim() {
        "application/json" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Encoding::Protobuf),
        _ => None,
    }
}

/// A body as a tree; `None` for what is none.
fn tree(body: &[u8], encoding: Encoding) -> Option<Value> {
    match encoding {
        Encoding::Json => serde_json::from_slice(body).ok(),
        Encoding::Yaml => api::yaml::decode(body).ok().map(|document| document.value),
        Encoding::Protobuf => api::proto::decode(body).ok(),
    }
}
