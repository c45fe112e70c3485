//! Functions.

use std::sync::Arc;

use api::quantity::{Format, Quantity};
use regex::Regex;

use crate::cel::value::{Semver, Value};

/// Calls a function or method.
pub(crate) fn call(receiver: Option<Value>, name: &str, args: &[Value]) -> Result<Value, String> {
    let overload = || {
        let kinds: Vec<_> = receiver.iter().chain(args).map(Value::kind).collect();
        format!("no such overload: {name}({})", kinds.join(", "))
    };
    match (&receiver, args) {
        (None, [Value::Str(text)]) if name == "quantity" => {
            Quantity::parse(text).map(|quantity| Value::Quantity(Arc::new(quantity))).map_err(|error| error.to_string())
        }
        (None, [Value::Str(text)]) if name == "isQuantity" => Ok(Value::Bool(Quantity::parse(text).is_ok())),
        (None, [Value::Str(text), rest @ ..]) if name == "semver" || name == "isSemver" => {
            let parsed = Semver::parse(text, rest.first() == Some(&Value::Bool(true)));
            match (name, parsed) {
                ("isSemver", parsed) => Ok(Value::Bool(parsed.is_some())),
                (_, Some(parsed)) => Ok(Value::Semver(Arc::new(parsed))),
                (_, None) => Err(format!("invalid semantic version: {text}")),
            }
        }
        (None, [value]) => convert(name, value).unwrap_or_else(|| Err(overload())),
        (Some(Value::Str(text)), args) => on_text(text, name, args).unwrap_or_else(|| Err(overload())),
        (Some(Value::Quantity(own)), args) => on_quantity(own, name, args).ok_or_else(overload),
        (Some(Value::Semver(own)), []) => {
            let [major, minor, patch] = own.numbers.map(|number| Value::Int(number.cast_signed()));
            match name {
                "major" => Ok(major),
                "minor" => Ok(minor),
                "patch" => Ok(patch),
                _ => Err(overload()),
            }
        }
        (Some(own @ Value::Semver(_)), [other @ Value::Semver(_)]) => compare(own, name, other).ok_or_else(overload),
        (Some(Value::Optional(own)), args) => match (name, own, args) {
            ("hasValue", own, []) => Ok(Value::Bool(own.is_some())),
            ("value", Some(own), []) => Ok((**own).clone()),
            ("value", None, []) => Err("optional.none() dereference".to_owned()),
            ("orValue", Some(own), [_]) => Ok((**own).clone()),
            ("orValue", None, [other]) => Ok(other.clone()),
            ("or", Some(_), [_]) => Ok(Value::Optional(own.clone())),
            ("or", None, [other]) => Ok(other.clone()),
            _ => Err(overload()),
        },
        (Some(own), []) if name == "size" => convert("size", own).unwrap_or_else(|| Err(overload())),
        _ => Err(overload()),
    }
}

fn compare(own: &Value, name: &str, other: &Value) -> Option<Value> {
    let order = own.order(other)?;
    Some(match name {
        "compareTo" => Value::Int(order as i64),
        "isGreaterThan" => Value::Bool(order.is_gt()),
        "isLessThan" => Value::Bool(order.is_lt()),
        _ => return None,
    })
}

