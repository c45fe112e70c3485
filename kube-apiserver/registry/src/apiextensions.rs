//! The apiextensions.k8s.io group.
//!
//! Upstream: apiextensions-apiserver/pkg/apis/apiextensions/v1/defaults.go

use serde_json::{Value, json};

use crate::column;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// CustomResourceDefinitions.
pub fn definition(resource: &mut Resource) {
    resource.strategy = Rules { default, create, generation: SPEC, status: true, ..Rules::GENERIC }.strategy();
    resource.columns = column::generic();
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    let kind = spec.path("names.kind").as_str().unwrap_or("").to_owned();
    let names = spec.child("names");
    if !kind.is_empty() {
        names.fill_text("singular", &kind.to_lowercase());
        names.fill_text("listKind", &format!("{kind}List"));
    }
    let conversion = spec.child("conversion");
    conversion.fill_text("strategy", "None");
    if let Some(service) =
        conversion.child_if("webhook").and_then(|w| w.child_if("clientConfig")).and_then(|c| c.child_if("service"))
    {
        service.fill("port", 443);
    }
}

fn create(_context: &crate::resource::Context, object: &mut Value) {
    let stored: Vec<String> =
        object.at("spec").items("versions").iter().filter(|v| v.truth("storage")).map(|v| v.text("name").to_owned()).collect();
    object.set("status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}));
}
