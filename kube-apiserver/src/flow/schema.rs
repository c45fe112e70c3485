//! One FlowSchema: which requests it takes, and how their flows are told apart.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use auth::user::User;
use http::HeaderValue;
use serde_json::Value;

use super::Level;
use crate::request_info::RequestInfo;

/// A FlowSchema.
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid, as a header's value.
    pub uid: HeaderValue,
    /// Lower ones are tried first.
    pub precedence: i64,
    /// Where its requests go.
    pub level: Arc<Level>,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

enum Distinguisher {
    None,
    User,
    Namespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

enum Subject {
    User(String),
    Group(String),
    ServiceAccount(String, String),
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

struct Paths {
    verbs: Vec<String>,
    urls: Vec<String>,
}

/// An object's uid as a header's value.
pub(super) fn uid(object: &Value) -> HeaderValue {
    let text = object["metadata"]["uid"].as_str().unwrap_or("");
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Schema {
    /// Of an object, going to this level.
    pub(super) fn of(object: &Value, level: Arc<Level>) -> Self {
        let spec = &object["spec"];
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or("").to_owned(),
            uid: uid(object),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level,
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: spec["rules"].as_array().into_iter().flatten().map(rule).collect(),
        }
    }

    /// Whether it takes the request.
    pub(super) fn matches(&self, info: &RequestInfo, user: &User) -> bool {
        self.rules.iter().any(|rule| rule.matches(info, user))
    }

    /// The number of the request's flow.
    pub(super) fn flow(&self, info: &RequestInfo, user: &User) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

fn rule(rule: &Value) -> Rule {
    let list = |key: &str| rule[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    Rule {
        subjects: list("subjects")
            .iter()
            .filter_map(|subject| match subject["kind"].as_str()? {
                "User" => Some(Subject::User(text(&subject["user"]["name"]))),
                "Group" => Some(Subject::Group(text(&subject["group"]["name"]))),
                "ServiceAccount" => {
                    let account = &subject["serviceAccount"];
                    Some(Subject::ServiceAccount(text(&account["namespace"]), text(&account["name"])))
                }
                _ => None,
            })
            .collect(),
        resources: list("resourceRules")
            .iter()
            .map(|row| Resources {
                verbs: strings(&row["verbs"]),
                groups: strings(&row["apiGroups"]),
                resources: strings(&row["resources"]),
                namespaces: strings(&row["namespaces"]),
                cluster: row["clusterScope"].as_bool().unwrap_or(false),
            })
            .collect(),
        paths: list("nonResourceRules")
            .iter()
            .map(|row| Paths { verbs: strings(&row["verbs"]), urls: strings(&row["nonResourceURLs"]) })
            .collect(),
    }
}

impl Rule {
    fn matches(&self, info: &RequestInfo, user: &User) -> bool {
        let who = self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::ServiceAccount(namespace, name) => {
                user.service_account().is_some_and(|(own, account)| own == namespace && (name == "*" || name == account))
            }
        });
        if !who {
            return false;
        }
        if !info.is_resource {
            return self.paths.iter().any(|row| {
                has(&row.verbs, &info.verb)
                    && row.urls.iter().any(|url| {
                        url == "*" || *url == info.path || url.strip_suffix('*').is_some_and(|start| info.path.starts_with(start))
                    })
            });
        }
        self.resources.iter().any(|row| {
            let named = |resource: &str| has(&row.resources, resource);
            has(&row.verbs, &info.verb)
                && has(&row.groups, &info.group)
                && match info.subresource.as_str() {
                    "" => named(&info.resource),
                    sub => named(&format!("{}/{sub}", info.resource)),
                }
                && if info.namespace.is_empty() { row.cluster } else { has(&row.namespaces, &info.namespace) }
        })
    }
}
