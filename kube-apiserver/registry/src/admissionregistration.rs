//! The admissionregistration.k8s.io group.
//!
//! Upstream: pkg/apis/admissionregistration/v1/defaults.go

use serde_json::{Value, json};

use crate::column::{self, integer, text};
use crate::resource::Resource;
use crate::rules::{Generation, Rules, SPEC};
use crate::tree::Tree;

mod validate;

/// MutatingWebhookConfigurations.
pub fn mutating_webhooks(resource: &mut Resource) {
    webhooks(resource);
    resource.strategy = Rules {
        default: default_mutating,
        validate: |_, object, errors| validate::webhooks(object, errors),
        validate_update: |_, new, _, errors| validate::webhooks(new, errors),
        generation: WEBHOOKS,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
}

/// ValidatingWebhookConfigurations.
pub fn validating_webhooks(resource: &mut Resource) {
    webhooks(resource);
    resource.strategy = Rules {
        default: default_webhooks,
        validate: |_, object, errors| validate::webhooks(object, errors),
        validate_update: |_, new, _, errors| validate::webhooks(new, errors),
        generation: WEBHOOKS,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
}

const WEBHOOKS: Generation = Generation::Fields(&["webhooks"]);

fn webhooks(resource: &mut Resource) {
    resource.columns = vec![
        column::name(),
        integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration", |object, _| {
            object.len_of("webhooks").into()
        }),
        column::age(),
    ];
}

fn default_mutating(object: &mut Value) {
    default_webhooks(object);
    for webhook in object.items_mut("webhooks") {
        webhook.fill("reinvocationPolicy", "Never");
    }
}

fn default_webhooks(object: &mut Value) {
    for webhook in object.items_mut("webhooks") {
        webhook.fill("failurePolicy", "Fail");
        webhook.fill("matchPolicy", "Equivalent");
        webhook.fill("namespaceSelector", json!({}));
        webhook.fill("objectSelector", json!({}));
        webhook.fill("timeoutSeconds", 10);
        webhook.fill("clientConfig", json!({}));
        if let Some(service) = webhook.child("clientConfig").child_if("service") {
            service.fill("port", 443);
        }
        for rule in webhook.items_mut("rules") {
            rule.fill("scope", "*");
        }
    }
}

fn default_match(resources: &mut Value) {
    resources.fill("matchPolicy", "Equivalent");
    resources.fill("namespaceSelector", json!({}));
    resources.fill("objectSelector", json!({}));
    for key in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.items_mut(key) {
            rule.fill("scope", "*");
        }
    }
}

/// ValidatingAdmissionPolicies.
pub fn validating_policy(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            default_policy(object);
            object.fill("status", json!({}));
        },
        create: |_, object| object.set("status", json!({})),
        validate: |_, object, errors| validate::policy(object, errors),
        validate_update: |_, new, _, errors| validate::policy(new, errors),
        generation: SPEC,
        status: true,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
            |object, _| object.at("spec").len_of("validations").into(),
        ),
        param_kind(),
        column::age(),
    ];
}

fn param_kind() -> crate::resource::Column {
    text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy", |object, _| {
        let kind = object.path("spec.paramKind");
        if kind.is_null() { "<unset>".into() } else { format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into() }
    })
}

fn default_policy(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("failurePolicy", "Fail");
    if let Some(constraints) = spec.child_if("matchConstraints") {
        default_match(constraints);
    }
}

/// MutatingAdmissionPolicies.
pub fn mutating_policy(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            default_policy(object);
            object.child("spec").fill_text("reinvocationPolicy", "Never");
        },
        validate: |_, object, errors| validate::mutating_policy(object, errors),
        validate_update: |_, new, _, errors| validate::mutating_policy(new, errors),
        generation: SPEC,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer("Mutations", "Mutations indicates the number of mutations rules defined in this configuration", |object, _| {
            object.at("spec").len_of("mutations").into()
        }),
        param_kind(),
        column::age(),
    ];
}

/// Bindings of either sort of policy.
pub fn policy_binding(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            if let Some(resources) = object.child("spec").child_if("matchResources") {
                default_match(resources);
            }
        },
        validate: |_, object, errors| validate::binding(object, errors),
        validate_update: |_, new, _, errors| validate::binding(new, errors),
        generation: SPEC,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to", |object, _| {
            object.at("spec").text("policyName").into()
        }),
        text("ParamRef", "ParamRef indicates the param resource which sets the configration param", |object, _| {
            let param = object.path("spec.paramRef");
            if param.is_null() {
                "<unset>".into()
            } else if !param.text("name").is_empty() {
                match param.text("namespace") {
                    "" => format!("*/{}", param.text("name")).into(),
                    namespace => format!("{namespace}/{}", param.text("name")).into(),
                }
            } else {
                column::selector(param.at("selector")).into()
            }
        }),
        column::age(),
    ];
}
