//! The objects of one resource in memory: the map, the window of past events, and the watchers.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imbl::OrdSet;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::entry::{Entry, Item, Malformed, Tag};
use super::extract::{Extract, FieldOf};
use super::filter::{Filter, Scope};
use super::unreadable::Unreadable;
use super::watch::{Delivery, Event, Watchers};

/// Bytes of past objects that the window of one resource may hold. Enough for minutes of ordinary change; more only helps
/// clients that were away longer, and those can list again.
const WINDOW_BYTES: usize = 6 << 20;
/// Events that are kept whatever their size, so that a client always has some way to catch up.
const WINDOW_LEAST: usize = 100;
/// Most events, however small.
const WINDOW_MOST: usize = 20_000;

/// The cache of one resource, by its path in etcd.
pub struct ResourceCache {
    /// `pods`, `services/specs`, `<group>/<resource>`.
    pub path: String,
    /// Whether keys are `<namespace>/<name>`.
    pub namespaced: bool,
    /// Names of the selectable fields, in the order of [`Entry::field`].
    pub selectable: Vec<&'static str>,
    pub(super) extract: Extract,
    /// The number of `spec.nodeName`, the field that kubelets list and watch by.
    pub indexed: Option<usize>,
    /// What is in etcd and not here.
    pub unreadable: Unreadable,
    inner: RwLock<Inner>,
    version: AtomicU64,
}

#[derive(Default)]
struct Inner {
    items: OrdSet<Item>,
    /// The newest change of this resource.
    revision: u64,
    /// Events after this version are in the window.
    window_start: u64,
    window: VecDeque<Arc<Event>>,
    window_bytes: usize,
    watchers: Watchers,
}

/// The resource's objects at one version. Free to take, however many objects there are.
#[derive(Clone)]
pub struct Snapshot {
    /// By key.
    pub items: OrdSet<Item>,
    /// The version at which the resource looked like this.
    pub revision: u64,
}

impl Snapshot {
    /// Entries from just after `after` (or from the start) within `scope`, in key order.
    pub fn from<'a>(&'a self, scope: &Scope, after: Option<&str>) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.range(scope, after).map(|item| &item.0)
    }

    /// The same, of those that match the filter.
    pub fn matching<'a>(
        &'a self,
        scope: &Scope,
        filter: &'a Filter,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let wanted = filter.tag();
        let field = match scope {
            // Only the indexed field makes a scope.
            Scope::Field(_, value) => Some(Tag::of_field(value)),
            _ => None,
        };
        self.range(scope, after)
            .filter(move |item| item.tag().can_match(wanted, field))
            .map(|item| &item.0)
            .filter(move |entry| filter.matches(entry))
    }

    /// Items from just after `after` (or from the start) within `scope`, in key order.
    fn range<'a>(&'a self, scope: &Scope, after: Option<&str>) -> impl Iterator<Item = &'a Item> {
        let (low, high) = match scope {
            Scope::Namespace(namespace) => (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0"))),
            Scope::Name(key) => (Bound::Included(key.clone()), Bound::Included(key.clone())),
            Scope::All | Scope::Field(..) => (Bound::Unbounded, Bound::Unbounded),
        };
        let low = match (after, low) {
            // A continue key may lie before or after the scope's start.
            (Some(after), Bound::Included(low)) if low.as_str() > after => Bound::Included(low),
            (Some(after), _) => Bound::Excluded(after.to_owned()),
            (None, low) => low,
        };
        let empty = match (&low, &high) {
            (Bound::Included(low), Bound::Excluded(high)) => low >= high,
            (Bound::Excluded(low), Bound::Excluded(high) | Bound::Included(high)) => low >= high,
            (Bound::Included(low), Bound::Included(high)) => low > high,
            _ => false,
        };
        let borrowed = (low.as_ref().map(String::as_str), high.as_ref().map(String::as_str));
        let range = if empty { None } else { Some(self.items.range::<_, str>(borrowed)) };
        range.into_iter().flatten()
    }
}

/// A watch that has begun: first `initial`, then what comes through `events`.
pub struct Watch {
    /// Events of the window since the version asked for.
    pub initial: Vec<Delivery>,
    /// Events from then on; closed when the watcher was too slow or the cache was rebuilt.
    pub events: mpsc::Receiver<Delivery>,
    /// The resource when the watch began.
    pub snapshot: Snapshot,
}

