//! `AuthenticationConfiguration` (`--authentication-config`): issuers of JWTs, and where anonymous requests may go.
//!
//! Upstream: apiserver/pkg/apis/apiserver/{types,validation}

use std::collections::BTreeMap;

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::anonymous::Anonymous;
use super::oidc::{Claim, Issuer};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousRow>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AnonymousRow {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerRow,
    #[serde(default)]
    claim_validation_rules: Vec<Rule>,
    #[serde(default)]
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerRow {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default, rename = "message")]
    _message: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    #[serde(default)]
    username: Mapping,
    #[serde(default)]
    groups: Mapping,
    #[serde(default)]
    uid: Mapping,
    #[serde(default)]
    extra: Vec<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    #[serde(default)]
    claim: String,
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub struct Structured {
    /// Issuers of JWTs.
    pub issuers: Vec<Issuer>,
    /// Where it says so.
    pub anonymous: Option<Anonymous>,
}

/// How JWTs may be signed where the file cannot say so. Upstream: AllValidSigningAlgorithms
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Whether an issuer's address may be one.
///
/// # Errors
/// It is no https URL.
pub fn check_url(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Err("Required value: URL is required".to_owned());
    }
    if !url.starts_with("https://") {
        return Err(format!("Invalid value: {url:?}: URL scheme must be https"));
    }
    if url.contains(['?', '#', '@']) {
        return Err(format!("Invalid value: {url:?}: URL must not contain a username, password, query or fragment"));
    }
    Ok(())
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it, or the name of what is not yet supported.
pub fn parse(text: &str) -> Result<Structured, String> {
    let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let version = file.api_version.strip_prefix("apiserver.config.k8s.io/").unwrap_or("");
    if file.kind != "AuthenticationConfiguration" || !matches!(version, "v1" | "v1beta1" | "v1alpha1") {
        return Err(format!("no kind {:?} is registered for version {:?}", file.kind, file.api_version));
    }
    let anonymous = match file.anonymous {
        None => None,
        Some(row) if !row.enabled && !row.conditions.is_empty() => {
            return Err(
                "anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".to_owned()
            );
        }
        Some(row) => Some(Anonymous { enabled: row.enabled, paths: row.conditions.into_iter().map(|row| row.path).collect() }),
    };
    let mut issuers: Vec<Issuer> = Vec::new();
    for (at, jwt) in file.jwt.into_iter().enumerate() {
        let issuer = issuer(jwt).map_err(|why| format!("jwt[{at}].{why}"))?;
        if issuers.iter().any(|have| have.url == issuer.url) {
            return Err(format!("jwt[{at}].issuer.url: Duplicate value: {:?}", issuer.url));
        }
        issuers.push(issuer);
    }
    Ok(Structured { issuers, anonymous })
}

fn issuer(jwt: Jwt) -> Result<Issuer, String> {
    let Jwt { issuer, claim_validation_rules, claim_mappings, user_validation_rules } = jwt;
    let mappings = claim_mappings;
    let uses_cel = !user_validation_rules.is_empty()
        || !mappings.extra.is_empty()
        || claim_validation_rules.iter().any(|rule| !rule.expression.is_empty())
        || [&mappings.username, &mappings.groups, &mappings.uid].iter().any(|mapping| !mapping.expression.is_empty());
    if uses_cel {
        return Err("claimMappings: expressions are not yet supported by rk".to_owned());
    }
    if !issuer.egress_selector_type.is_empty() {
        return Err("issuer.egressSelectorType: not yet supported by rk".to_owned());
    }
    check_url(&issuer.url).map_err(|why| format!("issuer.url: {why}"))?;
    if let Some(url) = &issuer.discovery_url {
        check_url(url).map_err(|why| format!("issuer.discoveryURL: {why}"))?;
    }
    if issuer.audiences.is_empty() {
        return Err("issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required".to_owned());
    }
    if issuer.audiences.len() > 1 && issuer.audience_match_policy != "MatchAny" {
        return Err(
            "issuer.audienceMatchPolicy: Invalid value: audienceMatchPolicy must be MatchAny for multiple audiences".to_owned()
        );
    }
    if mappings.username.claim.is_empty() {
        return Err("claimMappings.username: Required value: claim or expression is required".to_owned());
    }
    let Some(prefix) = mappings.username.prefix else {
        return Err("claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing".to_owned());
    };
    let groups = match (mappings.groups.claim, mappings.groups.prefix) {
        (claim, _) if claim.is_empty() => None,
        (name, Some(prefix)) => Some(Claim { name, prefix }),
        _ => {
            return Err("claimMappings.groups.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing".to_owned());
        }
    };
    let mut required = BTreeMap::new();
    for rule in claim_validation_rules {
        if rule.claim.is_empty() {
            return Err("claimValidationRules: Required value: claim or expression is required".to_owned());
        }
        required.insert(rule.claim, rule.required_value);
    }
    Ok(Issuer {
        url: issuer.url,
        discovery_url: issuer.discovery_url.filter(|url| !url.is_empty()),
        ca: issuer.certificate_authority.filter(|ca| !ca.is_empty()).map(String::into_bytes),
        audiences: issuer.audiences,
        username: Claim { name: mappings.username.claim, prefix },
        groups,
        uid: Some(mappings.uid.claim).filter(|claim| !claim.is_empty()),
        required,
        algorithms: ALGORITHMS.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";

    #[test]
    fn files_say_who_is_believed() {
        let text = format!(
            "{HEAD}jwt:\n- issuer: {{url: 'https://i', audiences: [a, b], audienceMatchPolicy: MatchAny}}\n  claimValidationRules: [{{claim: hd, requiredValue: x}}]\n  claimMappings:\n    username: {{claim: sub, prefix: ''}}\n    groups: {{claim: roles, prefix: 'r:'}}\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\n"
        );
        let read = parse(&text).unwrap();
        assert_eq!(read.issuers[0].required["hd"], "x");
        assert_eq!(read.issuers[0].groups, Some(Claim { name: "roles".into(), prefix: "r:".into() }));
        assert_eq!(read.anonymous, Some(Anonymous { enabled: true, paths: vec!["/livez".into()] }));
    }

    #[test]
    fn wrong_files_are_refused() {
        for (text, wanted) in [
            ("kind: X\napiVersion: apiserver.config.k8s.io/v1\n".to_owned(), "no kind"),
            (format!("{HEAD}anonymous: {{enabled: false, conditions: [{{path: /a}}]}}\n"), "enabled should be set"),
            (format!("{HEAD}jwt: [{{issuer: {{url: 'http://i', audiences: [a]}}}}]\n"), "https"),
            (format!("{HEAD}jwt: [{{issuer: {{url: 'https://i'}}}}]\n"), "audiences"),
            (
                format!(
                    "{HEAD}jwt: [{{issuer: {{url: 'https://i', audiences: [a]}}, claimMappings: {{username: {{claim: s}}}}}}]\n"
                ),
                "prefix",
            ),
            (
                format!(
                    "{HEAD}jwt: [{{issuer: {{url: 'https://i', audiences: [a]}}, claimMappings: {{username: {{expression: x}}}}}}]\n"
                ),
                "not yet supported",
            ),
            (format!("{HEAD}webhook: x\n"), "unknown field"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
