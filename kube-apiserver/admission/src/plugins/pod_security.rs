//! PodSecurity: holds pods to the level that their namespace asks for by its labels.
//!
//! Upstream: k8s.io/pod-security-admission

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{containers, template, text};

mod checks;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Existing pods looked at when a namespace's level is raised. Upstream: defaultNamespaceMaxPodsToCheck
const MAX_PODS: usize = 3000;

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(PodSecurity { lister: host.lister.clone() })
}

struct PodSecurity {
    lister: Arc<dyn Lister>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level as a namespace asks for it, and as messages name it: `restricted:latest`.
struct Policy {
    level: Level,
    name: String,
}

impl Policy {
    /// What the labels say for a mode (`enforce`, `warn`); what cannot be read is restricted where it is enforced, and nothing else.
    fn of(labels: &Value, mode: &str) -> Self {
        let given = text(labels, &format!("{PREFIX}{mode}")).to_owned();
        let version = match text(labels, &format!("{PREFIX}{mode}-version")) {
            "" => "latest",
            version => version,
        };
        let level = match given.as_str() {
            "" | "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ if mode == "enforce" => Level::Restricted,
            _ => Level::Privileged,
        };
        let word = match level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        Self { level, name: format!("{word}:{version}") }
    }

    /// What is wrong with a pod, or nothing: `reason (detail), reason (detail)`.
    fn complaint(&self, metadata: &Value, spec: &Value) -> Option<String> {
        let found = checks::run(self.level, metadata, spec);
        (!found.is_empty()).then(|| found.join(", "))
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if request.is("", "namespaces") {
            self.namespace(object, old, warnings);
            return Ok(());
        }
        let is_pod = request.group.is_empty() && request.resource == "pods";
        if !(request.subresource.is_empty() || is_pod && matches!(request.subresource.as_str(), "ephemeralcontainers" | "resize"))
        {
            return Ok(());
        }
        let Some((metadata, spec)) = template(&request.group, &request.resource, object) else { return Ok(()) };
        let Some(namespace) = self.lister.get("", "namespaces", "", &request.namespace) else { return Ok(()) };
        let labels = &namespace["metadata"]["labels"];
        if is_pod && old.is_some_and(|old| !significant(object, old)) {
            return Ok(());
        }
        if is_pod {
            let enforce = Policy::of(labels, "enforce");
            if let Some(complaint) = enforce.complaint(metadata, spec) {
                return Err(request.forbidden(object, format!("violates PodSecurity {:?}: {complaint}", enforce.name)));
            }
        }
        let warn = Policy::of(labels, "warn");
        if let Some(complaint) = warn.complaint(metadata, spec) {
            warnings.push(format!("would violate PodSecurity {:?}: {complaint}", warn.name));
        }
        Ok(())
    }
}

impl PodSecurity {
    /// Whoever raises the level of a namespace is told which of its pods would not pass.
    fn namespace(&self, object: &Value, old: Option<&Value>, warnings: &mut Vec<String>) {
        let Some(old) = old else { return };
        let policy = Policy::of(&object["metadata"]["labels"], "enforce");
        let before = Policy::of(&old["metadata"]["labels"], "enforce");
        if policy.level == Level::Privileged || (policy.name == before.name) || policy.level < before.level {
            return;
        }
        let name = text(&object["metadata"], "name");
        let mut by_complaint: Vec<(String, String, usize)> = Vec::new();
        for pod in self.lister.list("", "pods", Some(name)).iter().take(MAX_PODS) {
            let Some(complaint) = policy.complaint(&pod["metadata"], &pod["spec"]) else { continue };
            // Only reasons, without the details that differ between pods.
            let reasons = checks::reasons(policy.level, &pod["metadata"], &pod["spec"]).join(", ");
            let _ = complaint;
            match by_complaint.iter_mut().find(|(_, other, _)| *other == reasons) {
                Some((_, _, count)) => *count += 1,
                None => by_complaint.push((text(&pod["metadata"], "name").to_owned(), reasons, 1)),
            }
        }
        if by_complaint.is_empty() {
            return;
        }
        by_complaint.sort();
        warnings.push(format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}", policy.name));
        for (pod, reasons, count) in by_complaint {
            warnings.push(match count {
                1 => format!("{pod}: {reasons}"),
                2 => format!("{pod} (and 1 other pod): {reasons}"),
                _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
            });
        }
    }
}

/// Whether an update changes what a pod runs, not only its labels and the like.
fn significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value| {
        containers(&pod["spec"])
            .map(|container| (text(container, "name").to_owned(), text(container, "image").to_owned()))
            .collect::<Vec<_>>()
    };
    images(new) != images(old)
        || new["metadata"]["annotations"] != old["metadata"]["annotations"] && apparmor(new) != apparmor(old)
}

fn apparmor(pod: &Value) -> Vec<(&String, &Value)> {
    pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    fn cluster(labels: Value) -> Arc<dyn Plugin> {
        build(&Cluster::default().with("", "namespaces", "", json!({"metadata": {"name": "d", "labels": labels}})).host())
    }

    #[tokio::test]
    async fn the_restricted_level_tells_all_that_is_missing() {
        let plugin = cluster(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
        let create = request(Operation::Create, "", "pods", "d", "p");
        let plain = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let refused = plugin.validate(&create, &plain, None, &mut Vec::new()).await.unwrap_err();
        assert_eq!(
            refused.message,
            r#"pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        );
        let good = json!({"metadata": {"name": "p"}, "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
        assert!(plugin.validate(&create, &good, None, &mut Vec::new()).await.is_ok());
    }

    #[tokio::test]
    async fn templates_are_warned_about_and_never_refused() {
        let plugin =
            cluster(json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "baseline"}));
        let create = request(Operation::Create, "apps", "deployments", "d", "w");
        let object = json!({"metadata": {"name": "w"}, "spec": {"template": {"spec": {"hostNetwork": true, "containers": [
            {"name": "a", "securityContext": {"privileged": true}, "ports": [{"hostPort": 80}]}, {"name": "b", "securityContext": {"privileged": true}}]}}}});
        let mut warnings = Vec::new();
        plugin.validate(&create, &object, None, &mut warnings).await.unwrap();
        assert_eq!(
            warnings,
            [
                r#"would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true), hostPort (container "a" uses hostPort 80), privileged (containers "a", "b" must not set securityContext.privileged=true)"#,
            ]
        );
        let mut warnings = Vec::new();
        cluster(json!({})).validate(&create, &object, None, &mut warnings).await.unwrap();
        assert!(warnings.is_empty());
    }
}
