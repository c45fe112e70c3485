//! Sets of fields in the form in which they are stored (`FieldsV1`): `{"f:spec":{"f:replicas":{}}}`.
//!
//! A node is a member of the set where it is empty or holds `"."`; its other keys are what is below it.

use serde_json::{Map, Value};

/// A set of fields. Keys: `f:<name>`, `k:<keys as JSON>`, `v:<value as JSON>`, `i:<index>`.
pub(super) type Set = Map<String, Value>;

/// Nesting of sets that clients send; more is cut off.
const MAX_DEPTH: usize = 100;

/// The key under which a node itself is a member.
const SELF: &str = ".";

fn is_member(node: &Set) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn has_children(node: &Set) -> bool {
    node.len() > usize::from(node.contains_key(SELF))
}

/// A leaf: a member with nothing below.
pub(super) fn leaf() -> Set {
    Set::new()
}

/// The node `below` with itself a member.
pub(super) fn member(mut below: Set) -> Set {
    if !below.is_empty() {
        below.insert(SELF.to_owned(), Value::Object(Set::new()));
    }
    below
}

/// The member and the children of a node, children without `.`.
fn children(node: &Set) -> impl Iterator<Item = (&String, &Set)> {
    node.iter().filter(|(key, _)| *key != SELF).filter_map(|(key, node)| Some((key, node.as_object()?)))
}

/// Rebuilds a node; `None` where nothing is left.
fn node(is_member: bool, below: Set) -> Option<Set> {
    match (is_member, below.is_empty()) {
        (false, true) => None,
        (false, false) => Some(below),
        (true, _) => Some(member(below)),
    }
}

/// Adds all of `other`.
pub(super) fn union(set: &mut Set, other: &Set) {
    for (key, more) in children(other) {
        match set.get_mut(key).and_then(Value::as_object_mut) {
            Some(node) => union_node(node, more),
            None => {
                set.insert(key.clone(), Value::Object(more.clone()));
            }
        }
    }
}

fn union_node(node: &mut Set, more: &Set) {
    let both = is_member(node) || is_member(more);
    node.remove(SELF);
    union(node, more);
    if both && !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Set::new()));
    }
}

/// Takes away the members of `other`; what is below them stays.
pub(super) fn difference(set: &mut Set, other: &Set) {
    change(set, other, |mine, theirs| {
        let keep = is_member(mine) && !is_member(theirs);
        let mut below = std::mem::take(mine);
        below.remove(SELF);
        difference(&mut below, theirs);
        node(keep, below)
    });
}

/// Takes away the members of `other` with all that is below them.
pub(super) fn recursive_difference(set: &mut Set, other: &Set) {
    change(set, other, |mine, theirs| {
        if is_member(theirs) {
            return None;
        }
        let keep = is_member(mine);
        let mut below = std::mem::take(mine);
        below.remove(SELF);
        recursive_difference(&mut below, theirs);
        node(keep, below)
    });
}

/// Replaces each node that stands in both sets by what `f` makes of it.
fn change(set: &mut Set, other: &Set, f: impl Fn(&mut Set, &Set) -> Option<Set>) {
    for (key, theirs) in children(other) {
        let Some(mine) = set.get_mut(key).and_then(Value::as_object_mut) else { continue };
        match f(mine, theirs) {
            Some(left) => *mine = left,
            None => {
                set.remove(key);
            }
        }
    }
}

/// The members of both.
pub(super) fn intersection(a: &Set, b: &Set) -> Set {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let mut out = Set::new();
    for (key, mine) in children(few) {
        let Some(theirs) = many.get(key).and_then(Value::as_object) else { continue };
        if let Some(both) = node(is_member(mine) && is_member(theirs), intersection(mine, theirs)) {
            out.insert(key.clone(), Value::Object(both));
        }
    }
    out
}

/// Adds members: each child for whose key `f` says so, and so on below by `descend`.
pub(super) fn mark(set: &mut Set, key: &str) {
    if let Some(node) = set.get_mut(key).and_then(Value::as_object_mut)
        && !is_member(node)
    {
        node.insert(SELF.to_owned(), Value::Object(Set::new()));
    }
}

/// Whether the element `key` itself is a member.
pub(super) fn has(set: &Set, key: &str) -> bool {
    set.get(key).and_then(Value::as_object).is_some_and(is_member)
}

/// What is below `key`, where there is anything.
pub(super) fn below<'a>(set: &'a Set, key: &str) -> Option<&'a Set> {
    set.get(key).and_then(Value::as_object).filter(|node| has_children(node))
}

/// The keys of all children.
pub(super) fn keys(set: &Set) -> Vec<String> {
    children(set).map(|(key, _)| key.clone()).collect()
}

/// Whether the path (keys from the top) is a member.
pub(super) fn contains(set: &Set, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let mut at = set;
    for key in parents {
        let Some(next) = at.get(key).and_then(Value::as_object) else { return false };
        at = next;
    }
    has(at, last)
}

/// All member paths: at each level the members first, then what is below, as upstream's iteration goes.
pub(super) fn paths(set: &Set) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    walk(set, &mut Vec::new(), &mut out);
    out
}

fn walk(set: &Set, prefix: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    for (key, _) in children(set).filter(|(_, node)| is_member(node)) {
        let mut path = prefix.clone();
        path.push(key.clone());
        out.push(path);
    }
    for (key, node) in children(set) {
        prefix.push(key.clone());
        walk(node, prefix, out);
        prefix.pop();
    }
}

/// A path as messages print it: `.spec.containers[name="c"].image`, `.metadata.finalizers[="x"]`.
pub(super) fn print(path: &[String]) -> String {
    let mut out = String::new();
    for key in path {
        match key.split_at_checked(2) {
            Some(("f:", name)) => {
                out.push('.');
                out.push_str(name);
            }
            Some(("k:", keys)) => {
                let keys: Set = serde_json::from_str(keys).unwrap_or_default();
                out.push_str(&print_keys(keys.iter().map(|(name, value)| (name.as_str(), value))));
            }
            Some(("v:", value)) => out.push_str(&format!("[={value}]")),
            Some(("i:", index)) => out.push_str(&format!("[{index}]")),
            _ => out.push_str(key),
        }
    }
    out
}

/// `[containerPort=80,protocol="TCP"]`.
pub(super) fn print_keys<'a>(keys: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let keys: Vec<_> = keys.map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", keys.join(","))
}

/// Checks and canonicalises a set from outside; `None` where it is malformed.
pub(super) fn parse(value: &Value) -> Option<Set> {
    parse_at(value, 0)
}

fn parse_at(value: &Value, depth: usize) -> Option<Set> {
    let map = value.as_object()?;
    if depth > MAX_DEPTH {
        return None;
    }
    let mut out = Set::new();
    for (key, below) in map {
        if key == SELF {
            out.insert(key.clone(), Value::Object(Set::new()));
            continue;
        }
        let key = match key.split_at_checked(2)? {
            ("f:", _) => key.clone(),
            ("k:", keys) => {
                let keys: Set = serde_json::from_str(keys).ok()?;
                format!("k:{}", Value::Object(keys))
            }
            ("v:", text) => {
                let value: Value = serde_json::from_str(text).ok()?;
                format!("v:{value}")
            }
            ("i:", index) => format!("i:{}", index.parse::<i64>().ok()?),
            _ => return None,
        };
        out.insert(key, Value::Object(parse_at(below, depth + 1)?));
    }
    if out.len() == 1 && out.contains_key(SELF) {
        out.clear();
    }
    Some(out)
}
