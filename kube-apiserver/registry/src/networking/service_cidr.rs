//! ServiceCIDRs.

use api::field::{Errors, Path};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text};
use crate::identifier;
use crate::metadata::immutable;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of ServiceCIDRs.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        create: |_, object| object.set("status", json!({})),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            validate_change(new, old, errors);
        },
        status: true,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("CIDRs", "CIDRs defines the IP blocks in CIDR notation", |object, _| {
            object.at("spec").items("cidrs").iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(",").into()
        }),
        column::age(),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec.cidrs");
    let cidrs = object.at("spec").items("cidrs");
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errors.invalid(&path, cidrs.to_vec(), "must only hold up to 2 values");
    }
    let mut families = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or("");
        check::each(identifier::cidr(cidr), cidr, &path.index(index), errors);
        families.extend(cidr.parse::<IpNet>().map(|net| net.addr().is_ipv4()));
    }
    if families.len() == 2 && families[0] == families[1] {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, cidrs.to_vec(), why);
    }
}

/// A second family may come; what is there stays.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec.cidrs");
    let (after, before) = (new.at("spec").items("cidrs"), old.at("spec").items("cidrs"));
    if after.len() < before.len() {
        immutable(&after.to_vec().into(), &before.to_vec().into(), &path, errors);
        return;
    }
    for (index, cidr) in before.iter().enumerate() {
        immutable(&after[index], cidr, &path.index(index), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_each_family() {
        let complaints = |cidrs: Value| {
            let mut errors = Errors::new();
            validate(&json!({"spec": {"cidrs": cidrs}}), &mut errors);
            errors.0.len()
        };
        assert_eq!(complaints(json!(["10.0.0.0/16", "fd00::/64"])), 0);
        assert_eq!(complaints(json!([])), 1);
        assert_eq!(complaints(json!(["10.0.0.0/16", "10.1.0.0/16"])), 1);
        assert_eq!(complaints(json!(["10.0.0.0"])), 1);
        let mut errors = Errors::new();
        let object = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        validate_change(&object(json!(["10.0.0.0/16", "fd00::/64"])), &object(json!(["10.0.0.0/16"])), &mut errors);
        assert!(errors.is_empty());
        validate_change(&object(json!(["fd00::/64"])), &object(json!(["10.0.0.0/16"])), &mut errors);
        assert_eq!(errors.0[0].field, "spec.cidrs[0]");
    }
}
