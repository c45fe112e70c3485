//! Validation of resource claims, their templates, device classes and resource slices.
//!
//! Upstream: pkg/apis/resource/validation

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::tree::Tree;

/// Upstream: DeviceRequestsMaxSize, DeviceConstraintsMaxSize, DeviceConfigMaxSize, DeviceSelectorsMaxSize
const MOST: usize = 32;
/// Upstream: FirstAvailableDeviceRequestMaxSize
const MOST_ALTERNATIVES: usize = 8;
/// Upstream: ResourceSliceMaxDevices
const MOST_DEVICES: usize = 128;
/// Bytes. Upstream: PoolNameMaxLength
const MOST_POOL_NAME: usize = 253;

/// The spec of a claim, also inside a template.
pub(super) fn claim_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("devices");
    let devices = spec.at("devices");
    let requests = devices.items("requests");
    bounded(requests, MOST, &path.child("requests"), errors);
    let mut names = Vec::new();
    for (index, request) in requests.iter().take(MOST).enumerate() {
        let path = path.child("requests").index(index);
        let name = request.text("name");
        request_name(name, &path.child("name"), errors);
        if names.contains(&name.to_owned()) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name.to_owned());
        let (exactly, alternatives) = (request.at("exactly"), request.items("firstAvailable"));
        match (exactly.is_null(), alternatives.is_empty()) {
            (true, true) => errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            (false, false) => {
                errors.invalid(
                    &path,
                    Value::Null,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (false, true) => device_request(exactly, &path.child("exactly"), errors),
            (true, false) => {
                bounded(alternatives, MOST_ALTERNATIVES, &path.child("firstAvailable"), errors);
                for (index, alternative) in alternatives.iter().take(MOST_ALTERNATIVES).enumerate() {
                    let path = path.child("firstAvailable").index(index);
                    request_name(alternative.text("name"), &path.child("name"), errors);
                    names.push(format!("{name}/{}", alternative.text("name")));
                    device_request(alternative, &path, errors);
                }
            }
        }
    }
    let of_requests = |held: &Value, path: &Path, errors: &mut Errors| {
        bounded(held.items("requests"), MOST, path, errors);
        for (index, name) in held.items("requests").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            if !names.iter().any(|known| known == name) {
                errors.invalid(
                    &path.index(index),
                    name,
                    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                );
            }
        }
    };
    bounded(devices.items("constraints"), MOST, &path.child("constraints"), errors);
    for (index, constraint) in devices.items("constraints").iter().enumerate() {
        let path = path.child("constraints").index(index);
        of_requests(constraint, &path.child("requests"), errors);
        if constraint.has("matchAttribute") {
            full_name(constraint.text("matchAttribute"), &path.child("matchAttribute"), errors);
        } else if !constraint.has("distinctAttribute") {
            errors.required(&path, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required");
        }
    }
    bounded(devices.items("config"), MOST, &path.child("config"), errors);
    for (index, config) in devices.items("config").iter().enumerate() {
        let path = path.child("config").index(index);
        of_requests(config, &path.child("requests"), errors);
        configuration(config, &path, errors);
    }
}

fn bounded(list: &[Value], most: usize, path: &Path, errors: &mut Errors) {
    if list.len() > most {
        errors.too_many(path, list.len(), most);
    }
}

fn request_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        check::label_name(name, path, errors);
    }
}

