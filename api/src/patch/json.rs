//! RFC 6902.

use serde_json::Value;

use super::PatchError;

fn fails(message: impl Into<String>) -> PatchError {
    PatchError::Unprocessable(message.into())
}

/// The patched document. `current` is consumed, so a failure leaves nothing half done.
pub(super) fn apply(mut current: Value, operations: &Value) -> Result<Value, PatchError> {
    for operation in operations.as_array().into_iter().flatten() {
        let text = |name: &str| operation.get(name).and_then(Value::as_str);
        let (Some(op), Some(path)) = (text("op"), text("path")) else {
            return Err(fails("Unexpected kind: unknown"));
        };
        match op {
            "add" => {
                let value = operation.get("value").cloned().unwrap_or(Value::Null);
                add(&mut current, path, value)?;
            }
            "remove" => {
                remove(&mut current, path)?;
            }
            "replace" => {
                let value = operation.get("value").cloned().unwrap_or(Value::Null);
                *find_mut(&mut current, path)
                    .ok_or_else(|| fails(format!("replace operation does not apply: doc is missing path: {path}")))? = value;
            }
            "test" => {
                let value = operation.get("value").unwrap_or(&Value::Null);
                let found = find(&current, path);
                // A missing value equals null, as upstream's library has it.
                if !same(found.unwrap_or(&Value::Null), value) {
                    return Err(fails(format!("testing value {path} failed: test failed")));
                }
            }
            "move" => {
                let from = text("from").ok_or_else(|| fails("move operation failed to decode from"))?;
                if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                    return Err(fails("unable to move a value into itself"));
                }
                let value = remove(&mut current, from)?;
                add(&mut current, path, value)?;
            }
            "copy" => {
                let from = text("from").ok_or_else(|| fails("copy operation failed to decode from"))?;
                let value = find(&current, from)
                    .cloned()
                    .ok_or_else(|| fails(format!("copy operation does not apply: doc is missing from path: {from}")))?;
                add(&mut current, path, value)?;
            }
            other => return Err(fails(format!("Unexpected kind: {other}"))),
        }
    }
    Ok(current)
}

/// Equal, with numbers compared by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The parent's path and the last token; `None` for the whole document and for paths without a leading slash.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    (parent.is_empty() || parent.starts_with('/')).then(|| (parent, unescape(last)))
}

/// An index into a list of `length`; negative ones count from the end.
fn index(token: &str, length: usize) -> Option<usize> {
    let number: i64 = token.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    usize::try_from(if number < 0 { number + length } else { number }).ok()
}

fn find<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(document);
    }
    path.strip_prefix('/')?.split('/').try_fold(document, |value, token| match value {
        Value::Object(map) => map.get(&unescape(token)),
        Value::Array(list) => list.get(index(token, list.len())?),
        _ => None,
    })
}

fn find_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(document);
    }
    path.strip_prefix('/')?.split('/').try_fold(document, |value, token| match value {
        Value::Object(map) => map.get_mut(&unescape(token)),
        Value::Array(list) => {
            let at = index(token, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    })
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let missing = || fails(format!("add operation does not apply: doc is missing path: {path}"));
    let (parent, last) = split(path).ok_or_else(missing)?;
    match find_mut(document, parent).ok_or_else(missing)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            // Negative indexes count places after an element that would be added.
            let at = index(&last, list.len() + 1).filter(|at| *at <= list.len());
            list.insert(at.ok_or_else(|| fails(format!("Unable to access invalid index: {last}")))?, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let missing = || fails(format!("remove operation does not apply: doc is missing path: {path}"));
    let (parent, last) = split(path).ok_or_else(missing)?;
    match find_mut(document, parent).ok_or_else(missing)? {
        Value::Object(map) => map.remove(&last).ok_or_else(missing),
        Value::Array(list) => {
            let at = index(&last, list.len()).filter(|at| *at < list.len());
            Ok(list.remove(at.ok_or_else(|| fails(format!("Unable to access invalid index: {last}")))?))
        }
        _ => Err(missing()),
    }
}
