//! IPAddresses.

use std::net::IpAddr;

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::identifier::path_segment;
use crate::internal::compact;
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::{Tree, same};

/// Rules and columns of IPAddresses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            let path = Path::new("spec.parentRef");
            if !same(new.path("spec.parentRef"), old.path("spec.parentRef")) {
                let shown = compact("*ParentReference", new.path("spec.parentRef"));
                errors.add_shown(ErrorType::Invalid, &path, shown, "field is immutable");
            }
        },
        name: canonical_address,
        generation: Generation::None,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("ParentRef", "ParentRef is a reference to the object that uses the IP address.", |object, _| {
            let parent = object.path("spec.parentRef");
            if parent.is_null() {
                return "<none>".into();
            }
            let (group, resource) = (parent.text("group"), parent.text("resource"));
            let resource = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            format!("{resource}/{}/{}", parent.text("namespace"), parent.text("name")).into()
        }),
        column::age(),
    ];
}

/// The object's name is the address.
fn canonical_address(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Err(_) => vec![format!("ParseAddr({name:?}): unable to parse IP")],
        Ok(address) if address.to_string() != name => vec!["must be a canonical format IP address".to_owned()],
        Ok(_) => Vec::new(),
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec.parentRef");
    let parent = object.path("spec.parentRef");
    if parent.is_null() {
        errors.required(&path, "");
        return;
    }
    if !parent.text("group").is_empty() {
        check::subdomain(parent.text("group"), &path.child("group"), errors);
    }
    for (field, needed) in [("resource", true), ("name", true), ("namespace", false)] {
        let word = parent.text(field);
        if word.is_empty() && needed {
            errors.required(&path.child(field), "");
        } else if !word.is_empty() {
            check::each(path_segment(word, false), word, &path.child(field), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_addresses_as_they_print() {
        for (name, fine) in [("10.0.0.1", true), ("fd00::1", true), ("10.0.0.01", false), ("fd00:0::1", false), ("x", false)] {
            assert_eq!(canonical_address(name, false).is_empty(), fine, "{name}");
        }
    }
}
