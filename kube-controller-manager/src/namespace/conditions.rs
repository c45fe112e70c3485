//! The conditions that tell what holds a namespace.
//!
//! Upstream: pkg/controller/namespace/deletion/status_condition_utils.go

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What one sweep over a namespace found.
#[derive(Default, Debug)]
pub struct Findings {
    /// `group/version`s that could not be asked.
    pub undiscovered: Vec<String>,
    /// What failed.
    pub errors: Vec<String>,
    /// `resource.group` and how many are left.
    pub remaining: Vec<(String, usize)>,
    /// Finalizers on what is left, with how many objects have them.
    pub finalizers: BTreeMap<String, usize>,
    /// How long pods may take to end.
    pub estimate: Option<Duration>,
}

impl Findings {
    /// Nothing is left and nothing is unknown.
    pub fn is_clean(&self) -> bool {
        self.undiscovered.is_empty() && self.errors.is_empty() && self.remaining.is_empty()
    }

    pub fn merge(&mut self, other: Findings) {
        self.undiscovered.extend(other.undiscovered);
        self.errors.extend(other.errors);
        self.remaining.extend(other.remaining);
        for (finalizer, count) in other.finalizers {
            *self.finalizers.entry(finalizer).or_insert(0) += count;
        }
        self.estimate = self.estimate.max(other.estimate);
    }
}

/// The status to write, or `None` when the namespace says it already.
pub fn plan(namespace: &Namespace, findings: &Findings, now: Timestamp) -> Option<NamespaceStatus> {
    let mut status = namespace.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    let mut changed = false;
    for (type_, good, bad, problem) in rows(findings) {
        let (value, reason, message) = match problem {
            Some(message) => ("True", bad, message),
            None => ("False", good.0, good.1.to_owned()),
        };
        let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
        let new = NamespaceCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match old {
            None => {
                conditions.push(new);
                changed = true;
            }
            Some(old) if old.status != new.status || old.message != new.message || old.reason != new.reason => {
                let since =
                    if old.status == new.status { old.last_transition_time.clone() } else { new.last_transition_time.clone() };
                *old = NamespaceCondition { last_transition_time: since, ..new };
                changed = true;
            }
            Some(_) => {}
        }
    }
    status.conditions = Some(conditions);
    changed.then_some(status)
}

type Row = (&'static str, (&'static str, &'static str), &'static str, Option<String>);

fn rows(findings: &Findings) -> [Row; 5] {
    let discovery = (!findings.undiscovered.is_empty()).then(|| {
        let mut failed = findings.undiscovered.clone();
        failed.sort();
        format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            failed.len(),
            failed.join(", ")
        )
    });
    let content = (!findings.errors.is_empty()).then(|| {
        let mut errors = findings.errors.clone();
        errors.sort();
        format!("Failed to delete all resource types, {} remaining: {}", errors.len(), errors.join(", "))
    });
    let remaining = (!findings.remaining.is_empty()).then(|| {
        let mut parts: Vec<String> =
            findings.remaining.iter().map(|(name, count)| format!("{name} has {count} resource instances")).collect();
        parts.sort();
        format!("Some resources are remaining: {}", parts.join(", "))
    });
    let finalizers = (!findings.finalizers.is_empty()).then(|| {
        let parts: Vec<String> =
            findings.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
        format!("Some content in the namespace has finalizers remaining: {}", parts.join(", "))
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            "DiscoveryFailed",
            discovery,
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            "GroupVersionParsingFailed",
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            "ContentDeletionFailed",
            content,
        ),
        ("NamespaceContentRemaining", ("ContentRemoved", "All content successfully removed"), "SomeResourcesRemain", remaining),
        (
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            "SomeFinalizersRemain",
            finalizers,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_namespace_says_what_holds_it() {
        let now = Timestamp::UNIX_EPOCH;
        let findings = Findings {
            remaining: vec![("pods.".into(), 2), ("widgets.example.com".into(), 1)],
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Findings::default()
        };
        let status = plan(&Namespace::default(), &findings, now).unwrap();
        let condition = |type_: &str| status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap().clone();
        let remaining = condition("NamespaceContentRemaining");
        assert_eq!(
            remaining.message.unwrap(),
            "Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances"
        );
        assert_eq!(condition("NamespaceFinalizersRemaining").reason.unwrap(), "SomeFinalizersRemain");
        assert_eq!(condition("NamespaceDeletionContentFailure").status, "False");
        let again = Namespace { status: Some(status), ..Namespace::default() };
        assert!(plan(&again, &findings, now).is_none());
        assert!(plan(&again, &Findings::default(), now).is_some());
    }
}