impl ResourceCache {
    /// An empty cache.
    pub fn new(path: &str, namespaced: bool, selectable: &[(&'static str, FieldOf)]) -> Self {
        Self {
            path: path.to_owned(),
            namespaced,
            selectable: selectable.iter().map(|(key, _)| *key).collect(),
            extract: Extract::new(selectable),
            indexed: selectable.iter().position(|(key, _)| *key == "spec.nodeName"),
            unreadable: Unreadable::default(),
            inner: RwLock::default(),
            version: AtomicU64::new(0),
        }
    }

    /// The object, as far as the cache has come.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().items.get(key).map(|item| item.0.clone())
    }

    /// The resource now. `progress` is how far the stream had come just before the call.
    pub fn snapshot(&self, progress: u64) -> Snapshot {
        self.inner.read().snapshot(progress)
    }

    /// The resource as it was at `revision`, if the window reaches back to it (and forward: the caller has waited).
    pub fn snapshot_at(&self, revision: u64) -> Option<Snapshot> {
        let inner = self.inner.read();
        if revision < inner.window_start {
            return None;
        }
        let mut items = inner.items.clone();
        for event in inner.window.iter().rev().take_while(|event| event.revision() > revision) {
            match &event.previous {
                Some(previous) => {
                    items.insert(Item::new(previous.clone(), self.indexed));
                }
                None => {
                    items.remove(event.entry.key());
                }
            }
        }
        Some(Snapshot { items, revision })
    }

    /// An entry of this resource from a stored document.
    ///
    /// # Errors
    /// The document is no object.
    pub fn entry(&self, key: &str, document: &[u8], revision: u64) -> Result<Entry, Malformed> {
        Entry::new(key, self.namespaced, document, revision, &self.extract)
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.inner.read().items.len()
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.inner.read().watchers.len()
    }

    /// Changes with every change of the resource.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Begins a watch of events after `since`, or (`None`) of events from now on.
    ///
    /// # Errors
    /// The oldest version that can be watched from, where `since` is older.
    pub fn watch(&self, since: Option<u64>, scope: Scope, filter: Arc<Filter>, progress: u64) -> Result<Watch, u64> {
        let mut inner = self.inner.write();
        let initial = match since {
            None => Vec::new(),
            Some(since) if since < inner.window_start => return Err(inner.window_start),
            Some(since) => Watchers::replay(inner.window.iter(), since, &scope, &filter),
        };
        let snapshot = inner.snapshot(progress);
        let events = inner.watchers.add(scope, filter);
        Ok(Watch { initial, events, snapshot })
    }

    /// An object was written.
    pub(super) fn put(&self, entry: Entry) {
        let entry = Arc::new(entry);
        self.unreadable.forget(entry.key());
        let mut inner = self.inner.write();
        let previous = inner.items.insert(Item::new(entry.clone(), self.indexed)).map(|item| item.0);
        inner.push(Event::written(entry, previous));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// An object was removed.
    pub(super) fn remove(&self, key: &str, revision: u64) {
        self.unreadable.forget(key);
        let mut inner = self.inner.write();
        if let Some(previous) = inner.items.remove(key) {
            inner.push(Event::removed(previous.0, revision));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Everything anew, as of `revision`: watchers must come again, versions before are no longer known.
    pub(super) fn replace(&self, entries: Vec<Entry>, revision: u64) {
        let items: OrdSet<Item> = entries.into_iter().map(|entry| Item::new(Arc::new(entry), self.indexed)).collect();
        let mut inner = self.inner.write();
        *inner = Inner { items, revision, window_start: revision, ..Inner::default() };
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Inner {
    fn snapshot(&self, progress: u64) -> Snapshot {
        Snapshot { items: self.items.clone(), revision: self.revision.max(progress) }
    }

    fn push(&mut self, event: Event) {
        let event = Arc::new(event);
        self.revision = event.revision();
        self.watchers.dispatch(&event);
        self.window_bytes += event.size();
        self.window.push_back(event);
        while self.window.len() > WINDOW_MOST || (self.window_bytes > WINDOW_BYTES && self.window.len() > WINDOW_LEAST) {
            let Some(oldest) = self.window.pop_front() else { break };
            self.window_bytes -= oldest.size();
            self.window_start = oldest.revision();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::watch::Kind;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry::new(key, true, br#"{"metadata":{"labels":{"a":"b"}}}"#, revision, &Extract::none()).unwrap()
    }

    fn keys(snapshot: &Snapshot, scope: &Scope, after: Option<&str>) -> Vec<String> {
        snapshot.from(scope, after).map(|entry| entry.key().to_owned()).collect()
    }

    #[test]
    fn ranges_follow_scope_and_continue_key() {
        let cache = ResourceCache::new("pods", true, &[]);
        for (index, key) in ["a-b/x", "a/x", "a/y", "b/x"].iter().enumerate() {
            cache.put(entry(key, index as u64 + 1));
        }
        let now = cache.snapshot(9);
        assert_eq!(now.revision, 9);
        assert_eq!(keys(&now, &Scope::All, None), ["a-b/x", "a/x", "a/y", "b/x"]);
        assert_eq!(keys(&now, &Scope::Namespace("a".into()), None), ["a/x", "a/y"]);
        assert_eq!(keys(&now, &Scope::Namespace("a".into()), Some("a/x")), ["a/y"]);
        assert_eq!(keys(&now, &Scope::Namespace("a".into()), Some("zz")), Vec::<String>::new());
        assert_eq!(keys(&now, &Scope::Namespace("b".into()), Some("a/x")), ["b/x"]);
        assert_eq!(keys(&now, &Scope::All, Some("a/x")), ["a/y", "b/x"]);
        assert_eq!(keys(&now, &Scope::Name("a/y".into()), None), ["a/y"]);
        assert_eq!(keys(&now, &Scope::Name("a/y".into()), Some("a/y")), Vec::<String>::new());
    }

    #[test]
    fn tags_hide_nothing_that_matches() {
        fn node(object: &serde_json::Value) -> String {
            object["spec"]["nodeName"].as_str().unwrap_or("").to_owned()
        }
        let cache = ResourceCache::new("pods", true, &[("spec.nodeName", node)]);
        for index in 0..500 {
            let document = format!(
                r#"{{"metadata":{{"labels":{{"a":"{}","b":"{}","e":""}}}},"spec":{{"nodeName":"n{}"}}}}"#,
                index % 7,
                index % 3,
                index % 11
            );
            cache.put(cache.entry(&format!("n/p{index}"), document.as_bytes(), index + 1).unwrap());
        }
        let now = cache.snapshot(0);
        for (selector, count) in [
            ("a=3", 71),
            ("a=3,b=1", 24),
            ("a in (3)", 71),
            ("a in (3,4)", 142),
            ("a!=3", 429),
            ("e=", 500),
            ("x", 0),
            ("!x", 500),
        ] {
            let filter = Filter { labels: Some(api::selector::LabelSelector::parse(selector).unwrap()), fields: Vec::new() };
            let slow = now.from(&Scope::All, None).filter(|entry| filter.matches(entry)).count();
            assert_eq!((now.matching(&Scope::All, &filter, None).count(), slow), (count, count), "{selector}");
        }
        let fields = vec![crate::cache::filter::FieldMatch {
            field: crate::cache::filter::Field::Other(0),
            equal: true,
            value: "n5".into(),
        }];
        let filter = Filter { labels: None, fields };
        assert_eq!(now.matching(&Scope::Field(0, "n5".into()), &filter, None).count(), 45);
    }

    #[test]
    fn the_past_is_rebuilt_from_the_window() {
        let cache = ResourceCache::new("pods", true, &[]);
        cache.put(entry("n/a", 1));
        cache.put(entry("n/b", 2));
        cache.put(entry("n/a", 3));
        cache.remove("n/b", 4);
        let versions = |revision| -> Vec<(String, u64)> {
            let snapshot = cache.snapshot_at(revision).unwrap();
            snapshot.from(&Scope::All, None).map(|entry| (entry.key().to_owned(), entry.revision())).collect()
        };
        assert_eq!(versions(1), [("n/a".to_owned(), 1)]);
        assert_eq!(versions(2), [("n/a".to_owned(), 1), ("n/b".to_owned(), 2)]);
        assert_eq!(versions(3), [("n/a".to_owned(), 3), ("n/b".to_owned(), 2)]);
        assert_eq!(versions(4), [("n/a".to_owned(), 3)]);
    }

    #[test]
    fn watches_replay_then_follow_and_expire() {
        let cache = ResourceCache::new("pods", true, &[]);
        cache.put(entry("n/a", 1));
        cache.put(entry("m/a", 2));
        cache.put(entry("n/a", 3));
        let mut watch = cache.watch(Some(1), Scope::Namespace("n".into()), Arc::default(), 3).unwrap();
        let seen: Vec<_> = watch.initial.iter().map(|(event, kind)| (event.revision(), *kind)).collect();
        assert_eq!(seen, [(3, Kind::Modified)]);
        cache.remove("n/a", 4);
        cache.remove("m/a", 5);
        let (event, kind) = watch.events.try_recv().unwrap();
        assert_eq!((event.revision(), kind), (4, Kind::Deleted));
        assert!(watch.events.try_recv().is_err());
        cache.replace(vec![entry("n/c", 7)], 8);
        assert!(watch.events.blocking_recv().is_none());
        assert_eq!(cache.watch(Some(7), Scope::All, Arc::default(), 8).err(), Some(8));
        assert!(cache.watch(Some(8), Scope::All, Arc::default(), 8).is_ok());
    }

    #[test]
    fn a_watcher_that_does_not_read_is_cut() {
        let cache = ResourceCache::new("pods", true, &[]);
        let watch = cache.watch(None, Scope::All, Arc::default(), 0).unwrap();
        for revision in 1..5000 {
            cache.put(entry("n/a", revision));
        }
        assert_eq!(cache.watchers(), 0);
        drop(watch);
    }
}
