//! LimitRanger: fills in what containers ask for and refuses what is out of a namespace's limits.
//!
//! Upstream: plugin/pkg/admission/limitranger

use std::sync::Arc;

use api::lister::Lister;
use api::quantity::Quantity;
use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{items, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(LimitRanger { lister: host.lister.clone() })
}

struct LimitRanger {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for LimitRanger {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !concerns(request, old) || request.resource != "pods" {
            return Ok(());
        }
        for range in self.ranges(request) {
            fill(object, &range);
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !concerns(request, old) {
            return Ok(());
        }
        for range in self.ranges(request) {
            let errors = if request.resource == "pods" { pod_errors(object, &range) } else { claim_errors(object, &range) };
            match errors.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(object, one)),
                many => return Err(request.forbidden(object, format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

impl LimitRanger {
    fn ranges(&self, request: &Attributes) -> Vec<Arc<Value>> {
        self.lister.list("", "limitranges", Some(&request.namespace))
    }
}

/// Pods when made or resized, claims when made or changed; never what is being deleted.
fn concerns(request: &Attributes, old: Option<&Value>) -> bool {
    if old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null()) || !request.group.is_empty() {
        return false;
    }
    match (request.resource.as_str(), request.subresource.as_str(), request.operation) {
        ("pods", "", Operation::Create) | ("pods", "resize", Operation::Update) => true,
        ("persistentvolumeclaims", "", operation) => matches!(operation, Operation::Create | Operation::Update),
        _ => false,
    }
}

fn fill(pod: &mut Value, range: &Value) {
    let mut notes = Vec::new();
    for (key, what) in [("initContainers", "init container"), ("containers", "container")] {
        let Some(containers) = pod["spec"][key].as_array_mut() else { continue };
        for container in containers {
            let mut set = [Vec::new(), Vec::new()];
            for limit in items(&range["spec"], "limits").iter().filter(|limit| text(limit, "type") == "Container") {
                for (index, (from, to)) in [("defaultRequest", "requests"), ("default", "limits")].iter().enumerate() {
                    let Some(defaults) = limit[from].as_object() else { continue };
                    for (name, amount) in defaults {
                        if container["resources"][to][name].is_null() {
                            if !container["resources"].is_object() {
                                container["resources"] = json!({});
                            }
                            if !container["resources"][to].is_object() {
                                container["resources"][to] = json!({});
                            }
                            container["resources"][to][name] = amount.clone();
                            set[index].push(name.clone());
                        }
                    }
                }
            }
            for (names, word) in set.iter_mut().zip(["request", "limit"]) {
                if !names.is_empty() {
                    names.sort();
                    notes.push(format!("{} {word} for {what} {}", names.join(", "), text(container, "name")));
                }
            }
        }
    }
    if !notes.is_empty() {
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

fn pod_errors(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in items(&range["spec"], "limits") {
        match text(limit, "type") {
            "Container" => {
                for key in ["containers", "initContainers"] {
                    for container in items(&pod["spec"], key) {
                        let resources = &container["resources"];
                        check(limit, "Container", &resources["requests"], &resources["limits"], &mut errors);
                    }
                }
            }
            "Pod" => {
                let requests = pod_total(&pod["spec"], "requests");
                let limits = pod_total(&pod["spec"], "limits");
                check(limit, "Pod", &requests, &limits, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

/// What a pod needs at most at any time: containers and sidecars together, or an init container with the sidecars before it.
fn pod_total(spec: &Value, kind: &str) -> Value {
    let mut names: Vec<&String> = Vec::new();
    for key in ["containers", "initContainers"] {
        for container in items(spec, key) {
            names.extend(container["resources"][kind].as_object().into_iter().flat_map(|map| map.keys()));
        }
    }
    names.sort();
    names.dedup();
    let mut out = json!({});
    for name in names {
        let of = |container: &Value| amount(&container["resources"][kind][name]).unwrap_or_else(Quantity::zero);
        let mut total = items(spec, "containers").iter().fold(Quantity::zero(), |sum, container| sum.add(&of(container)));
        let mut sidecars = Quantity::zero();
        let mut peak = Quantity::zero();
        for container in items(spec, "initContainers") {
            if text(container, "restartPolicy") == "Always" {
                sidecars = sidecars.add(&of(container));
                total = total.add(&of(container));
                peak = peak.max(sidecars.clone());
            } else {
                peak = peak.max(sidecars.add(&of(container)));
            }
        }
        out[name] = total.max(peak).to_string().into();
    }
    out
}

fn check(limit: &Value, what: &str, requests: &Value, limits: &Value, errors: &mut Vec<String>) {
    for (name, bound) in limit["min"].as_object().into_iter().flatten() {
        let Some(least) = amount(bound) else { continue };
        let head = format!("minimum {name} usage per {what} is {least}");
        match (amount(&requests[name]), amount(&limits[name])) {
            (None, _) => errors.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < least => errors.push(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < least => errors.push(format!("{head}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, bound) in limit["max"].as_object().into_iter().flatten() {
        let Some(most) = amount(bound) else { continue };
        let head = format!("maximum {name} usage per {what} is {most}");
        match (amount(&requests[name]), amount(&limits[name])) {
            (_, None) => errors.push(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if limit > most => errors.push(format!("{head}, but limit is {limit}")),
            (Some(request), _) if request > most => errors.push(format!("{head}, but request is {request}")),
            _ => {}
        }
    }
    for (name, bound) in limit["maxLimitRequestRatio"].as_object().into_iter().flatten() {
        let Some(most) = amount(bound) else { continue };
        let head = format!("{name} max limit to request ratio per {what} is {most}");
        let request = amount(&requests[name]).filter(|request| !request.is_zero());
        let limit = amount(&limits[name]).filter(|limit| !limit.is_zero());
        match (request, limit) {
            (None, _) => errors.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > most.as_f64() {
                    errors.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn claim_errors(claim: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = &claim["spec"]["resources"]["requests"];
    for limit in items(&range["spec"], "limits").iter().filter(|limit| text(limit, "type") == "PersistentVolumeClaim") {
        for (bounds, word) in [("min", "minimum"), ("max", "maximum")] {
            for (name, bound) in limit[bounds].as_object().into_iter().flatten() {
                let Some(bound) = amount(bound) else { continue };
                let head = format!("{word} {name} usage per PersistentVolumeClaim is {bound}");
                match amount(&requests[name]) {
                    None => errors.push(format!("{head}.  No request is specified")),
                    Some(request) if (word == "minimum" && request < bound) || (word == "maximum" && request > bound) => {
                        errors.push(format!("{head}, but request is {request}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn defaults_are_filled_in_and_noted() {
        let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m", "memory": "1Mi"}}]}});
        let plugin = build(&Cluster::default().with("", "limitranges", "d", range).host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = admitted(
            &plugin,
            &create,
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}),
        )
        .await
        .unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "2", "memory": "1Mi"}, "limits": {"cpu": "1"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn what_is_out_of_bounds_is_told() {
        let range = json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}},
            {"type": "Pod", "max": {"cpu": "1"}}]}});
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "2", "memory": "2Gi"}}}]}});
        assert_eq!(
            pod_errors(&pod, &range),
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 40.000000",
                "maximum cpu usage per Pod is 1, but limit is 2",
            ]
        );
    }
}
