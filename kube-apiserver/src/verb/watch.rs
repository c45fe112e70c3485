//! WATCH: initial objects, the window since a version, then live events; bookmarks; an end in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::body::Body;
use crate::cache::Caches;
use crate::cache::entry::Entry;
use crate::cache::filter::{Filter, Scope};
use crate::cache::resource::Snapshot;
use crate::cache::watch::{Delivery, Kind};
use crate::call::{Call, Response};
use crate::codec;
use crate::negotiate::{Accept, Encoding, Offers, Shape};
use crate::reply;
use crate::table::Served;
use crate::tabular::{self, Include};
use crate::verb::list;
use crate::verb::options::{ListOptions, revision};

/// Bytes of frames gathered into one piece.
const PIECE: usize = 64 * 1024;
/// Between bookmarks. Upstream: about a minute, with jitter.
const BOOKMARK: Duration = Duration::from_secs(60);

/// Answers a watch.
///
/// # Errors
/// 400, 406, 422 at once; later errors are events of type ERROR.
pub async fn watch(call: &Call) -> Result<Response, Status> {
    let accept = call.accept(Offers::Lists)?;
    if accept.encoding == Encoding::Yaml {
        return Err(Status::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ));
    }
    let options = ListOptions::of(&call.query, true)?;
    let cache = call.cache()?;
    let include = if matches!(accept.shape, Shape::Table(_)) { tabular::include(call)? } else { Include::None };
    let (scope, filter) = list::select(call, &cache, &options)?;
    // A name in the path (old-style watches) scopes; a field selector was resolved into both.
    let filter = Arc::new(filter);
    let wanted = revision(&options.resource_version).map_err(|why| Status::new(500, "", why))?;
    let frames = Frames {
        served: call.served.clone(),
        accept,
        include,
        form: (call.served.number * 64 + accept.form()) * 4 + include as u32,
        columns_due: true,
    };
    let seconds = options.timeout_seconds.unwrap_or_else(|| {
        // Upstream: --min-request-timeout, 1800, and up to twice it, to spread reconnects.
        let least = call.server.config.min_request_timeout.as_secs().max(1);
        rand::rng().random_range(least..least * 2)
    });
    let caches = call.served.caches.clone();
    caches.ready().await?;

    // How the stream begins: with all objects, or with the events since a version.
    let initial = options.send_initial_events.unwrap_or(wanted == 0);
    let begun = if initial {
        if options.resource_version.is_empty() {
            caches.fresh().await?;
        } else if wanted > 0 {
            caches.reach(wanted).await?;
        }
        cache.watch(None, scope.clone(), filter.clone(), caches.revision())
    } else if wanted == 0 {
        // `sendInitialEvents=false` without a version: from now on.
        caches.fresh().await?;
        cache.watch(None, scope.clone(), filter.clone(), caches.revision())
    } else {
        if let Err(error) = caches.reach(wanted).await {
            return Ok(refused(&frames, &error));
        }
        cache.watch(Some(wanted), scope.clone(), filter.clone(), caches.revision())
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(oldest) => {
            let error = Status::expired(format!("too old resource version: {wanted} ({oldest})"));
            return Ok(refused(&frames, &error));
        }
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let state = State {
        initial: initial.then_some(Initial { snapshot: begun.snapshot.clone(), scope, filter, after: None }),
        end_of_initial: (options.send_initial_events == Some(true) && options.bookmarks).then_some(begun.snapshot.revision),
        pending: begun.initial.into(),
        events: begun.events,
        last: begun.snapshot.revision,
        caches,
        frames,
        bookmarks: options.bookmarks,
        next_bookmark: next_bookmark(deadline, BOOKMARK.mul_f64(rand::rng().random_range(0.8..1.0))),
        deadline,
        stopping: call.server.tasks.token(),
        closed: false,
    };
    let content_type = match accept.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    Ok(reply::raw(
        200,
        content_type,
        Body::stream(stream::unfold(state, |mut state| async move {
            let bytes = state.next().await?;
            Some((bytes, state))
        })),
    ))
}

