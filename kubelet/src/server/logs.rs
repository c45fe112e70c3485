//! `/containerLogs/{namespace}/{pod}/{container}` and `/logs/`. Upstream: pkg/kubelet/server getContainerLogs, kubelet_pods.go GetKubeletContainerLogs

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Call, respond, text};
use crate::kubelet::Shared;
use crate::logs::read::{self, Options};
use crate::pod;
use crate::runtime::observed::{ContainerRecord, State};

/// Parts of a log on their way to a slow reader.
const BUFFERED: usize = 16;

/// A container's log.
pub fn container(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        match open(&call).await {
            Ok((path, options, record)) => stream(&call.kubelet, path, options, record),
            Err((code, message)) => text(code, message),
        }
    })
}

type Found = (PathBuf, Options, Option<(String, String)>);

async fn open(call: &Call) -> Result<Found, (StatusCode, String)> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let [namespace, name, container] = &call.rest[..] else {
        return Err(bad("{\"message\": \"missing podID or container\"}".into()));
    };
    let missing = || (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist\n"));
    let pod = call.kubelet.pods.by_name(namespace, name).ok_or_else(missing)?;
    if pod::container::find(&pod, container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}\n")));
    }
    let options = options(call)?;
    let previous = call.flag(&["previous"]);
    let handle = call.kubelet.workers.get(pod::uid(&pod)).ok_or_else(missing)?;
    let mut view = handle.view();
    if view.runtime.latest(container).is_none() {
        // Just started, or this kubelet has not looked yet.
        if let Ok(runtime) = crate::runtime::observed::observe(&call.kubelet.cri, pod::uid(&pod)).await {
            view.runtime = runtime.into();
        }
    }
    let mut records = view.runtime.containers.iter().filter(|record| record.name() == container);
    let record: Option<&ContainerRecord> = match (previous, records.next()) {
        (false, newest) => newest,
        // The newest is dead and its successor not there yet: it is the previous one.
        (true, Some(newest)) if newest.state == State::Exited && waits(&view.status, container) => Some(newest),
        (true, _) => records.next(),
    };
    let Some(record) = record.filter(|record| !record.log_path.is_empty()) else {
        return Err(bad(if previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            let reason = waiting_reason(&view.status, container).unwrap_or_else(|| "ContainerCreating".into());
            let what = if reason == "ErrImagePull" || reason == "ImagePullBackOff" {
                "trying and failing to pull image".to_owned()
            } else {
                reason
            };
            format!("container {container:?} in pod {name:?} is waiting to start: {what}")
        }));
    };
    let alive = (record.state == State::Running).then(|| (pod::uid(&pod).to_owned(), record.id.clone()));
    Ok((PathBuf::from(&record.log_path), options, alive))
}

fn statuses(status: &k8s_openapi::api::core::v1::PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.container_statuses.iter().chain(&status.init_container_statuses).chain(&status.ephemeral_container_statuses).flatten()
}

fn waiting_reason(status: &k8s_openapi::api::core::v1::PodStatus, container: &str) -> Option<String> {
    statuses(status).find(|status| status.name == container)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn waits(status: &k8s_openapi::api::core::v1::PodStatus, container: &str) -> bool {
    waiting_reason(status, container).is_some()
}

fn options(call: &Call) -> Result<Options, (StatusCode, String)> {
    let number = |name: &str| -> Result<Option<u64>, (StatusCode, String)> {
        match call.param(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| (StatusCode::UNPROCESSABLE_ENTITY, format!("invalid {name}: {text:?}\n")))
            }
        }
    };
    let tail = match call.param("tailLines").or(call.param("tail")) {
        // Everything, by kubectl's word for it.
        Some("-1" | "all" | "") => None,
        _ => number("tailLines")?,
    };
    let since = match (number("sinceSeconds")?, call.param("sinceTime").filter(|text| !text.is_empty())) {
        (Some(seconds), _) => Some(Timestamp::now() - Duration::from_secs(seconds)),
        (None, Some(text)) => {
            Some(text.parse().map_err(|_| (StatusCode::UNPROCESSABLE_ENTITY, format!("invalid sinceTime: {text:?}\n")))?)
        }
        (None, None) => None,
    };
    Ok(Options {
        follow: call.flag(&["follow"]),
        timestamps: call.flag(&["timestamps"]),
        tail: tail.and_then(|lines| usize::try_from(lines).ok()),
        since,
        limit: number("limitBytes")?,
        stream: match call.param("stream") {
            Some("Stdout") => Some("stdout".into()),
            Some("Stderr") => Some("stderr".into()),
            _ => None,
        },
    })
}

fn stream(kubelet: &Shared, path: PathBuf, options: Options, alive: Option<(String, String)>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel::<Bytes>(BUFFERED);
    let this = kubelet.clone();
    kubelet.tasks.spawn("log-stream", async move {
        let running = || {
            alive.as_ref().is_some_and(|(uid, id)| {
                this.workers.get(uid).is_some_and(|handle| {
                    handle.view().runtime.containers.iter().any(|record| record.id == *id && record.state == State::Running)
                })
            })
        };
        if let Err(error) = read::stream(&path, &options, sender.clone(), running).await {
            let _ = sender.send(Bytes::from(format!("failed to open log file {:?}: {error}\n", path.display()))).await;
        }
    });
    let frames = ReceiverStream::new(receiver).map(|part| Ok::<_, std::convert::Infallible>(Frame::data(part)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

/// Files below /var/log of the node.
pub fn host(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        if !call.kubelet.config.kubelet.enable_system_log_handler {
            return text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.");
        }
        let relative: PathBuf = call.rest.iter().collect();
        if relative.components().any(|component| !matches!(component, Component::Normal(_))) {
            return text(StatusCode::BAD_REQUEST, "invalid path\n");
        }
        let path = Path::new("/var/log").join(&relative);
        // No link may lead out.
        let Ok(real) = std::fs::canonicalize(&path) else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
        if !real.starts_with("/var/log") {
            return text(StatusCode::FORBIDDEN, "403 Forbidden\n");
        }
        if real.is_dir() {
            let mut names: Vec<String> = std::fs::read_dir(&real)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| format!("{}{}", entry.file_name().to_string_lossy(), if entry.path().is_dir() { "/" } else { "" }))
                .collect();
            names.sort();
            let lines: String = names.iter().map(|name| format!("<a href=\"{name}\">{name}</a>\n")).collect();
            return respond(Some(component::serve::text(
                StatusCode::OK,
                "text/html; charset=utf-8",
                format!("<pre>\n{lines}</pre>\n"),
            )));
        }
        match tokio::fs::read(&real).await {
            Ok(data) => respond(Some(component::serve::text(StatusCode::OK, "text/plain; charset=utf-8", data))),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    })
}
