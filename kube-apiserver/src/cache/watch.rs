//! Watchers of one resource: found by index, fed through bounded channels, cut when they do not keep up.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::entry::Entry;
use super::filter::{Filter, Scope};

/// Events a watcher may be behind before it is cut: at 16 bytes each this is 32 KiB, and two seconds of a busy resource.
/// A client that was cut comes back with its last version and is served from the window.
const BUFFER: usize = 2048;

/// A change of one object.
pub struct Event {
    /// The object after the change; for a removal the object as it was, with the removal's version.
    pub entry: Arc<Entry>,
    /// The object before the change.
    pub previous: Option<Arc<Entry>>,
    /// Whether this is a removal.
    pub removed: bool,
    /// The object before the change, with the change's version: what a watcher sees leave its selection.
    gone: OnceLock<Arc<Entry>>,
    frames: parking_lot::Mutex<Vec<((u32, Kind), Bytes)>>,
}

/// What a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The object is new, or came into the selection.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or left the selection.
    Deleted,
}

impl Kind {
    /// As in the frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Event {
    /// An object was written.
    pub fn written(entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { entry, previous, removed: false, gone: OnceLock::new(), frames: parking_lot::Mutex::default() }
    }

    /// An object was removed at `revision`.
    pub fn removed(previous: Arc<Entry>, revision: u64) -> Self {
        let entry = Arc::new(previous.at(revision));
        Self { entry, previous: Some(previous), removed: true, gone: OnceLock::new(), frames: parking_lot::Mutex::default() }
    }

    /// The version of the change.
    pub fn revision(&self) -> u64 {
        self.entry.revision()
    }

    /// Bytes that only the window keeps alive.
    pub fn size(&self) -> usize {
        128 + self.previous.as_ref().map_or(0, |entry| entry.size()) + if self.removed { self.entry.size() } else { 0 }
    }

    /// What a watcher with `filter` is told of this, if anything.
    pub fn seen_by(&self, filter: &Filter) -> Option<Kind> {
        let before = self.previous.as_ref().is_some_and(|entry| filter.matches(entry));
        let after = !self.removed && filter.matches(&self.entry);
        match (before, after) {
            (false, true) => Some(Kind::Added),
            (true, true) => Some(Kind::Modified),
            (true, false) => Some(Kind::Deleted),
            (false, false) => None,
        }
    }

    /// The object that a watcher is shown with `kind`.
    pub fn shown(&self, kind: Kind) -> &Arc<Entry> {
        match (&self.previous, kind) {
            (Some(previous), Kind::Deleted) if !self.removed => self.gone.get_or_init(|| Arc::new(previous.at(self.revision()))),
            _ => &self.entry,
        }
    }

    /// The encoded frame of this event in `form`, made once for all watchers.
    pub fn frame<E>(&self, form: u32, kind: Kind, make: impl FnOnce(&Entry) -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some((_, frame)) = self.frames.lock().iter().find(|(have, _)| *have == (form, kind)) {
            return Ok(frame.clone());
        }
        let frame = make(self.shown(kind))?;
        self.frames.lock().push(((form, kind), frame.clone()));
        Ok(frame)
    }

    fn in_scope(&self, scope: &Scope) -> bool {
        let test = |entry: &Entry| match scope {
            Scope::All => true,
            Scope::Namespace(namespace) => entry.namespace() == namespace,
            Scope::Name(key) => entry.key() == key,
            Scope::Field(index, value) => entry.field(*index) == value,
        };
        test(&self.entry) || self.previous.as_ref().is_some_and(|entry| test(entry))
    }
}

/// What goes through a watcher's channel.
pub type Delivery = (Arc<Event>, Kind);

struct Watcher {
    filter: Arc<Filter>,
    sender: mpsc::Sender<Delivery>,
}

/// The live watchers of one resource.
#[derive(Default)]
pub(super) struct Watchers {
    by_scope: HashMap<Scope, Vec<Watcher>>,
    /// Field numbers that any watcher's scope uses.
    fields: Vec<usize>,
    count: usize,
}

impl Watchers {
    /// Registers a watcher for events from now on. A field's value must be part of the filter too.
    pub(super) fn add(&mut self, scope: Scope, filter: Arc<Filter>) -> mpsc::Receiver<Delivery> {
        let (sender, receiver) = mpsc::channel(BUFFER);
        if let Scope::Field(index, _) = scope
            && !self.fields.contains(&index)
        {
            self.fields.push(index);
        }
        let list = self.by_scope.entry(scope).or_default();
        // Those who hung up and saw no event since.
        let before = list.len();
        list.retain(|watcher| !watcher.sender.is_closed());
        list.push(Watcher { filter, sender });
        self.count = self.count + list.len() - before;
        receiver
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Hands the event to all whom it concerns.
    pub(super) fn dispatch(&mut self, event: &Arc<Event>) {
        if self.count == 0 {
            return;
        }
        self.dispatch_to(&Scope::All, event);
        let entry = &event.entry;
        if !entry.namespace().is_empty() {
            self.dispatch_to(&Scope::Namespace(entry.namespace().to_owned()), event);
        }
        self.dispatch_to(&Scope::Name(entry.key().to_owned()), event);
        for index in self.fields.clone() {
            let after = entry.field(index);
            self.dispatch_to(&Scope::Field(index, after.to_owned()), event);
            if let Some(before) = event.previous.as_ref().map(|entry| entry.field(index)).filter(|before| *before != after) {
                self.dispatch_to(&Scope::Field(index, before.to_owned()), event);
            }
        }
    }

    fn dispatch_to(&mut self, scope: &Scope, event: &Arc<Event>) {
        let Some(list) = self.by_scope.get_mut(scope) else { return };
        let before = list.len();
        list.retain(|watcher| match event.seen_by(&watcher.filter) {
            None => true,
            Some(kind) => watcher.sender.try_send((event.clone(), kind)).is_ok(),
        });
        self.count -= before - list.len();
        if list.is_empty() {
            self.by_scope.remove(scope);
        }
    }

    /// Events of `window` after `revision` that concern the watcher.
    pub(super) fn replay<'a>(
        window: impl Iterator<Item = &'a Arc<Event>>,
        revision: u64,
        scope: &Scope,
        filter: &Filter,
    ) -> Vec<Delivery> {
        window
            .filter(|event| event.revision() > revision && event.in_scope(scope))
            .filter_map(|event| event.seen_by(filter).map(|kind| (event.clone(), kind)))
            .collect()
    }
}