fn device_request(request: &Value, path: &Path, errors: &mut Errors) {
    let class = request.text("deviceClassName");
    if class.is_empty() {
        errors.required(&path.child("deviceClassName"), "");
    } else {
        check::subdomain(class, &path.child("deviceClassName"), errors);
    }
    selectors(request.items("selectors"), &path.child("selectors"), errors);
    let count = request.int("count").unwrap_or(0);
    match request.text("allocationMode") {
        "All" => {
            if count != 0 {
                errors.invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count <= 0 {
                errors.invalid(&path.child("count"), count, "must be greater than zero");
            }
        }
        mode => errors.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (index, toleration) in request.items("tolerations").iter().enumerate() {
        let path = path.child("tolerations").index(index);
        let (operator, effect) = (toleration.text("operator"), toleration.text("effect"));
        if !toleration.text("key").is_empty() {
            check::qualified(toleration.text("key"), &path.child("key"), errors);
        }
        match operator {
            "Exists" if !toleration.text("value").is_empty() => {
                errors.invalid(&path.child("value"), toleration.text("value"), "must be empty for operator `Exists`");
            }
            "Exists" | "Equal" => {}
            "" => errors.required(&path.child("operator"), ""),
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !matches!(effect, "" | "NoSchedule" | "NoExecute" | "None") {
            errors.not_supported(&path.child("effect"), effect, &["NoExecute", "NoSchedule", "None"]);
        }
    }
}

fn selectors(list: &[Value], path: &Path, errors: &mut Errors) {
    bounded(list, MOST, path, errors);
    for (index, selector) in list.iter().enumerate() {
        let path = path.index(index).child("cel");
        if !selector.has("cel") {
            errors.required(&path, "");
        } else if selector.at("cel").text("expression").is_empty() {
            errors.required(&path.child("expression"), "");
        } else {
            crate::cel::check(selector.at("cel").text("expression"), &path.child("expression"), errors);
        }
    }
}

/// `domain/name` of an attribute.
fn full_name(name: &str, path: &Path, errors: &mut Errors) {
    match name.split_once('/') {
        None => errors.invalid(path, name, "must include a domain"),
        Some((domain, id)) => {
            if domain.is_empty() {
                errors.required(path, "the domain must not be empty");
            } else {
                check::subdomain(domain, path, errors);
            }
            if id.is_empty() {
                errors.required(path, "the name must not be empty");
            }
        }
    }
}

fn configuration(config: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("opaque");
    if !config.has("opaque") {
        errors.required(&path, "");
        return;
    }
    driver(config.at("opaque").text("driver"), &path.child("driver"), errors);
    let parameters = config.at("opaque").at("parameters");
    if parameters.is_null() {
        errors.required(&path.child("parameters"), "");
    } else if !parameters.is_object() {
        errors.invalid(&path.child("parameters"), Value::Null, "must be a valid JSON object");
    }
}

fn driver(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    check::each(identifier::dns1123_subdomain(&name.to_lowercase()), name, path, errors);
}

/// What may not change in a claim or template.
pub(super) fn same_spec(new: &Value, old: &Value, errors: &mut Errors) {
    if !crate::tree::same(new.at("spec"), old.at("spec")) {
        errors.invalid(&Path::new("spec"), new.at("spec").clone(), "field is immutable");
    }
}

pub(super) fn device_class(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    selectors(spec.items("selectors"), &path.child("selectors"), errors);
    bounded(spec.items("config"), MOST, &path.child("config"), errors);
    for (index, config) in spec.items("config").iter().enumerate() {
        configuration(config, &path.child("config").index(index), errors);
    }
}

pub(super) fn slice(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    driver(spec.text("driver"), &path.child("driver"), errors);
    let pool = spec.at("pool");
    let at = path.child("pool");
    let name = pool.text("name");
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    } else if name.len() > MOST_POOL_NAME {
        errors.too_long(&at.child("name"), MOST_POOL_NAME);
    } else {
        for part in name.split('/') {
            check::subdomain(part, &at.child("name"), errors);
        }
    }
    let slices = pool.int("resourceSliceCount").unwrap_or(0);
    if slices <= 0 {
        errors.invalid(&at.child("resourceSliceCount"), slices, "must be greater than zero");
    }
    let generation = pool.int("generation").unwrap_or(0);
    if generation < 0 {
        errors.invalid(&at.child("generation"), generation, "must be greater than or equal to zero");
    }
    let places = [
        !spec.text("nodeName").is_empty(),
        spec.has("nodeSelector"),
        spec.truth("allNodes"),
        spec.truth("perDeviceNodeSelection"),
    ];
    match places.iter().filter(|place| **place).count() {
        0 => errors.required(&path, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"),
        1 => {}
        _ => errors.invalid(
            &path,
            Value::Null,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ),
    }
    if !spec.text("nodeName").is_empty() {
        check::subdomain(spec.text("nodeName"), &path.child("nodeName"), errors);
    }
    if spec.has("nodeSelector") {
        crate::pod_spec::affinity::node_selector(spec.at("nodeSelector"), &path.child("nodeSelector"), errors);
    }
    let devices = spec.items("devices");
    bounded(devices, MOST_DEVICES, &path.child("devices"), errors);
    let mut names = Vec::new();
    for (index, device) in devices.iter().take(MOST_DEVICES).enumerate() {
        let path = path.child("devices").index(index);
        let name = device.text("name");
        request_name(name, &path.child("name"), errors);
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name);
        for (name, attribute) in device.entries("attributes") {
            let path = path.child("attributes").key(name);
            let values = ["int", "bool", "string", "version"].iter().filter(|kind| attribute.has(kind)).count();
            if values == 0 {
                errors.required(&path, "exactly one value must be specified");
            } else if values > 1 {
                errors.invalid(&path, attribute.clone(), "exactly one value must be specified");
            }
            if attribute.text("string").len() > 64 {
                errors.too_long(&path.child("string"), 64);
            }
        }
    }
}

/// What may not change in a slice.
pub(super) fn slice_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    for field in ["nodeName", "driver"] {
        crate::metadata::immutable_text(after.text(field), before.text(field), &path.child(field), errors);
    }
    let name = |spec: &Value| spec.at("pool").text("name").to_owned();
    crate::metadata::immutable_text(&name(after), &name(before), &path.child("pool.name"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(check: impl Fn(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::new();
        check(&mut errors);
        errors.0.iter().map(|error| error.field.clone()).collect()
    }

    #[test]
    fn claims_ask_for_something_of_a_class() {
        let claim = |devices: Value| json!({"devices": devices});
        let good = claim(json!({
            "requests": [{"name": "gpu", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}}],
            "constraints": [{"requests": ["gpu"], "matchAttribute": "example.com/numa"}],
        }));
        assert_eq!(complaints(|errors| claim_spec(&good, &Path::new("spec"), errors)), Vec::<String>::new());
        for (devices, field) in [
            (
                json!({"requests": [{"name": "Gpu", "exactly": {"deviceClassName": "c", "allocationMode": "All"}}]}),
                "spec.devices.requests[0].name",
            ),
            (json!({"requests": [{"name": "gpu"}]}), "spec.devices.requests[0]"),
            (
                json!({"requests": [{"name": "gpu", "exactly": {"allocationMode": "All"}}]}),
                "spec.devices.requests[0].exactly.deviceClassName",
            ),
            (json!({"constraints": [{"requests": ["x"], "matchAttribute": "a/b"}]}), "spec.devices.constraints[0].requests[0]"),
        ] {
            assert_eq!(complaints(|errors| claim_spec(&claim(devices.clone()), &Path::new("spec"), errors)), [field]);
        }
    }

    #[test]
    fn slices_say_where_their_devices_are() {
        let spec = json!({"driver": "d.example.com", "pool": {"name": "n", "resourceSliceCount": 1}, "nodeName": "n", "devices": [{"name": "a"}]});
        let mut object = json!({"spec": spec});
        assert_eq!(complaints(|errors| slice(&object, errors)), Vec::<String>::new());
        object["spec"]["allNodes"] = true.into();
        object["spec"]["devices"] = json!([{"name": "a"}, {"name": "a"}]);
        assert_eq!(complaints(|errors| slice(&object, errors)), ["spec", "spec.devices[1].name"]);
    }
}
