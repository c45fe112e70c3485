//! LIST: a head, the objects' bytes with commas, a tail, streamed; pages continue at the exact version of the first.

use std::sync::Arc;

use api::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::body::Body;
use crate::cache::entry::{Entry, Item};
use crate::cache::filter::{Field, Filter, Scope};
use crate::cache::resource::{ResourceCache, Snapshot};
use crate::cache::unavailable;
use crate::call::{Call, Response};
use crate::codec;
use crate::negotiate::{Accept, Encoding, Offers, Shape};
use crate::reply;
use crate::tabular;
use crate::verb::options::{ListOptions, revision};

/// Bytes gathered before they are handed to the connection: four TLS records, and far below what makes memory per list noticeable.
const PIECE: usize = 64 * 1024;

/// What a list is of: the part of the resource, where it starts, and how many objects.
pub struct Selection {
    /// The objects.
    pub snapshot: Snapshot,
    /// The part that is read.
    pub scope: Scope,
    /// Selectors.
    pub filter: Arc<Filter>,
    /// The key after which it starts.
    pub after: Option<String>,
    /// 0: no limit.
    pub limit: usize,
}

/// The scope and filter of a request. Upstream turns `metadata.name=x` into a read of one key, so does this.
///
/// # Errors
/// 400 for fields that cannot be selected by.
pub fn select(call: &Call, cache: &ResourceCache, options: &ListOptions) -> Result<(Scope, Filter), Status> {
    let names = &call.served.resource.names;
    let unsupported = |key: String| Status::bad_request(format!("field label not supported: {key}"));
    let fields = Filter::resolve(&options.fields, &cache.selectable, names.namespaced).map_err(unsupported)?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let in_namespace = names.namespaced && !namespace.is_empty();
    let by_field = || {
        let index = cache.selectable.iter().position(|key| *key == "spec.nodeName")?;
        fields
            .iter()
            .find(|want| want.equal && want.field == Field::Other(index))
            .map(|want| Scope::Field(index, want.value.clone()))
    };
    let scope = if !name.is_empty() && (in_namespace || !names.namespaced) {
        Scope::Name(call.served.key(namespace, name))
    } else if in_namespace {
        Scope::Namespace(namespace.clone())
    } else if let Some(scope) = by_field() {
        scope
    } else {
        Scope::All
    };
    Ok((scope, Filter { labels: options.labels.clone(), fields }))
}

/// Answers a list.
///
/// # Errors
/// 400, 406, 410, 422, 504 as upstream.
pub async fn list(call: &Call) -> Result<Response, Status> {
    let accept = call.accept(Offers::Lists)?;
    let options = ListOptions::of(&call.query, false)?;
    let cache = call.cache()?;
    if let Shape::Metadata(_) = accept.shape {
        let name = codec::go_type(&call.served, &call.served.resource.names.list_kind);
        let message = format!("you requested PartialObjectMetadata, but the requested object is a list ({name})");
        return Err(Status::new(406, "NotAcceptable", message));
    }
    let (scope, filter) = select(call, &cache, &options)?;
    let snapshot_and_start = open(call, &cache, &options, &scope).await?;
    let (snapshot, after) = snapshot_and_start;
    cache.unreadable.check(None)?;
    let selection = Selection { snapshot, scope, filter: Arc::new(filter), after, limit: options.limit };
    match (accept.shape, accept.encoding) {
        (Shape::Object | Shape::MetadataList(_), Encoding::Json) if !accept.pretty => streamed(call, accept, selection),
        (Shape::Table(beta), Encoding::Json) if !accept.pretty => table(call, beta, selection),
        (Shape::Object, Encoding::Protobuf) => protobuf(call, selection),
        _ => gathered(call, accept, &selection),
    }
}