/// When the next bookmark is due: after `pause`, but once shortly before the end, so that the client goes on from there.
fn next_bookmark(deadline: Instant, pause: Duration) -> Instant {
    const BEFORE_END: Duration = Duration::from_secs(2);
    let now = Instant::now();
    let last = deadline.checked_sub(BEFORE_END).filter(|last| *last > now);
    // Too short a watch has none.
    last.map_or(deadline + pause, |last| last.min(now + pause))
}

/// A watch that cannot begin: upstream answers 200 and an ERROR event.
fn refused(frames: &Frames, error: &Status) -> Response {
    let content_type = match frames.accept.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    reply::raw(200, content_type, frames.frame("ERROR", &error.to_value()))
}

struct Initial {
    snapshot: Snapshot,
    scope: Scope,
    filter: Arc<Filter>,
    after: Option<String>,
}

struct State {
    initial: Option<Initial>,
    /// The version of the bookmark that ends the initial events, while it is due.
    end_of_initial: Option<u64>,
    pending: VecDeque<Delivery>,
    events: tokio::sync::mpsc::Receiver<Delivery>,
    /// The version up to which everything was sent.
    last: u64,
    caches: Arc<Caches>,
    frames: Frames,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    stopping: tokio_util::sync::CancellationToken,
    closed: bool,
}

impl State {
    /// The next bytes of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.closed {
            return None;
        }
        if let Some(bytes) = self.initial_piece() {
            return Some(bytes);
        }
        if let Some(bytes) = self.ready() {
            return Some(bytes);
        }
        loop {
            tokio::select! {
                biased;
                delivery = self.events.recv() => match delivery {
                    Some(delivery) => {
                        self.pending.push_back(delivery);
                        if let Some(bytes) = self.ready() {
                            return Some(bytes);
                        }
                    }
                    None => {
                        self.closed = true;
                        return None;
                    }
                },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = next_bookmark(self.deadline, BOOKMARK);
                    return Some(self.bookmark(false));
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.closed = true;
                    return None;
                }
                () = self.stopping.cancelled() => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// A piece of the objects that the watch begins with.
    fn initial_piece(&mut self) -> Option<Bytes> {
        let mut buffer = BytesMut::new();
        if let Some(initial) = &mut self.initial {
            let mut last = None;
            for entry in initial.snapshot.matching(&initial.scope, &initial.filter, initial.after.as_deref()) {
                self.frames.initial(entry, &mut buffer);
                if buffer.len() >= PIECE {
                    last = Some(entry.key().to_owned());
                    break;
                }
            }
            match last {
                Some(last) => initial.after = Some(last),
                None => self.initial = None,
            }
        }
        if self.initial.is_none()
            && let Some(revision) = self.end_of_initial.take()
        {
            self.last = self.last.max(revision);
            buffer.extend_from_slice(&self.bookmark(true));
        }
        (!buffer.is_empty()).then(|| buffer.freeze())
    }

    /// Everything that is there without waiting: one event without a copy, several in one piece.
    fn ready(&mut self) -> Option<Bytes> {
        let mut single: Option<Bytes> = None;
        let mut buffer = BytesMut::new();
        loop {
            let delivery = match self.pending.pop_front() {
                Some(delivery) => delivery,
                None => match self.events.try_recv() {
                    Ok(delivery) => delivery,
                    Err(_) => break,
                },
            };
            self.last = self.last.max(delivery.0.revision());
            let frame = self.frames.live(&delivery);
            match single.take() {
                None if buffer.is_empty() => single = Some(frame),
                held => {
                    if let Some(held) = held {
                        buffer.extend_from_slice(&held);
                    }
                    buffer.extend_from_slice(&frame);
                }
            }
            if buffer.len() >= PIECE {
                break;
            }
        }
        single.or_else(|| (!buffer.is_empty()).then(|| buffer.freeze()))
    }

    /// A bookmark behind everything that was dispatched so far.
    fn bookmark(&mut self, initial: bool) -> Bytes {
        let mut out = BytesMut::new();
        if !initial {
            // What was dispatched up to this revision is in the channel: send it first.
            let reached = self.caches.revision();
            while let Some(bytes) = self.ready() {
                out.extend_from_slice(&bytes);
            }
            self.last = self.last.max(reached);
        }
        out.extend_from_slice(&self.frames.bookmark(self.last, initial));
        out.freeze()
    }
}

