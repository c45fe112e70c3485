//! Strategic merge patch: lists merge by the schema's merge keys, and directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/…`, `$setElementOrder/…`) say the rest.

use serde_json::{Map, Value};

use super::{PatchError, go_print};
use crate::schema::{Field, Schema, Table, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

pub(super) fn apply(schema: &Schema, current: Value, patch: &Value) -> Result<Value, PatchError> {
    let original = match current {
        Value::Object(map) => map,
        _ => Object::new(),
    };
    let patch = patch.as_object().cloned().unwrap_or_default();
    merge_map(schema.table(), schema.root(), original, patch).map(Value::Object)
}

fn other(message: impl Into<String>) -> PatchError {
    PatchError::Other(message.into())
}

fn bad(message: &str) -> PatchError {
    PatchError::Bad(message.to_owned())
}

fn order_format() -> PatchError {
    bad("invalid patch format of setElementOrder list")
}

/// What the schema says of a member: its type, and the field where it has one.
fn member<'a>(table: &'a Table, kind: Type, name: &str) -> (Type, Option<&'a Field>) {
    let by_struct = |id: u32| {
        let field = table.get(id).field(name);
        (field.map_or(Type::Any, |field| field.kind), field)
    };
    match kind {
        Type::Struct(id) => by_struct(id),
        Type::Map(id) => (table.element(id), None),
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
            table.json_schema_props().map_or((Type::Any, None), by_struct)
        }
        _ => (Type::Any, None),
    }
}

fn element(table: &Table, kind: Type) -> Type {
    if let Type::List(id) = kind { table.element(id) } else { Type::Any }
}

fn merge_map(table: &Table, kind: Type, mut original: Object, mut patch: Object) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_orders(table, kind, &mut original, &mut patch)?;
    for (name, mut value) in patch {
        let delete_list = name.starts_with(DELETE_FROM_LIST);
        let name = if delete_list {
            let format = || bad("invalid patch format of primitive list");
            name.strip_prefix(DELETE_FROM_LIST).and_then(|rest| rest.strip_prefix('/')).ok_or_else(format)?.to_owned()
        } else {
            name
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let same_type = original.get(&name).is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&value));
        if !same_type {
            if !delete_list {
                discard_nulls(&mut value);
                match without_directives(value) {
                    Some(value) => original.insert(name, value),
                    None => original.remove(&name),
                };
            }
            continue;
        }
        let (below, field) = member(table, kind, &name);
        let old = original.get_mut(&name).map_or(Value::Null, Value::take);
        let merged = match (old, value) {
            (Value::Object(_), Value::Object(new)) if field.is_some_and(|field| field.strategy("replace")) => {
                Some(Value::Object(new))
            }
            (Value::Object(old), Value::Object(new)) => Some(Value::Object(merge_map(table, below, old, new)?)),
            (Value::Array(old), Value::Array(new)) => {
                Some(Value::Array(merge_list_field(table, below, field, old, new, delete_list)?))
            }
            (_, value) => without_directives(value),
        };
        match merged {
            Some(merged) => original.insert(name, merged),
            None => original.remove(&name),
        };
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    other(format!("unknown patch type: {} in map: {}", go_print(directive), go_print(&Value::Object(patch.clone()))))
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let format = || bad("invalid patch format of retainKeys");
    let keys = keys.as_array().ok_or_else(format)?;
    let retained = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    let is_directive = |name: &str| name.starts_with(DELETE_FROM_LIST) || name.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(name, value)| !value.is_null() && !is_directive(name) && !retained(name)) {
        return Err(format());
    }
    original.retain(|name, _| retained(name));
    Ok(())
}

/// Merges each list that has a `$setElementOrder` and brings it into that order.
fn set_element_orders(table: &Table, kind: Type, original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(order_format()) };
        let name = directive.strip_prefix(ELEMENT_ORDER).and_then(|rest| rest.strip_prefix('/')).ok_or_else(order_format)?;
        let (kind, field) = member(table, kind, name);
        let key = field.map_or("", |field| field.merge_key.as_ref());
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(value) => Err(other(format!("expected a []interface {{}}, but received a {}", go_type(&value)))),
        };
        let before = list(original.get(name).cloned())?;
        let changes = list(patch.remove(name))?;
        check_order(changes.as_deref().unwrap_or_default(), &order, key)?;
        let server_order = before.clone().unwrap_or_default();
        let patch_empty = changes.as_ref().is_none_or(Vec::is_empty);
        let merged = match (before, changes) {
            (None, None) => continue,
            (Some(before), None) => before,
            (None, Some(changes)) => changes.into_iter().filter_map(without_directives).collect(),
            (Some(before), Some(changes)) => merge_list_field(table, kind, field, before, changes, false)?,
        };
        if server_order.is_empty() && patch_empty {
            return Err(other("no elements in any of the given slices"));
        }
        original.insert(name.to_owned(), Value::Array(ordered(merged, &order, &server_order, key)?));
    }
    Ok(())
}

