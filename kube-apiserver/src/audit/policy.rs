//! `audit.k8s.io/v1` Policy: the first rule that matches gives the level.
//!
//! Upstream: apiserver/pkg/audit/policy

use std::path::Path;

use auth::user::User;
use serde::Deserialize;

use crate::request_info::RequestInfo;

/// How much is told.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when.
    Metadata,
    /// The request's body too.
    Request,
    /// The answer's body too.
    RequestResponse,
}

impl Level {
    /// As events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How much is told.
    pub level: Level,
    /// Stages that are passed over.
    pub omit_stages: Vec<String>,
    /// Whether `managedFields` are left out of bodies.
    pub omit_managed_fields: bool,
}

const STAGES: &[&str] = &["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

impl Policy {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(file: &Path) -> Result<Self, String> {
        let at = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("loading audit policy file: failed to read file path {:?}: {error}", at.to_string()))?;
        Self::parse(&text).map_err(|why| format!("loading audit policy file: {why} from file {at}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_yaml::from_str(text).map_err(|error| format!("failed decoding: {error}"))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(format!("unknown group version field {} in policy (kind {})", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let stages = policy.rules.iter().flat_map(|rule| &rule.omit_stages).chain(&policy.omit_stages);
        if let Some(stage) = stages.into_iter().find(|stage| !STAGES.contains(&stage.as_str())) {
            return Err(format!("rules.omitStages: Invalid value: {stage:?}: allowed stages are {}", STAGES.join(",")));
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            if !rule.non_resource_urls.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
                return Err(format!(
                    "rules[{at}].nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"
                ));
            }
        }
        Ok(policy)
    }

    /// What becomes of a request.
    pub fn judge(&self, info: &RequestInfo, user: Option<&User>) -> Verdict {
        match self.rules.iter().find(|rule| rule.matches(info, user)) {
            None => Verdict { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false },
            Some(rule) => Verdict {
                level: rule.level,
                omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).cloned().collect(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
        }
    }
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: Option<&User>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|own| own == value);
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.is_some_and(|user| user.groups.iter().any(|group| has(&self.user_groups, group)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|row| row.matches(info)));
        }
        if !self.non_resource_urls.is_empty() {
            let fits = |pattern: &str| match pattern.strip_suffix('*') {
                Some(start) => info.path.starts_with(start),
                None => pattern == info.path,
            };
            return !info.is_resource && self.non_resource_urls.iter().any(|pattern| fits(pattern));
        }
        true
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        let whole = match info.subresource.as_str() {
            "" => info.resource.clone(),
            sub => format!("{}/{sub}", info.resource),
        };
        self.resources.iter().any(|pattern| {
            pattern == "*"
                || *pattern == whole
                || pattern.strip_prefix("*/").is_some_and(|sub| sub == info.subresource)
                || pattern.strip_suffix("/*").is_some_and(|resource| resource == info.resource)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::Query;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ['system:kube-proxy']
  verbs: [watch]
  resources: [{group: '', resources: [endpoints, services]}]
- level: None
  userGroups: ['system:authenticated']
  nonResourceURLs: ['/api*', /version]
- level: Request
  resources: [{group: '', resources: [configmaps], resourceNames: [special]}]
  namespaces: [kube-system]
- level: Metadata
  resources: [{group: '', resources: [secrets, 'pods/*', '*/status']}]
  omitStages: [ResponseStarted]
- level: RequestResponse
  resources: [{group: apps}]
";

    fn level(method: &str, target: &str, user: &User) -> Level {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::of(&method.parse().unwrap(), path, &Query::parse(query));
        Policy::parse(POLICY).unwrap().judge(&info, Some(user)).level
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let proxy = User::new("system:kube-proxy", &["system:authenticated"]);
        let other = User::new("jane", &["system:authenticated"]);
        let cases = [
            ("GET", "/api/v1/services?watch=1", &proxy, Level::None),
            ("GET", "/version", &other, Level::None),
            ("GET", "/apis", &other, Level::None),
            ("GET", "/healthz", &other, Level::None),
            ("GET", "/api/v1/namespaces/kube-system/configmaps/special", &other, Level::Request),
            ("GET", "/api/v1/namespaces/default/configmaps/special", &other, Level::None),
            ("GET", "/api/v1/secrets", &other, Level::Metadata),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", &other, Level::Metadata),
            // As upstream: `pods/*` means the pods too.
            ("GET", "/api/v1/namespaces/a/pods/b", &other, Level::Metadata),
            ("GET", "/api/v1/namespaces/a/services/b", &other, Level::None),
            ("PUT", "/api/v1/nodes/a/status", &other, Level::Metadata),
            ("GET", "/apis/apps/v1/deployments", &other, Level::RequestResponse),
        ];
        for (method, target, user, wanted) in cases {
            assert_eq!(level(method, target, user), wanted, "{method} {target}");
        }
    }

    #[test]
    fn wrong_policies_are_refused() {
        for text in [
            "apiVersion: audit.k8s.io/v1\nkind: Policy\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]\n",
            "apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, omitStages: [Never]}]\n",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [x]}]\n",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
    }
}