/// The snapshot that the list reads, and the key it starts after.
async fn open(
    call: &Call,
    cache: &ResourceCache,
    options: &ListOptions,
    scope: &Scope,
) -> Result<(Snapshot, Option<String>), Status> {
    let caches = &call.served.caches;
    caches.ready().await?;
    if !options.continue_token.is_empty() {
        let (token, after) = Continue::decode(&options.continue_token)?;
        if !options.resource_version.is_empty() && options.resource_version != "0" {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        if token.rv < 0 {
            // An inconsistent continuation, see `expired`.
            caches.fresh().await?;
            return Ok((caches.snapshot(cache), Some(after)));
        }
        let wanted = token.rv.cast_unsigned();
        caches.reach(wanted).await?;
        return match exact(call, cache, wanted, scope).await {
            Ok(snapshot) => Ok((snapshot, Some(after))),
            Err(status) if status.code == 410 => Err(expired(call, &after).await),
            Err(status) => Err(status),
        };
    }
    let wanted =
        revision(&options.resource_version).map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?;
    if options.resource_version.is_empty() {
        caches.fresh().await?;
        return Ok((caches.snapshot(cache), None));
    }
    if wanted > 0 {
        caches.reach(wanted).await?;
    }
    if options.resource_version_match == "Exact" {
        return Ok((exact(call, cache, wanted, scope).await?, None));
    }
    Ok((caches.snapshot(cache), None))
}

/// The resource at an exact version: from the window, else from etcd's history.
async fn exact(call: &Call, cache: &ResourceCache, wanted: u64, scope: &Scope) -> Result<Snapshot, Status> {
    if let Some(snapshot) = cache.snapshot_at(wanted) {
        return Ok(snapshot);
    }
    let storage = &call.served.caches.storage;
    let base = storage.key(&cache.path);
    let (mut start, end) = match scope {
        Scope::Namespace(namespace) => (format!("{base}/{namespace}/"), format!("{base}/{namespace}0")),
        _ => (format!("{base}/"), format!("{base}0")),
    };
    let mut items = imbl::OrdSet::new();
    loop {
        let page = storage.page(&start, &end, 1000, wanted).await.map_err(|error| match error {
            crate::storage::Error::Compacted => too_old(),
            other => unavailable(other),
        })?;
        for item in &page.items {
            let Ok(document) = codec::stored_json(&item.value) else { continue };
            let key = &item.key[base.len() + 1..];
            if let Ok(entry) = cache.entry(key, &document, item.revision) {
                items.insert(Item::new(Arc::new(entry), cache.indexed));
            }
        }
        match page.items.last() {
            Some(last) if page.more => start = format!("{}\0", last.key),
            _ => return Ok(Snapshot { items, revision: wanted }),
        }
    }
}

fn too_old() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
    )
}

/// 410 with a token that continues inconsistently, as upstream offers.
async fn expired(call: &Call, after: &str) -> Status {
    let _ = call;
    let token = Continue { v: "meta.k8s.io/v1".into(), rv: -1, start: format!("{after}\0") }.encode();
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue \
         parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided \
         token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was \
         returned and now may show up in the list.",
    )
    .with_continue(token)
}

/// A continue token; upstream's form, so that pages may be fetched from different servers.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The token and the key after which the page starts.
    fn decode(text: &str) -> Result<(Self, String), Status> {
        let bad = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(length) => length - length % 4,
                base64::DecodeError::InvalidPadding => text.len(),
            };
            bad(format!("illegal base64 data at input byte {at}"))
        })?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
        }
        // Upstream's start key is the first key of the page: the last one sent, followed by a zero byte.
        let after = token.start.trim_start_matches('/').trim_end_matches('\0').to_owned();
        if after.is_empty() || token.start.contains("..") {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)".into()));
        }
        Ok((token, after))
    }
}

/// Which objects of a page are sent, found before the first byte goes out where there is a limit.
struct Page {
    /// The last key sent, where more follow.
    next: Option<String>,
    remaining: Option<usize>,
}

fn paginate(selection: &Selection) -> (Option<Vec<Arc<Entry>>>, Page) {
    if selection.limit == 0 {
        return (None, Page { next: None, remaining: None });
    }
    let mut found = Vec::new();
    let mut rest = selection.snapshot.matching(&selection.scope, &selection.filter, selection.after.as_deref());
    let mut more = false;
    for entry in rest.by_ref() {
        if found.len() == selection.limit {
            more = true;
            break;
        }
        found.push(entry.clone());
    }
    if !more {
        return (Some(found), Page { next: None, remaining: None });
    }
    // Upstream counts only where no selector hides objects.
    let remaining = selection.filter.is_empty().then(|| rest.count() + 1);
    let next = found.last().map(|entry| entry.key().to_owned());
    (Some(found), Page { next, remaining })
}

