//! Merging an applied object into the live one, and removing fields.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::fields::{self, Set};
use super::typed::{At, Shape};

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// `live` with what `applied` says; `None` where nothing is left.
pub(super) fn merge(at: At<'_>, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let shape = at.shape();
    if matches!(shape, Shape::Leaf) || (is_empty(live) && is_empty(applied)) {
        return applied.or(live).cloned();
    }
    match shape {
        Shape::Map => {
            let (old, new) = (live.and_then(Value::as_object), applied.and_then(Value::as_object));
            let mut out = Map::new();
            for (name, value) in old.into_iter().flatten() {
                let applied = new.and_then(|new| new.get(name));
                let merged = match at.member(name) {
                    Some(below) if applied.is_some() => merge(below, Some(value), applied),
                    _ => Some(value.clone()),
                };
                if let Some(merged) = merged {
                    out.insert(name.clone(), merged);
                }
            }
            for (name, value) in new.into_iter().flatten().filter(|(name, _)| old.is_none_or(|old| !old.contains_key(*name))) {
                let merged = at.member(name).map_or_else(|| Some(value.clone()), |below| merge(below, None, Some(value)));
                if let Some(merged) = merged {
                    out.insert(name.clone(), merged);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        _ => {
            let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
            let out = merge_lists(at, &list(live), &list(applied));
            (!out.is_empty()).then_some(Value::Array(out))
        }
    }
}

/// Elements of both: those of `applied` in their order, the others of `live` where they stood among them.
fn merge_lists(at: At<'_>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let keyed = |list: &[Value]| -> Vec<(String, usize)> {
        list.iter().enumerate().filter_map(|(index, value)| Some((at.element_key(value).ok()?, index))).collect()
    };
    let (left, right) = (keyed(live), keyed(applied));
    let mut in_live: HashMap<&str, Option<&Value>> = HashMap::new();
    for (key, index) in &left {
        // A key that stands twice has no one value.
        in_live.entry(key).and_modify(|value| *value = None).or_insert(Some(&live[*index]));
    }
    let in_applied: HashMap<&str, &Value> = right.iter().map(|(key, index)| (key.as_str(), &applied[*index])).collect();
    let mut shared = right.iter().map(|(key, _)| key.as_str()).filter(|key| in_live.contains_key(key));
    let mut next_shared = shared.next();
    let (mut out, mut done) = (Vec::with_capacity(live.len().max(applied.len())), HashSet::new());
    let (mut l, mut r) = (0, 0);
    let mut push = |live: Option<&Value>, applied: Option<&Value>| out.extend(merge(at.element(), live, applied));
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let key = left[l].0.as_str();
            if key == right[r].0 {
                done.insert(key);
                push(in_live.get(key).copied().flatten(), in_applied.get(key).copied());
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_applied.contains_key(key) && next_shared.is_some_and(|next| next != key) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            let (key, index) = (left[l].0.as_str(), left[l].1);
            if !in_applied.contains_key(key) {
                push(Some(&live[index]), None);
                l += 1;
                continue;
            } else if done.contains(key) {
                l += 1;
            }
        }
        if r < right.len() {
            let key = right[r].0.as_str();
            done.insert(key);
            push(in_live.get(key).copied().flatten(), in_applied.get(key).copied());
            r += 1;
            if next_shared == Some(key) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The value without the members of `gone`; `None` where nothing is left.
pub(super) fn remove(at: At<'_>, value: &Value, gone: &Set) -> Option<Value> {
    match (at.shape(), value) {
        (Shape::Map, Value::Object(map)) => {
            let mut out = Map::new();
            for (name, value) in map {
                let key = format!("f:{name}");
                if fields::has(gone, &key) {
                    continue;
                }
                let kept = match (fields::below(gone, &key), at.member(name)) {
                    // What loses all it had stays as null, which decoding drops.
                    (Some(gone), Some(below)) => remove(below, value, gone).unwrap_or(Value::Null),
                    _ => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(list)) => {
            let mut out = Vec::with_capacity(list.len());
            for value in list {
                let Ok(key) = at.element_key(value) else {
                    out.push(value.clone());
                    continue;
                };
                if fields::has(gone, &key) {
                    continue;
                }
                out.push(match fields::below(gone, &key) {
                    Some(gone) => remove(at.element(), value, gone).unwrap_or(Value::Null),
                    None => value.clone(),
                });
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        // A scalar has nothing below it; atomic and empty values vanish when somebody removes within them.
        (_, Value::Object(_) | Value::Array(_)) => None,
        (_, value) => Some(value.clone()),
    }
}
