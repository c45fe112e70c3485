//! The stream from etcd into the caches: load everything at one revision, then follow one watch on the prefix.
//!
//! Whatever breaks the chain of revisions (compaction while away, another history after a restore) ends in a load.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse};
use tracing::{debug, error, info, warn};

use super::Caches;
use super::entry::{Entry, Malformed};
use super::resource::ResourceCache;
use crate::storage::{Error, Stored};

/// Keys in one page of a load: small enough that a page of large objects stays below 100 MiB in most clusters.
const PAGE: i64 = 1000;
/// Pause between attempts when etcd is away.
const RETRY: Duration = Duration::from_millis(200);
/// Revisions that are passed after a restore; they cost about a millisecond each.
const PASS_MOST: u64 = 20_000;
/// Writes on their way at once meanwhile.
const PASS_BATCH: u64 = 64;

/// Feeds the caches until dropped.
pub async fn run(caches: Arc<Caches>) {
    // The last event seen: where to go on, and the proof that etcd still has the same history.
    let mut last: Option<Stored> = None;
    let mut seen = 0;
    loop {
        seen = seen.max(caches.revision());
        let outcome = async {
            let resume = caches.revision();
            if resume == 0 || !same_history(&caches, resume, last.as_ref()).await? {
                last = None;
                pass(&caches, seen).await?;
                load(&caches).await?;
            }
            follow(&caches, &mut last).await
        };
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            () = caches.rewound.notified() => Err(Broken::Rewound),
        };
        match outcome {
            Ok(()) => debug!("The stream from etcd ended"),
            Err(Broken::Rewound) => {
                seen = seen.max(caches.revision());
                warn!("etcd has another history than the cache: loading anew");
                last = None;
                caches.progress.send_replace(0);
                continue;
            }
            Err(Broken::Etcd(Error::Compacted)) => {
                info!("The cache fell behind etcd's compaction: loading anew");
                last = None;
                caches.progress.send_replace(0);
                continue;
            }
            Err(Broken::Etcd(error)) => warn!(err = %error, "The stream from etcd failed"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

enum Broken {
    Etcd(Error),
    Rewound,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

/// Whether etcd's history still contains what the caches saw up to `revision`.
async fn same_history(caches: &Caches, revision: u64, last: Option<&Stored>) -> Result<bool, Error> {
    let current = caches.storage.page("compact_rev_key", "compact_rev_key\0", 1, 0).await?.revision;
    if current < revision {
        return Ok(false);
    }
    let Some(last) = last else { return Ok(true) };
    match caches.storage.page(&last.key, &format!("{}\0", last.key), 1, last.revision).await {
        Ok(page) => Ok(match page.items.first() {
            Some(have) => have.revision == last.revision && have.value == last.value,
            // Removals are remembered with no value.
            None => last.value.is_empty(),
        }),
        Err(Error::Compacted | Error::Future) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes until etcd has passed a revision of the history that a restore has ended. Clients still name such revisions: they must find them too
/// old, and list anew, rather than go on from there in a history where they mean something else.
async fn pass(caches: &Caches, seen: u64) -> Result<(), Error> {
    let mut current = caches.storage.current_revision().await?;
    if current > seen || seen - current > PASS_MOST {
        return Ok(());
    }
    info!(from = current, to = seen, "Passing the revisions of the former history");
    while current <= seen {
        let batch = (seen + 1 - current).min(PASS_BATCH);
        for revision in futures::future::join_all((0..batch).map(|_| caches.storage.touch())).await {
            current = current.max(revision?);
        }
    }
    Ok(())
}

/// Reads everything below the prefix at one revision.
async fn load(caches: &Caches) -> Result<(), Error> {
    let prefix = caches.storage.prefix().to_owned();
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let by_path = caches.by_path.load_full();
    let mut loaded: HashMap<&str, Vec<Entry>> = by_path.keys().map(|path| (path.as_str(), Vec::new())).collect();
    let (mut start, mut revision) = (prefix.clone(), 0);
    let mut unreadable: Vec<(String, String, String)> = Vec::new();
    loop {
        let page = caches.storage.page(&start, &end, PAGE, revision).await?;
        if revision == 0 {
            revision = page.revision;
        }
        if let Some(item) = page.items.last() {
            start = format!("{}\0", item.key);
        }
        for item in page.items {
            let Some((cache, key)) = locate(&by_path, &item.key[prefix.len()..]) else { continue };
            match make(cache, key, &item.value, item.revision) {
                Ok(entry) => {
                    if let Some(list) = loaded.get_mut(cache.path.as_str()) {
                        list.push(entry);
                    }
                }
                Err(why) => {
                    error!(key = item.key, err = %why, "Cannot read an object in etcd");
                    unreadable.push((cache.path.clone(), key.to_owned(), why.to_string()));
                }
            }
        }
        if !page.more {
            break;
        }
    }
    let count: usize = loaded.values().map(Vec::len).sum();
    for (path, entries) in loaded {
        if let Some(cache) = by_path.get(path) {
            cache.unreadable.clear();
            cache.replace(entries, revision);
        }
    }
    for (path, key, why) in unreadable {
        if let Some(cache) = by_path.get(&path) {
            cache.unreadable.note(&key, why);
        }
    }
    caches.progress.send_replace(revision);
    info!(objects = count, revision, "Loaded the cache from etcd");
    Ok(())
}

/// Applies events until the stream ends.
async fn follow(caches: &Caches, last: &mut Option<Stored>) -> Result<(), Broken> {
    let prefix = caches.storage.prefix().to_owned();
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let options = WatchOptions::new().with_range(end).with_start_revision(caches.revision().cast_signed() + 1).with_fragment();
    let mut client = caches.storage.client().watch_client().max_decoding_message_size(usize::MAX);
    let mut stream = client.watch(prefix.clone(), Some(options)).await.map_err(Error::from)?;
    let by_path = caches.by_path.load_full();
    while let Some(answer) = stream.message().await.map_err(Error::from)? {
        if answer.compact_revision() > 0 {
            return Err(Error::Compacted.into());
        }
        if answer.canceled() {
            return Err(Error::Unavailable(answer.cancel_reason().to_owned()).into());
        }
        apply(caches, &by_path, &prefix, &answer, last);
    }
    Ok(())
}

fn apply(
    caches: &Caches,
    by_path: &HashMap<String, Arc<ResourceCache>>,
    prefix: &str,
    answer: &WatchResponse,
    last: &mut Option<Stored>,
) {
    let mut reached = 0;
    for event in answer.events() {
        let Some(kv) = event.kv() else { continue };
        let revision = kv.mod_revision().cast_unsigned();
        reached = revision;
        let Some((cache, key)) = kv.key_str().ok().and_then(|key| locate(by_path, key.get(prefix.len()..)?)) else { continue };
        match event.event_type() {
            EventType::Put => match make(cache, key, &plain(caches, kv), revision) {
                Ok(entry) => cache.put(entry),
                Err(why) => {
                    error!(key = kv.key_str().unwrap_or_default(), err = %why, "Cannot read an object in etcd");
                    cache.unreadable.note(key, why.to_string());
                }
            },
            EventType::Delete => cache.remove(key, revision),
        }
    }
    if let Some(kv) = answer.events().last().and_then(|event| event.kv()) {
        *last = Some(Stored {
            key: kv.key_str().unwrap_or_default().to_owned(),
            value: plain(caches, kv).into_owned(),
            revision: kv.mod_revision().cast_unsigned(),
            stale: false,
        });
    }
    if reached > 0 {
        caches.progress.send_replace(reached);
    }
}

/// The decrypted value of an event.
fn plain<'a>(caches: &Caches, kv: &'a etcd_client::KeyValue) -> std::borrow::Cow<'a, [u8]> {
    caches.storage.plain(kv.key_str().unwrap_or_default(), kv.value()).0
}

fn make(cache: &ResourceCache, key: &str, value: &[u8], revision: u64) -> Result<Entry, Malformed> {
    let value = crate::codec::stored_json(value).map_err(Malformed::Encoding)?;
    cache.entry(key, &value, revision)
}

/// The cache and the object's key in it for a key below the prefix: paths have one or two segments.
fn locate<'a, 'k>(by_path: &'a HashMap<String, Arc<ResourceCache>>, key: &'k str) -> Option<(&'a ResourceCache, &'k str)> {
    let mut slashes = key.match_indices('/').map(|(at, _)| at);
    let (first, second) = (slashes.next()?, slashes.next());
    for at in [Some(first), second].into_iter().flatten() {
        if let Some(cache) = by_path.get(&key[..at]) {
            let rest = &key[at + 1..];
            // Namespaced objects have one slash, others none: what does not fit is somebody else's.
            if !rest.is_empty() && rest.matches('/').count() == usize::from(cache.namespaced) {
                return Some((cache, rest));
            }
        }
    }
    None
}
