//! ServiceAccounts.

use crate::column::{self, text};
use crate::resource::Resource;
use crate::tree::Tree;

/// Columns of ServiceAccounts; there is nothing to validate but metadata.
pub fn build(resource: &mut Resource) {
    resource.columns = vec![
        column::name(),
        text(
            "Secrets",
            "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use. Pods are only limited to this list if this service account has a \"kubernetes.io/enforce-mountable-secrets\" annotation set to \"true\". The \"kubernetes.io/enforce-mountable-secrets\" annotation is deprecated since v1.32. Prefer separate namespaces to isolate access to mounted secrets. This field should not be used to find auto-generated service account token secrets for use outside of pods. Instead, tokens can be requested directly using the TokenRequest API, or service account token secrets can be manually created. More info: https://kubernetes.io/docs/concepts/configuration/secret",
            |object, _| object.len_of("secrets").into(),
        ),
        column::age(),
    ];
}
