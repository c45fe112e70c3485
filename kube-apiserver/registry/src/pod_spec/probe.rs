//! Probes and lifecycle handlers.
//!
//! Upstream: validateProbe, validateHandler, validateLifecycle

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::tree::Tree;

/// The three probes and the lifecycle of a container that may have them.
pub fn all(container: &Value, grace: i64, path: &Path, errors: &mut Errors) {
    if container.has("lifecycle") {
        let path = path.child("lifecycle");
        for key in ["postStart", "preStop"] {
            if container.at("lifecycle").has(key) {
                handler(container.at("lifecycle").at(key), grace, &path.child(key), errors);
            }
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container.has(key) {
            continue;
        }
        let (value, path) = (container.at(key), path.child(key));
        probe(value, grace, &path, errors);
        if key == "readinessProbe" {
            if value.has("terminationGracePeriodSeconds") {
                let seconds = value.at("terminationGracePeriodSeconds").clone();
                errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
            }
        } else if value.int("successThreshold").unwrap_or(0) != 1 {
            errors.invalid(&path.child("successThreshold"), value.int("successThreshold").unwrap_or(0), "must be 1");
        }
    }
}

fn probe(probe: &Value, grace: i64, path: &Path, errors: &mut Errors) {
    handler(probe, grace, path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check::non_negative_field(probe, field, path, errors);
    }
    if let Some(seconds) = probe.int("terminationGracePeriodSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn handler(handler: &Value, grace: i64, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    let mut one = |key: &str, errors: &mut Errors| -> bool {
        if !handler.has(key) {
            return false;
        }
        if count > 0 {
            errors.forbidden(&path.child(key), "may not specify more than 1 handler type");
            return false;
        }
        count += 1;
        true
    };
    if one("exec", errors) && handler.at("exec").items("command").is_empty() {
        errors.required(&path.child("exec.command"), "");
    }
    if one("httpGet", errors) {
        http_get(handler.at("httpGet"), &path.child("httpGet"), errors);
    }
    if one("tcpSocket", errors) {
        check::port_or_name(handler.at("tcpSocket").at("port"), &path.child("tcpSocket.port"), errors);
    }
    if one("grpc", errors) {
        let port = handler.at("grpc").int("port").unwrap_or(0);
        check::each(identifier::port_number(port), port, &path.child("grpc.port"), errors);
    }
    if one("sleep", errors) {
        let seconds = handler.at("sleep").int("seconds").unwrap_or(0);
        if seconds < 0 || seconds > grace {
            errors.invalid(
                &path.child("sleep"),
                seconds,
                format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
            );
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(get: &Value, path: &Path, errors: &mut Errors) {
    if get.text("path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    check::port_or_name(get.at("port"), &path.child("port"), errors);
    let scheme = get.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in get.items("httpHeaders") {
        let name = header.text("name");
        check::each(identifier::http_header_name(name), name, &path.child("httpHeaders"), errors);
    }
}
