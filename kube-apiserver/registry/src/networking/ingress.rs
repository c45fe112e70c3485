//! Ingresses.
//!
//! Upstream: pkg/registry/networking/ingress, printIngress

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text};
use crate::core::endpoints::abbreviate;
use crate::core::service::load_balancer;
use crate::identifier;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of Ingresses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.child("status").fill("loadBalancer", json!({})),
        create: |_, object| object.set("status", json!({"loadBalancer": {}})),
        generation: SPEC,
        status: true,
        validate: |_, object, errors| {
            validate(object, errors);
            let annotation = object.at("metadata").at("annotations").text(CLASS_ANNOTATION);
            if !annotation.is_empty() && object.at("spec").has("ingressClassName") {
                errors.invalid(
                    &Path::new("metadata.annotations").key(CLASS_ANNOTATION),
                    annotation,
                    "can not be set when the class field is also set",
                );
            }
        },
        validate_update: |_, new, _, errors| validate(new, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Class", "The name of the IngressClass resource that should be used for additional configuration", |object, _| {
            match object.at("spec").text("ingressClassName") {
                "" => "<none>".into(),
                class => class.into(),
            }
        }),
        text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", |object, _| {
            hosts(object).into()
        }),
        text("Address", "Address is a list containing ingress points for the load-balancer", |object, _| {
            load_balancer(object.path("status.loadBalancer")).join(",").into()
        }),
        text("Ports", "Ports of TLS configurations that open", |object, _| {
            if object.at("spec").items("tls").is_empty() { "80".into() } else { "80, 443".into() }
        }),
        column::age(),
    ];
}

fn hosts(object: &Value) -> String {
    let all: Vec<String> = object
        .at("spec")
        .items("rules")
        .iter()
        .map(|rule| rule.text("host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    if all.is_empty() { "*".to_owned() } else { abbreviate(&all) }
}

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    if spec.items("rules").is_empty() && !spec.has("defaultBackend") {
        errors.invalid(&path, spec.at("rules").clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(spec.at("defaultBackend"), &path.child("defaultBackend"), errors);
    }
    for (index, rule) in spec.items("rules").iter().enumerate() {
        let path = path.child("rules").index(index);
        let host = rule.text("host");
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
            }
            host_name(host, &path.child("host"), errors);
        }
        if rule.has("http") {
            let paths = rule.at("http").items("paths");
            let at = path.child("http.paths");
            if paths.is_empty() {
                errors.required(&at, "");
            }
            for (index, item) in paths.iter().enumerate() {
                http_path(item, &at.index(index), errors);
            }
        }
    }
    for (index, tls) in spec.items("tls").iter().enumerate() {
        let path = path.child("tls").index(index);
        for (index, host) in tls.items("hosts").iter().enumerate() {
            host_name(host.as_str().unwrap_or(""), &path.child("hosts").index(index), errors);
        }
        if !tls.text("secretName").is_empty() {
            check::subdomain(tls.text("secretName"), &path.child("secretName"), errors);
        }
    }
    if spec.has("ingressClassName") {
        check::subdomain(spec.text("ingressClassName"), &path.child("ingressClassName"), errors);
    }
}

fn host_name(host: &str, path: &Path, errors: &mut Errors) {
    let messages =
        if host.contains('*') { identifier::wildcard_dns1123_subdomain(host) } else { identifier::dns1123_subdomain(host) };
    check::each(messages, host, path, errors);
}

fn http_path(item: &Value, path: &Path, errors: &mut Errors) {
    let text = item.text("path");
    let at = path.child("path");
    if !item.has("pathType") {
        errors.required(&path.child("pathType"), "pathType must be specified");
        return;
    }
    match item.text("pathType") {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
            if !text.is_empty() {
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if text.contains(bad) {
                        errors.invalid(&at, text, format!("must not contain '{bad}'"));
                    }
                }
                for bad in ["/..", "/."] {
                    if text.ends_with(bad) {
                        errors.invalid(&at, text, format!("cannot end with '{bad}'"));
                    }
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(item.at("backend"), &path.child("backend"), errors);
}

fn backend(backend: &Value, path: &Path, errors: &mut Errors) {
    match (backend.has("service"), backend.has("resource")) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
        (false, true) => {
            let resource = backend.at("resource");
            let path = path.child("resource");
            for field in ["kind", "name"] {
                if resource.text(field).is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
            if !resource.text("apiGroup").is_empty() {
                check::subdomain(resource.text("apiGroup"), &path.child("apiGroup"), errors);
            }
        }
        (true, false) => {
            let service = backend.at("service");
            let name = service.text("name");
            let at = path.child("service.name");
            if name.is_empty() {
                errors.required(&at, "");
            } else {
                check::label_name(name, &at, errors);
            }
            let (port_name, number) = (service.at("port").text("name"), service.at("port").int("number").unwrap_or(0));
            match (port_name.is_empty(), number == 0) {
                (false, false) => errors.invalid(path, "", "cannot set both port name & port number"),
                (false, true) => {
                    check::each(identifier::port_name(port_name), port_name, &path.child("service.port.name"), errors)
                }
                (true, false) => check::each(identifier::port_number(number), number, &path.child("service.port.number"), errors),
                (true, true) => errors.required(path, "port name or number is required"),
            }
        }
    }
}
