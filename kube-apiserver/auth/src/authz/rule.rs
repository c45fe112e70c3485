//! One policy rule: what it allows, whether it covers another, how it is printed.
//!
//! Upstream: component-helpers/auth/rbac/validation, pkg/apis/rbac/v1/evaluation_helpers.go

use serde_json::{Map, Value, json};

use crate::authz::Attributes;
use crate::object::{quoted, texts};

/// A rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `get`, …, or `*`.
    pub verbs: Vec<String>,
    /// Groups, or `*`.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub resource_names: Vec<String>,
    /// Paths; `/x/*` for all below, `*` for all.
    pub non_resource_urls: Vec<String>,
}

/// Rules that allow everything.
pub fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() },
    ]
}

impl Rule {
    /// The rules of a role object.
    pub fn of_role(role: &Value) -> Vec<Self> {
        role.get("rules").and_then(Value::as_array).map_or(Vec::new(), |rules| rules.iter().map(Self::from_value).collect())
    }

    /// A rule out of its object.
    pub fn from_value(rule: &Value) -> Self {
        Self {
            verbs: texts(rule, "/verbs"),
            api_groups: texts(rule, "/apiGroups"),
            resources: texts(rule, "/resources"),
            resource_names: texts(rule, "/resourceNames"),
            non_resource_urls: texts(rule, "/nonResourceURLs"),
        }
    }

    /// The rule as an object; empty lists are left out.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                out.insert(key.to_owned(), json!(list));
            }
        }
        Value::Object(out)
    }

    /// Whether this rule allows the request.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, attributes.path));
        }
        has(&self.api_groups, attributes.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == attributes.name))
    }

    /// The rule as rules of one verb on one thing each.
    pub fn breakdown(&self) -> Vec<Self> {
        let one = |text: &str| vec![text.to_owned()];
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let simple = Self { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Self::default() };
                    if self.resource_names.is_empty() {
                        out.push(simple);
                    } else {
                        let named = |name: &String| Self { resource_names: one(name), ..simple.clone() };
                        out.extend(self.resource_names.iter().map(named));
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() });
            }
        }
        out
    }

    /// Whether this rule allows all that the simple rule `part` does.
    fn covers(&self, part: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|one| has(own, one));
        all(&self.verbs, &part.verbs)
            && all(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(|wanted| {
                let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
                self.resources.iter().any(|own| own == wanted || resource_matches(own, resource, subresource))
            })
            && part.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| url_matches(own, url)))
            && match part.resource_names.as_slice() {
                [] => self.resource_names.is_empty(),
                names => self.resource_names.is_empty() || names.iter().all(|name| self.resource_names.contains(name)),
            }
    }
}

/// Which of `wanted`, broken down, `held` does not cover.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::breakdown);
    parts.filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// Joins the verbs of simple rules on the same thing; other rules stay as they are, after them.
pub fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    let mut others = Vec::new();
    for rule in rules {
        let simple = rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1
            && rule.non_resource_urls.is_empty();
        if !simple {
            others.push(rule.clone());
            continue;
        }
        let same = joined.iter_mut().find(|known| {
            known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
        });
        match same {
            Some(known) => {
                for verb in &rule.verbs {
                    if !known.verbs.contains(verb) {
                        known.verbs.push(verb.clone());
                    }
                }
            }
            None => joined.push(rule.clone()),
        }
    }
    joined.extend(others);
    joined
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub fn compact_text(rule: &Rule) -> String {
    let parts: Vec<String> = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ]
    .into_iter()
    .filter(|(_, list)| !list.is_empty())
    .map(|(key, list)| format!("{key}:{}", quoted(list)))
    .collect();
    format!("{{{}}}", parts.join(", "))
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == wanted || own == "*")
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((own, sub)) => own == resource && sub == subresource,
    }
}

fn url_matches(pattern: &str, url: &str) -> bool {
    if pattern == "*" || pattern == url {
        return true;
    }
    pattern.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix.trim_end_matches('*')))
}