impl Page {
    fn metadata(&self, revision: u64) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(last) = &self.next {
            metadata["continue"] =
                Continue { v: "meta.k8s.io/v1".into(), rv: revision.cast_signed(), start: format!("{last}\0") }.encode().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// The entries of a selection that were not found beforehand, a piece at a time, holding on to no more than the snapshot.
struct Cursor {
    selection: Selection,
    found: Option<std::vec::IntoIter<Arc<Entry>>>,
    done: bool,
}

impl Cursor {
    fn new(selection: Selection, found: Option<Vec<Arc<Entry>>>) -> Self {
        Self { selection, found: found.map(Vec::into_iter), done: false }
    }

    /// Hands entries to `take` until it says enough.
    fn fill(&mut self, mut take: impl FnMut(&Arc<Entry>) -> bool) {
        if let Some(found) = &mut self.found {
            for entry in found.by_ref() {
                if take(&entry) {
                    return;
                }
            }
            self.done = true;
            return;
        }
        let mut last = None;
        let Selection { snapshot, scope, filter, after, .. } = &self.selection;
        for entry in snapshot.matching(scope, filter, after.as_deref()) {
            if take(entry) {
                last = Some(entry.key().to_owned());
                break;
            }
        }
        self.done = last.is_none();
        if last.is_some() {
            self.selection.after = last;
        }
    }
}

/// Kind and apiVersion of the list.
fn list_kind(call: &Call, shape: Shape) -> (String, String) {
    match shape {
        Shape::Metadata(beta) | Shape::MetadataList(beta) => ("PartialObjectMetadataList".into(), tabular::version(beta).into()),
        _ => (call.served.resource.names.list_kind.clone(), call.served.resource.api_version()),
    }
}

/// Plain JSON and metadata lists.
fn streamed(call: &Call, accept: Accept, selection: Selection) -> Result<Response, Status> {
    let (found, page) = paginate(&selection);
    let (kind, api_version) = list_kind(call, accept.shape);
    let metadata = page.metadata(selection.snapshot.revision);
    let mut head = BytesMut::with_capacity(256);
    head.put_slice(format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#).as_bytes());
    let served = call.served.clone();
    Ok(pieces(selection, found, head, accept.encoding, move |entry, out| {
        if accept == Accept::JSON && !served.converted {
            out.extend_from_slice(entry.json_slice());
        } else {
            out.extend_from_slice(&reply::entry_bytes(&served, accept, entry)?);
        }
        Ok(())
    }))
}

/// A response of `head`, the objects as `write` encodes them with commas, and `]}`: whole where it is small, else streamed.
/// An object that cannot be encoded is left out, with a line in the log.
fn pieces(
    selection: Selection,
    found: Option<Vec<Arc<Entry>>>,
    head: BytesMut,
    encoding: Encoding,
    write: impl Fn(&Entry, &mut BytesMut) -> Result<(), Status> + Send + 'static,
) -> Response {
    let mut cursor = Cursor::new(selection, found);
    let mut first = true;
    let mut piece = move |mut buffer: BytesMut| -> (Bytes, bool) {
        cursor.fill(|entry| {
            let before = buffer.len();
            if !first {
                buffer.put_u8(b',');
            }
            match write(entry, &mut buffer) {
                Ok(()) => first = false,
                Err(error) => {
                    buffer.truncate(before);
                    tracing::error!(key = entry.key(), err = %error, "Cannot encode an object of a list");
                }
            }
            buffer.len() >= PIECE
        });
        if cursor.done {
            buffer.put_slice(b"]}\n");
        }
        (buffer.freeze(), cursor.done)
    };
    let (bytes, done) = piece(head);
    if done {
        return reply::raw(200, encoding.media_type(), bytes);
    }
    let rest = stream::unfold(Some((Some(bytes), piece)), |state| async move {
        let (ready, mut piece) = state?;
        if let Some(bytes) = ready {
            return Some((bytes, Some((None, piece))));
        }
        let (bytes, done) = piece(BytesMut::with_capacity(PIECE + PIECE / 4));
        Some((bytes, (!done).then_some((None, piece))))
    });
    reply::raw(200, encoding.media_type(), Body::stream(rest))
}

/// Protobuf: the list's message inside the envelope, whose length stands in front, so the items' encodings are made first (and kept).
fn protobuf(call: &Call, selection: Selection) -> Result<Response, Status> {
    let (found, page) = paginate(&selection);
    let (kind, api_version) = list_kind(call, Shape::Object);
    let metadata = page.metadata(selection.snapshot.revision);
    let form = call.served.number * 64 + 63;
    let mut cursor = Cursor::new(selection, found);
    let mut items = Vec::new();
    let mut failed = None;
    while !cursor.done {
        cursor.fill(|entry| {
            let made = entry.encoded(form, |entry| {
                let object = codec::from_stored(&call.served, entry.json_slice())?;
                codec::protobuf_message(&object)
            });
            match made {
                Ok(bytes) => items.push(bytes),
                Err(error) => failed = Some(error),
            }
            failed.is_some()
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    let (head, tail) =
        api::proto::list_frame(&api_version, &kind, &metadata, items.iter().map(Bytes::len)).map_err(Status::internal)?;
    let mut items = items.into_iter();
    let mut tail = Some(tail);
    let rest = stream::unfold(Some(head), move |head| {
        let next = head.map(|head| {
            let mut buffer = BytesMut::with_capacity(PIECE + PIECE / 4);
            buffer.extend_from_slice(&head);
            for item in items.by_ref() {
                buffer.extend_from_slice(&api::proto::item_prefix(item.len()));
                buffer.extend_from_slice(&item);
                if buffer.len() >= PIECE {
                    return (buffer.freeze(), Some(Vec::new()));
                }
            }
            buffer.extend_from_slice(&tail.take().unwrap_or_default());
            (buffer.freeze(), None)
        });
        async move { next }
    });
    Ok(reply::raw(200, Encoding::Protobuf.media_type(), Body::stream(rest)))
}

/// Tables.
fn table(call: &Call, beta: bool, selection: Selection) -> Result<Response, Status> {
    let include = tabular::include(call)?;
    let (found, page) = paginate(&selection);
    let metadata = page.metadata(selection.snapshot.revision);
    let empty = tabular::head(&call.served, tabular::version(beta), metadata, true).to_string();
    // `…,"rows":[` — the rows are the last member.
    let head = empty.strip_suffix("]}").ok_or_else(|| Status::internal("a Table ends with its rows"))?;
    let served = call.served.clone();
    let now = call.unix();
    Ok(pieces(selection, found, BytesMut::from(head.as_bytes()), Encoding::Json, move |entry, out| {
        tabular::write_row(&served, include, entry, now, out)
    }))
}

/// YAML and indented JSON: built as one tree.
fn gathered(call: &Call, accept: Accept, selection: &Selection) -> Result<Response, Status> {
    let (found, page) = paginate(selection);
    let found = found.unwrap_or_else(|| {
        selection.snapshot.matching(&selection.scope, &selection.filter, selection.after.as_deref()).cloned().collect()
    });
    let metadata = page.metadata(selection.snapshot.revision);
    let out = if let Shape::Table(beta) = accept.shape {
        let include = tabular::include(call)?;
        let rows = found.iter().map(|entry| {
            let object = codec::from_stored(&call.served, entry.json_slice())?;
            Ok(tabular::row_of(&call.served, include, &object, &object, call.unix()))
        });
        let mut table = tabular::head(&call.served, tabular::version(beta), metadata, true);
        table["rows"] = rows.collect::<Result<Vec<_>, Status>>()?.into();
        table
    } else {
        let items =
            found.iter().map(|entry| Ok(reply::shaped(codec::from_stored(&call.served, entry.json_slice())?, accept.shape)));
        let items = items.collect::<Result<Vec<_>, Status>>()?;
        let (kind, api_version) = list_kind(call, accept.shape);
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})
    };
    Ok(reply::tree(200, &out, Accept { shape: Shape::Object, ..accept }))
}

/// `Status` with a continue token in its metadata.
trait WithContinue {
    fn with_continue(self, token: String) -> Self;
}

impl WithContinue for Status {
    fn with_continue(self, token: String) -> Self {
        // `Status` has no list metadata of its own; `reply::status` moves this one there.
        self.with_details(json!({"continue": token}))
    }
}