/// The elements of the patch must stand in the order that the directive names.
fn check_order(changes: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if changes.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for change in changes.iter().filter(|change| change.get(DIRECTIVE).is_none()) {
        let identity = identity(change, key)?;
        let mut found = false;
        for place in places.by_ref() {
            if self::identity(place, key)? == identity {
                found = true;
                break;
            }
        }
        if !found {
            let (changes, order) = (go_print(&Value::from(changes.to_vec())), go_print(&Value::from(order.to_vec())));
            return Err(other(format!("The order in patch list:\n{changes}\n doesn't match {ELEMENT_ORDER} list:\n{order}\n")));
        }
    }
    Ok(())
}

/// What identifies an element: itself, or the value under the merge key.
fn identity<'a>(value: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    if key.is_empty() {
        return Ok(value);
    }
    let Value::Object(map) = value else {
        return Err(other(format!("expected a map[string]interface {{}}, but received a {}", go_type(value))));
    };
    map.get(key).ok_or_else(|| other(format!("map: {} does not contain declared merge key: {key}", go_print(value))))
}

fn position(order: &[Value], value: &Value, key: &str) -> Option<usize> {
    let wanted = if key.is_empty() { value } else { value.get(key)? };
    order.iter().position(|place| if key.is_empty() { place == wanted } else { place.get(key) == Some(wanted) })
}

/// Elements named in `order` in that order, the others in the server's, woven together by the server's order.
fn ordered(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Result<Vec<Value>, PatchError> {
    if !key.is_empty() {
        for value in merged.iter().chain(order).chain(server_order) {
            identity(value, key)?;
        }
    }
    let (mut named, mut others): (Vec<_>, Vec<_>) = merged.into_iter().partition(|value| position(order, value, key).is_some());
    named.sort_by_key(|value| position(order, value, key));
    others.sort_by_key(|value| position(server_order, value, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (others.peek(), named.peek()) {
        let places = (position(server_order, left, key), position(server_order, right, key));
        let left_first = matches!(places, (Some(left), Some(right)) if left < right);
        out.extend(if left_first { others.next() } else { named.next() });
    }
    out.extend(others);
    out.extend(named);
    Ok(out)
}

fn merge_list_field(
    table: &Table,
    kind: Type,
    field: Option<&Field>,
    original: Vec<Value>,
    patch: Vec<Value>,
    delete_list: bool,
) -> Result<Vec<Value>, PatchError> {
    if !delete_list && !field.is_some_and(|field| field.strategy("merge")) {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let key = field.map_or("", |field| field.merge_key.as_ref());
    let first = original.iter().chain(&patch).next().map(std::mem::discriminant);
    if original.iter().chain(&patch).next().is_some_and(Value::is_array) {
        return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned()));
    }
    if original.iter().chain(&patch).any(|value| Some(std::mem::discriminant(value)) != first) {
        let lists = Value::from(vec![Value::from(original), Value::from(patch)]);
        return Err(other(format!("list element types are not identical: {}", go_print(&lists))));
    }
    let objects = original.iter().chain(&patch).any(Value::is_object);
    if !objects {
        if delete_list {
            return Ok(original.into_iter().filter(|value| !patch.contains(value)).collect());
        }
        let server_order = original.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for value in original.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&value) {
                merged.push(value);
            }
        }
        return ordered(merged, &patch, &server_order, "");
    }
    if key.is_empty() {
        let name = if let Type::List(id) = kind
            && let Type::Struct(id) = table.element(id)
        {
            table.get(id).go_short()
        } else {
            ""
        };
        return Err(other(format!("cannot merge lists without merge key for {name}")));
    }
    let (mut merged, patch) = special_elements(original, patch, key)?;
    let server_order = merged.clone();
    let below = element(table, kind);
    for change in &patch {
        let identity = identity(change, key)?;
        let found = merged.iter().position(|value| value.get(key) == Some(identity));
        match found {
            Some(at) => {
                let old = match merged[at].take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                let new = change.as_object().cloned().unwrap_or_default();
                merged[at] = Value::Object(merge_map(table, below, old, new)?);
            }
            None => merged.push(change.clone()),
        }
    }
    ordered(merged, &patch, &server_order, key)
}

/// Carries out `$patch` elements: what is left of the original, and the elements to merge.
fn special_elements(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (mut plain, mut replace) = (Vec::with_capacity(patch.len()), false);
    for change in patch {
        match change.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(change),
            Some("delete") => {
                let identity = identity(&change, key)?;
                original.retain(|value| value.get(key) != Some(identity));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(other("merging lists cannot yet be specified in the patch")),
            Some(_) => {
                let directive = change[DIRECTIVE].clone();
                return Err(unknown_directive(&directive, change.as_object().unwrap_or(&Object::new())));
            }
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// The value without members and elements that hold a `$patch`; `None` where it holds one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            Some(Value::Object(map.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?))).collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
