//! PodSecurity: holds pods to the level that their namespace asks for by its labels.
//!
//! Upstream: k8s.io/pod-security-admission

use std::sync::Arc;

use api::field::{Errors, Path};
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
    /// The minor version whose rules hold.
    minor: u32,
    name: String,
}

/// `latest` or `v1.N`, by its minor version.
fn minor(version: &str) -> Option<u32> {
    match version {
        "" | "latest" => Some(u32::MAX),
        other => {
            let digits = other.strip_prefix("v1.")?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            digits.parse().ok().filter(|_| plain)
        }
    }
}

/// What is wrong with a namespace's labels.
fn complaints(labels: &Value) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("metadata.labels");
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("{PREFIX}{mode}");
        if let Some(level) = labels[&key].as_str().filter(|level| !matches!(*level, "privileged" | "baseline" | "restricted")) {
            errors.invalid(&path.key(&key), level, "must be one of privileged, baseline, restricted");
        }
        let key = format!("{PREFIX}{mode}-version");
        if let Some(version) = labels[&key].as_str().filter(|version| version.is_empty() || minor(version).is_none()) {
            errors.invalid(&path.key(&key), version, "must be \"latest\" or \"v1.x\"");
        }
    }
    errors
}

impl Policy {
    /// What the labels say for a mode (`enforce`, `warn`); what cannot be read is restricted where it is enforced, and nothing else.
    fn of(labels: &Value, mode: &str) -> Self {
        let given = text(labels, &format!("{PREFIX}{mode}")).to_owned();
        let version = match text(labels, &format!("{PREFIX}{mode}-version")) {
            version if !version.is_empty() && minor(version).is_some() => version,
            _ => "latest",
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
        Self { level, minor: minor(version).unwrap_or(u32::MAX), name: format!("{word}:{version}") }
    }

    /// What is wrong with a pod, or nothing: `reason (detail), reason (detail)`.
    fn complaint(&self, metadata: &Value, spec: &Value) -> Option<String> {
        let found = checks::run(self.level, self.minor, metadata, spec);
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
            let wrong = complaints(&object["metadata"]["labels"]);
            let before = old.map(|old| complaints(&old["metadata"]["labels"]));
            if !wrong.is_empty() && before.is_none_or(|before| before.0 != wrong.0) {
                return Err(Status::invalid("", "Namespace", text(&object["metadata"], "name"), &wrong));
            }
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
            // Only reasons, without the details that differ between pods.
            let reasons = checks::reasons(policy.level, policy.minor, &pod["metadata"], &pod["spec"]).join(", ");
            if reasons.is_empty() {
                continue;
            }
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
    async fn the_rules_are_those_of_the_version_asked_for() {
        let create = request(Operation::Create, "", "pods", "d", "p");
        let probed = json!({"metadata": {"name": "p"}, "spec": {
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]},
            "containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}],
        }});
        for (version, why) in [
            ("v1.31", "forbidden sysctls (net.ipv4.tcp_rmem)"),
            ("v1.33", ""),
            ("latest", "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")"),
        ] {
            let labels = json!({
                "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": version,
            });
            let answer = cluster(labels).validate(&create, &probed, None, &mut Vec::new()).await;
            match answer {
                Ok(()) => assert_eq!(why, "", "{version}"),
                Err(refused) => {
                    assert_eq!(
                        refused.message,
                        format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:{version}\": {why}")
                    );
                }
            }
        }
        // A user namespace of its own makes root harmless, since 1.35.
        let root = json!({"metadata": {"name": "p"}, "spec": {"hostUsers": false,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
        for (version, fine) in [("v1.34", false), ("v1.35", true)] {
            let labels = json!({
                "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": version,
            });
            assert_eq!(cluster(labels).validate(&create, &root, None, &mut Vec::new()).await.is_ok(), fine, "{version}");
        }
    }

    #[tokio::test]
    async fn labels_that_nobody_can_read_are_refused() {
        let plugin = cluster(json!({}));
        let create = request(Operation::Create, "", "namespaces", "", "n");
        let named = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
        let bad = named(json!({"pod-security.kubernetes.io/warn": "strict", "pod-security.kubernetes.io/audit-version": "1.30"}));
        let refused = plugin.validate(&create, &bad, None, &mut Vec::new()).await.unwrap_err();
        assert_eq!(refused.code, 422);
        assert_eq!(
            refused.message,
            r#"Namespace "n" is invalid: [metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: "1.30": must be "latest" or "v1.x", metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: "strict": must be one of privileged, baseline, restricted]"#
        );
        // What was there before may stay.
        let update = request(Operation::Update, "", "namespaces", "", "n");
        assert!(plugin.validate(&update, &bad, Some(&bad), &mut Vec::new()).await.is_ok());
        assert!(plugin.validate(&update, &bad, Some(&named(json!({}))), &mut Vec::new()).await.is_err());
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