/// Makes frames in the form that the watcher asked for.
struct Frames {
    served: Arc<Served>,
    accept: Accept,
    include: Include,
    form: u32,
    columns_due: bool,
}

impl Frames {
    fn plain(&self) -> bool {
        self.accept.encoding == Encoding::Json && self.accept.shape == Shape::Object && !self.served.converted
    }

    fn initial(&mut self, entry: &Arc<Entry>, out: &mut BytesMut) {
        if self.plain() {
            out.put_slice(br#"{"type":"ADDED","object":"#);
            out.extend_from_slice(entry.json_slice());
            out.put_slice(b"}\n");
        } else {
            out.extend_from_slice(&self.made(entry, Kind::Added));
        }
    }

    fn live(&mut self, (event, kind): &Delivery) -> Bytes {
        if self.plain() {
            if *kind == Kind::Modified {
                return event.entry.modified_frame();
            }
            let made = event.frame(0, *kind, |entry| Ok::<_, Status>(self.wrap(*kind, entry.json_slice())));
            return made.unwrap_or_default();
        }
        // Tables differ by watcher (the first row brings the columns, ages pass): not shared.
        if matches!(self.accept.shape, Shape::Table(_)) {
            return self.made(&event.shown(*kind).clone(), *kind);
        }
        let made = event.frame(self.form + 1, *kind, |entry| Ok::<_, Status>(self.make(entry, *kind, false)));
        made.unwrap_or_default()
    }

    fn made(&mut self, entry: &Entry, kind: Kind) -> Bytes {
        let columns = std::mem::replace(&mut self.columns_due, false);
        self.make(entry, kind, columns)
    }

    fn make(&self, entry: &Entry, kind: Kind, columns: bool) -> Bytes {
        let object = match codec::from_stored(&self.served, entry.json_slice()) {
            Ok(object) => object,
            Err(error) => return self.frame("ERROR", &error.to_value()),
        };
        let shown = match self.accept.shape {
            Shape::Table(beta) => {
                let metadata = json!({"resourceVersion": entry.revision().to_string()});
                let mut table = tabular::head(&self.served, tabular::version(beta), metadata, columns);
                let row = tabular::row_of(&self.served, self.include, &object, &object, jiff::Timestamp::now().as_second());
                table["rows"] = vec![row].into();
                table
            }
            shape => reply::shaped(object, shape),
        };
        self.frame(kind.as_str(), &shown)
    }

    fn wrap(&self, kind: Kind, document: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(document.len() + 40);
        out.put_slice(br#"{"type":""#);
        out.put_slice(kind.as_str().as_bytes());
        out.put_slice(br#"","object":"#);
        out.put_slice(document);
        out.put_slice(b"}\n");
        out.freeze()
    }

    /// A frame around a tree.
    fn frame(&self, kind: &str, object: &Value) -> Bytes {
        match self.accept.encoding {
            Encoding::Protobuf => codec::protobuf_frame(kind, object)
                .unwrap_or_else(|error| codec::protobuf_frame("ERROR", &error.to_value()).unwrap_or_default()),
            _ => Bytes::from(format!("{}\n", json!({"type": kind, "object": object}))),
        }
    }

    fn bookmark(&mut self, revision: u64, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let names = &self.served.resource.names;
        let object = match self.accept.shape {
            Shape::Object => {
                let mut object = json!({"kind": names.kind, "apiVersion": names.api_version(), "metadata": metadata});
                if self.accept.encoding == Encoding::Json {
                    // As upstream's encoder writes an otherwise empty object.
                    self.served.schema.normalize(&mut object);
                }
                object
            }
            Shape::Metadata(beta) | Shape::MetadataList(beta) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": tabular::version(beta), "metadata": metadata})
            }
            Shape::Table(beta) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}});
                let mut table = tabular::head(
                    &self.served,
                    tabular::version(beta),
                    json!({"resourceVersion": revision.to_string()}),
                    std::mem::replace(&mut self.columns_due, false),
                );
                table["rows"] = vec![row].into();
                table
            }
        };
        self.frame("BOOKMARK", &object)
    }
}
