//! What differs between two objects, as sets of fields.

use serde_json::Value;

use super::fields::{self, Set};
use super::typed::{At, Shape, same};

/// The fields that came, changed and went.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Comparison {
    /// The same without fields (and all below them) that a strategy keeps from being written.
    pub(super) fn without(mut self, ignored: &Set) -> Self {
        if !ignored.is_empty() {
            for set in [&mut self.added, &mut self.modified, &mut self.removed] {
                fields::recursive_difference(set, ignored);
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, key: &str, below: Nodes) {
        for (set, node) in
            [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)]
        {
            if let Some(node) = node {
                set.insert(key.to_owned(), Value::Object(node));
            }
        }
    }
}

/// What becomes of one place in each of the sets; `None`: nothing.
#[derive(Default)]
struct Nodes {
    added: Option<Set>,
    modified: Option<Set>,
    removed: Option<Set>,
}

/// Compares two objects.
pub(super) fn compare(at: At<'_>, old: &Value, new: &Value) -> Comparison {
    let mut out = Comparison::default();
    members(at, Some(old), Some(new), &mut out);
    out
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn place(at: At<'_>, old: Option<&Value>, new: Option<&Value>) -> Nodes {
    let fits = |value: Option<&Value>, shape: &Shape<'_>| match (shape, value) {
        (_, None | Some(Value::Null)) => true,
        (Shape::Map, Some(value)) => value.is_object(),
        (_, Some(value)) => value.is_array(),
    };
    let shape = at.shape();
    let is_leaf = matches!(shape, Shape::Leaf) || (is_empty(old) && is_empty(new)) || !fits(old, &shape) || !fits(new, &shape);
    if is_leaf {
        return match (old, new) {
            (None, Some(_)) => Nodes { added: Some(fields::leaf()), ..Nodes::default() },
            (Some(_), None) => Nodes { removed: Some(fields::leaf()), ..Nodes::default() },
            (Some(old), Some(new)) if !same(old, new) => Nodes { modified: Some(fields::leaf()), ..Nodes::default() },
            _ => Nodes::default(),
        };
    }
    // Most of an update is unchanged: whole subtrees are compared before they are walked.
    if let (Some(old), Some(new)) = (old, new)
        && old == new
    {
        return Nodes::default();
    }
    let mut below = Comparison::default();
    members(at, old, new, &mut below);
    let some = |set: Set| (!set.is_empty()).then_some(set);
    Nodes {
        added: if old.is_none() { Some(fields::member(below.added)) } else { some(below.added) },
        modified: some(below.modified),
        removed: if new.is_none() { Some(fields::member(below.removed)) } else { some(below.removed) },
    }
}

fn members(at: At<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    match at.shape() {
        Shape::Map => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            for (name, value) in old.into_iter().flatten() {
                member(at, name, Some(value), new.and_then(|new| new.get(name)), out);
            }
            for (name, value) in new.into_iter().flatten() {
                if old.is_none_or(|old| !old.contains_key(name)) {
                    member(at, name, None, Some(value), out);
                }
            }
        }
        Shape::Set | Shape::Keyed(_) => elements(at, old.and_then(Value::as_array), new.and_then(Value::as_array), out),
        Shape::Leaf => {}
    }
}

fn member(at: At<'_>, name: &str, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    // Fields that no schema knows belong to nobody.
    if let Some(below) = at.member(name) {
        let nodes = place(below, old, new);
        if nodes.added.is_some() || nodes.modified.is_some() || nodes.removed.is_some() {
            out.put(&format!("f:{name}"), nodes);
        }
    }
}

/// The elements of a list under their keys, in order of first appearance.
fn index<'v>(at: At<'_>, list: Option<&'v Vec<Value>>) -> Vec<(String, Vec<&'v Value>)> {
    let mut out: Vec<(String, Vec<&Value>)> = Vec::new();
    for value in list.into_iter().flatten() {
        let Ok(key) = at.element_key(value) else { continue };
        match out.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => out.push((key, vec![value])),
        }
    }
    out
}

fn values_of<'v>(list: &[(String, Vec<&'v Value>)], key: &str) -> Vec<&'v Value> {
    list.iter().find(|(known, _)| known == key).map(|(_, values)| values.clone()).unwrap_or_default()
}

fn elements(at: At<'_>, old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, out: &mut Comparison) {
    let (old, new) = (index(at, old), index(at, new));
    let keys = old
        .iter()
        .map(|(key, _)| key)
        .chain(new.iter().map(|(key, _)| key).filter(|key| !old.iter().any(|(known, _)| known == *key)));
    for key in keys {
        let (before, after) = (values_of(&old, key), values_of(&new, key));
        let nodes = match (before.len(), after.len()) {
            (0 | 1, 0 | 1) => place(at.element(), before.first().copied(), after.first().copied()),
            (2.., 2..) => {
                let equal = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| same(a, b));
                Nodes { modified: (!equal).then(fields::leaf), ..Nodes::default() }
            }
            (2.., _) => {
                let mut nodes = after.first().map_or_else(Nodes::default, |value| place(at.element(), None, Some(value)));
                nodes.removed = Some(fields::leaf());
                nodes
            }
            _ => {
                let mut nodes = before.first().map_or_else(Nodes::default, |value| place(at.element(), Some(value), None));
                nodes.added = Some(fields::leaf());
                nodes
            }
        };
        out.put(key, nodes);
    }
}