fn convert(name: &str, value: &Value) -> Option<Result<Value, String>> {
    let range = || "range error converting a number".to_owned();
    Some(Ok(match (name, value) {
        ("size", Value::Str(text)) => Value::Int(text.chars().count() as i64),
        ("size", Value::List(list)) => Value::Int(list.len() as i64),
        ("size", Value::Map(map) | Value::Domains(map)) => Value::Int(map.len() as i64),
        ("int", Value::Int(_)) | ("uint", Value::Uint(_)) | ("double", Value::Double(_)) | ("string", Value::Str(_)) => {
            value.clone()
        }
        ("dyn", value) => value.clone(),
        ("bool", Value::Bool(_)) => value.clone(),
        ("int", Value::Uint(number)) => return Some(i64::try_from(*number).map(Value::Int).map_err(|_| range())),
        ("int", Value::Double(number)) if number.abs() < 9.2e18 => Value::Int(*number as i64),
        ("int", Value::Str(text)) => return Some(text.parse().map(Value::Int).map_err(|_| range())),
        ("uint", Value::Int(number)) => return Some(u64::try_from(*number).map(Value::Uint).map_err(|_| range())),
        ("double", Value::Int(number)) => Value::Double(*number as f64),
        ("double", Value::Uint(number)) => Value::Double(*number as f64),
        ("double", Value::Str(text)) => return Some(text.parse().map(Value::Double).map_err(|_| range())),
        ("string", Value::Int(number)) => Value::from(number.to_string().as_str()),
        ("string", Value::Uint(number)) => Value::from(number.to_string().as_str()),
        ("string", Value::Double(number)) => Value::from(number.to_string().as_str()),
        ("string", Value::Bool(truth)) => Value::from(if *truth { "true" } else { "false" }),
        ("type", value) => Value::from(value.kind()),
        _ => return None,
    }))
}

fn on_text(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, String>> {
    Some(Ok(match (name, args) {
        ("startsWith", [Value::Str(other)]) => Value::Bool(text.starts_with(&**other)),
        ("endsWith", [Value::Str(other)]) => Value::Bool(text.ends_with(&**other)),
        ("contains", [Value::Str(other)]) => Value::Bool(text.contains(&**other)),
        ("matches", [Value::Str(pattern)]) => {
            return Some(Regex::new(pattern).map(|regex| Value::Bool(regex.is_match(text))).map_err(|error| error.to_string()));
        }
        ("size", []) => Value::Int(text.chars().count() as i64),
        ("lowerAscii", []) => Value::from(text.to_ascii_lowercase().as_str()),
        ("upperAscii", []) => Value::from(text.to_ascii_uppercase().as_str()),
        ("trim", []) => Value::from(text.trim()),
        ("split", [Value::Str(separator)]) => Value::List(Arc::new(text.split(&**separator).map(Value::from).collect())),
        ("replace", [Value::Str(from), Value::Str(to)]) => Value::from(text.replace(&**from, to).as_str()),
        ("indexOf", [Value::Str(other)]) => Value::Int(text.find(&**other).map_or(-1, |at| text[..at].chars().count() as i64)),
        ("substring", [Value::Int(from), rest @ ..]) => {
            let count = text.chars().count() as i64;
            let to = match rest {
                [Value::Int(to)] => *to,
                _ => count,
            };
            if *from < 0 || *from > to || to > count {
                return Some(Err(format!("index out of range: {from}")));
            }
            let part: String = text.chars().skip(*from as usize).take((to - from) as usize).collect();
            Value::from(part.as_str())
        }
        _ => return None,
    }))
}

fn on_quantity(own: &Arc<Quantity>, name: &str, args: &[Value]) -> Option<Value> {
    let quantity = |quantity: Quantity| Value::Quantity(Arc::new(quantity));
    Some(match (name, args) {
        ("sign", []) => Value::Int(i64::from(own.sign())),
        ("isInteger", []) => Value::Bool(own.milli_value() % 1000 == 0),
        ("asInteger", []) => Value::Int(own.value()),
        ("asApproximateFloat", []) => Value::Double(own.as_f64()),
        ("add", [Value::Quantity(other)]) => quantity(own.add(other)),
        ("sub", [Value::Quantity(other)]) => quantity(own.sub(other)),
        ("add", [Value::Int(other)]) => quantity(own.add(&Quantity::from_int(*other, Format::DecimalSi))),
        ("sub", [Value::Int(other)]) => quantity(own.sub(&Quantity::from_int(*other, Format::DecimalSi))),
        (name, [other @ Value::Quantity(_)]) => return compare(&Value::Quantity(own.clone()), name, other),
        _ => return None,
    })
}
