//! The list of managers of an object: `metadata.managedFields`.

use serde_json::{Map, Value};

use super::compare::{Comparison, compare};
use super::fields::{self, Set};
use super::typed::At;
use super::{Conflict, Writer, reset};
use crate::schema::Schema;

/// One manager with its fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// By apply (else by update).
    pub(super) applied: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    pub(super) fields: Set,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

/// A field that an apply would change and another manager owns.
pub(super) struct Clash {
    manager: String,
    path: Vec<String>,
}

impl Clash {
    pub(super) fn is_in(&self, set: &Set) -> bool {
        fields::contains(set, &self.path)
    }

    pub(super) fn into_conflict(self) -> Conflict {
        Conflict { manager: self.manager, field: fields::print(&self.path) }
    }
}

/// Managers by update that are kept apart; older ones go into one. Upstream: DefaultMaxUpdateManagers.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of what those did.
const ANCIENT: &str = "ancient-changes";

impl Entry {
    /// What makes two entries the same manager: appliers have one entry whatever the version.
    fn is(&self, applied: bool, manager: &str, api_version: &str, subresource: &str) -> bool {
        self.applied == applied
            && self.manager == manager
            && self.subresource == subresource
            && (applied || self.api_version == api_version)
    }

    fn is_applier(&self, writer: Writer<'_>) -> bool {
        self.is(true, writer.manager, "", writer.subresource)
    }

    /// As upstream's messages name it: `"m" with subresource "status" using apps/v1`.
    fn print(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn encode(self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: String| {
            if !value.is_empty() {
                out.insert(name.to_owned(), Value::String(value));
            }
        };
        put("manager", self.manager);
        put("operation", if self.applied { "Apply" } else { "Update" }.to_owned());
        put("apiVersion", self.api_version);
        put("time", self.time.unwrap_or_default());
        put("fieldsType", "FieldsV1".to_owned());
        put("subresource", self.subresource);
        out.insert("fieldsV1".to_owned(), Value::Object(self.fields));
        Value::Object(out)
    }
}

impl Managers {
    /// Reads the list; `None` where any entry is malformed.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let mut out = Self::default();
        for entry in value.as_array()? {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let applied = match text("operation").as_str() {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
                return None;
            }
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => Set::new(),
                Some(fields) => fields::parse(fields)?,
            };
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            let (manager, subresource) = (text("manager"), text("subresource"));
            out.entries.retain(|known| !known.is(applied, &manager, &api_version, &subresource));
            out.entries.push(Entry { manager, applied, api_version, subresource, time, fields });
        }
        Some(out)
    }

    /// The list as stored: by operation, time, manager, version, subresource.
    pub(super) fn encode(mut self) -> Vec<Value> {
        self.entries.sort_by(|a, b| {
            let key = |entry: &Entry| {
                let time = entry.time.clone().unwrap_or_default();
                (!entry.applied, time, entry.manager.clone(), entry.api_version.clone(), entry.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        self.entries.into_iter().map(Entry::encode).collect()
    }

    /// Accounts for a write of `new` over `live` that was no apply.
    pub(super) fn update(&mut self, schema: &Schema, live: &Value, new: &Value, writer: Writer<'_>) {
        let ignored = reset::ignored(new, writer.subresource);
        let comparison = strip(compare(At::root(schema), live, new)).without(&ignored);
        if comparison.is_empty() {
            return;
        }
        self.yield_to(&comparison, None);
        let mut own = comparison.modified;
        fields::union(&mut own, &comparison.added);
        if own.is_empty() {
            return;
        }
        let api_version = new["apiVersion"].as_str().unwrap_or_default();
        let time = Some(writer.now.to_owned());
        match self.entries.iter_mut().find(|entry| entry.is(false, writer.manager, api_version, writer.subresource)) {
            Some(entry) => {
                fields::union(&mut entry.fields, &own);
                entry.time = time;
            }
            None => self.entries.push(Entry {
                manager: writer.manager.to_owned(),
                applied: false,
                api_version: api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time,
                fields: own,
            }),
        }
    }

    /// Takes from all (but the applier itself) what changed, and drops managers that own nothing any more.
    pub(super) fn yield_to(&mut self, comparison: &Comparison, applier: Option<Writer<'_>>) {
        for entry in &mut self.entries {
            if applier.is_some_and(|writer| entry.is_applier(writer)) {
                continue;
            }
            for set in [&comparison.modified, &comparison.added, &comparison.removed] {
                fields::difference(&mut entry.fields, set);
            }
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }

    /// Fields of others that the applier would change.
    pub(super) fn clashes(&self, writer: Writer<'_>, comparison: &Comparison) -> Vec<Clash> {
        let mut changed = comparison.modified.clone();
        fields::union(&mut changed, &comparison.added);
        let mut out = Vec::new();
        for entry in self.entries.iter().filter(|entry| !entry.is_applier(writer)) {
            let manager = entry.print();
            let clash = fields::paths(&fields::intersection(&entry.fields, &changed));
            out.extend(clash.into_iter().map(|path| Clash { manager: manager.clone(), path }));
        }
        out.sort_by(|a, b| a.manager.cmp(&b.manager));
        out
    }

    /// The applier's entry from last time.
    pub(super) fn applied(&self, writer: Writer<'_>) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_applier(writer))
    }

    /// Gives the applier a new set.
    pub(super) fn set_applied(&mut self, writer: Writer<'_>, api_version: &str, set: Set) {
        match self.entries.iter_mut().find(|entry| entry.is_applier(writer)) {
            Some(entry) => {
                entry.fields = set;
                entry.api_version = api_version.to_owned();
            }
            None => self.entries.push(Entry {
                manager: writer.manager.to_owned(),
                applied: true,
                api_version: api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time: None,
                fields: set,
            }),
        }
    }

    /// The object changed: the applier's entry gets the time.
    pub(super) fn touch_applied(&mut self, writer: Writer<'_>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_applier(writer)) {
            entry.time = Some(writer.now.to_owned());
        }
    }

    /// Takes from the applier what nobody owns.
    pub(super) fn strip(&mut self, writer: Writer<'_>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_applier(writer)) {
            fields::difference(&mut entry.fields, &reset::unowned());
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }

    /// Merges the oldest updaters where there are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<usize> = (0..self.entries.len()).filter(|index| !self.entries[*index].applied).collect();
        if updaters.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort_by_key(|index| {
            let entry = &self.entries[*index];
            (entry.time.clone().unwrap_or_default(), entry.api_version.clone(), entry.manager.clone())
        });
        let mut count = updaters.len();
        // Per version: the first one, into which the next ones go.
        let mut first: Vec<(String, usize)> = Vec::new();
        let mut gone = Vec::new();
        for index in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let version = self.entries[index].api_version.clone();
            match first.iter().find(|(known, _)| *known == version).map(|(_, bucket)| *bucket) {
                None => first.push((version, index)),
                Some(bucket) => {
                    let (more, time) = (std::mem::take(&mut self.entries[index].fields), self.entries[index].time.clone());
                    let target = &mut self.entries[bucket];
                    fields::union(&mut target.fields, &more);
                    (target.manager, target.subresource, target.time) = (ANCIENT.to_owned(), String::new(), time);
                    gone.push(index);
                    count -= 1;
                }
            }
        }
        let mut index = 0;
        self.entries.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
    }
}

/// Drops what nobody owns from a comparison. Only additions and changes give ownership.
fn strip(mut comparison: Comparison) -> Comparison {
    let unowned = reset::unowned();
    for set in [&mut comparison.added, &mut comparison.modified] {
        fields::difference(set, &unowned);
    }
    comparison
}
