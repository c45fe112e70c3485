//! Small checks that validation of many kinds is made of.
//!
//! Upstream: pkg/apis/core/validation, apimachinery/pkg/api/validation

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::identifier;
use crate::tree::{Tree, same};

/// Adds one error per complaint.
pub fn each(messages: Vec<String>, value: impl Into<Value>, path: &Path, errors: &mut Errors) {
    let value = value.into();
    for message in messages {
        errors.invalid(path, value.clone(), message);
    }
}

/// A number that must not be negative; absent is fine.
pub fn non_negative(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(number) = value.as_i64().filter(|number| *number < 0) {
        errors.invalid(path, number, "must be greater than or equal to 0");
    }
}

/// The same for a field of an object.
pub fn non_negative_field(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    non_negative(object.at(field), &path.child(field), errors);
}

/// `must be between a and b, inclusive`.
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// RFC 1123 label.
pub fn label_name(text: &str, path: &Path, errors: &mut Errors) {
    each(identifier::dns1123_label(text), text, path, errors);
}

/// RFC 1123 subdomain.
pub fn subdomain(text: &str, path: &Path, errors: &mut Errors) {
    each(identifier::dns1123_subdomain(text), text, path, errors);
}

/// `name` or `domain/name`.
pub fn qualified(text: &str, path: &Path, errors: &mut Errors) {
    each(identifier::qualified_name(text), text, path, errors);
}

/// A user or group id.
pub fn id(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(number) = value.as_i64().filter(|number| !(0..=i64::from(i32::MAX)).contains(number)) {
        errors.invalid(path, number, range_error(0, i64::from(i32::MAX)));
    }
}

/// A port: a number or a name.
pub fn port_or_name(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(name) => each(identifier::port_name(name), name.as_str(), path, errors),
        other => {
            let number = other.as_i64().unwrap_or(0);
            each(identifier::port_number(number), number, path, errors);
        }
    }
}

/// A whole number that is not negative, or a percentage.
pub fn int_or_percent(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::String(text) => each(identifier::percent(text), text.as_str(), path, errors),
        other => non_negative(other, path, errors),
    }
}

/// A percentage of a hundred at most.
pub fn at_most_100_percent(value: &Value, path: &Path, errors: &mut Errors) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// The number of a percentage.
pub fn percent_of(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// The number of an int-or-percentage, whichever it is.
pub fn amount_of(value: &Value) -> i64 {
    percent_of(value).or(value.as_i64()).unwrap_or(0)
}

/// A label selector object; absent is fine.
pub fn label_selector(selector: &Value, path: &Path, errors: &mut Errors) {
    if selector.is_null() {
        return;
    }
    crate::metadata::validate_labels(selector.at("matchLabels"), &path.child("matchLabels"), errors);
    for (index, expression) in selector.items("matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let operator = expression.text("operator");
        let values = expression.items("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        qualified(expression.text("key"), &path.child("key"), errors);
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            each(identifier::label_value(value), value, &path.child("values").index(index), errors);
        }
    }
}

/// An error about a whole label selector.
pub fn invalid_selector(selector: &Value, path: &Path, why: &str, errors: &mut Errors) {
    errors.add_shown(ErrorType::Invalid, path, crate::internal::compact("*LabelSelector", selector), why);
}

/// A label selector that stays as it was made.
pub fn immutable_selector(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if !same(new, old) {
        invalid_selector(new, path, "field is immutable", errors);
    }
}

/// Whether a label selector has no requirement.
pub fn is_empty_selector(selector: &Value) -> bool {
    selector.len_of("matchLabels") == 0 && selector.len_of("matchExpressions") == 0
}

/// Whether the labels meet the selector; `None` where it is no valid selector. A null selector meets nothing.
pub fn selects(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    let selector = api::selector::LabelSelector::from_object(selector).ok()?;
    Some(selector.matches(labels))
}

/// A path that does not leave its directory.
pub fn no_backsteps(path_text: &str, path: &Path, errors: &mut Errors) {
    if path_text.split('/').any(|part| part == "..") {
        errors.invalid(path, path_text, "must not contain '..'");
    }
}

/// A relative path that does not leave its directory.
pub fn descending(path_text: &str, path: &Path, errors: &mut Errors) {
    if path_text.starts_with('/') {
        errors.invalid(path, path_text, "must be a relative path");
    }
    no_backsteps(path_text, path, errors);
}

/// The same, not starting with `..` either.
pub fn descending_not_reserved(path_text: &str, path: &Path, errors: &mut Errors) {
    descending(path_text, path, errors);
    if path_text.starts_with("..") && !path_text.starts_with("../") {
        errors.invalid(path, path_text, "must not start with '..'");
    }
}

/// File permission bits.
pub fn file_mode(value: &Value, path: &Path, errors: &mut Errors) {
    if let Some(mode) = value.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
