//! Pods.
//!
//! Upstream: pkg/registry/core/pod, SetDefaults_Pod

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::column::{self, text, wide};
use crate::pod_spec::{defaults, qos, validate, warnings};
use crate::resource::{Context, Graceful, Resource};
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

mod phase;
mod update;

/// Rules and columns of Pods.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        update,
        subresource,
        status_update,
        graceful,
        validate: |_, pod, errors| {
            validate_create(pod, errors);
        },
        validate_update: update::validate,
        warnings: |_, new, old| if old.is_some() { Vec::new() } else { warnings::pod(new, "") },
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![
        ("spec.nodeName", |pod| pod.at("spec").text("nodeName").to_owned()),
        ("spec.restartPolicy", |pod| pod.at("spec").text("restartPolicy").to_owned()),
        ("spec.schedulerName", |pod| pod.at("spec").text("schedulerName").to_owned()),
        ("spec.serviceAccountName", |pod| pod.at("spec").text("serviceAccountName").to_owned()),
        ("spec.hostNetwork", |pod| pod.at("spec").truth("hostNetwork").to_string()),
        ("status.phase", |pod| pod.at("status").text("phase").to_owned()),
        ("status.podIP", |pod| pod.at("status").items("podIPs").first().map_or("", |ip| ip.text("ip")).to_owned()),
        ("status.nominatedNodeName", |pod| pod.at("status").text("nominatedNodeName").to_owned()),
    ];
    resource.columns = vec![
        column::name(),
        text("Ready", "The aggregate readiness state of this pod for accepting traffic.", |pod, now| {
            phase::summary(pod, now).ready.into()
        }),
        text("Status", "The aggregate status of the containers in this pod.", |pod, now| phase::summary(pod, now).status.into()),
        text(
            "Restarts",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
            |pod, now| phase::summary(pod, now).restarts.into(),
        ),
        column::age(),
        wide(text(
            "IP",
            "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
            |pod, _| none_if_empty(pod.at("status").items("podIPs").first().map_or("", |ip| ip.text("ip"))),
        )),
        wide(text("Node", "nodeName indicates in which node this pod is scheduled.", |pod, _| {
            none_if_empty(pod.at("spec").text("nodeName"))
        })),
        wide(text(
            "Nominated Node",
            "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods.",
            |pod, _| none_if_empty(pod.at("status").text("nominatedNodeName")),
        )),
        wide(text(
            "Readiness Gates",
            "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\"",
            |pod, _| {
                let gates = pod.at("spec").items("readinessGates");
                if gates.is_empty() {
                    return "<none>".into();
                }
                let conditions = pod.at("status").items("conditions");
                let met = gates
                    .iter()
                    .filter(|gate| {
                        conditions.iter().any(|c| c.text("type") == gate.text("conditionType") && c.text("status") == "True")
                    })
                    .count();
                format!("{met}/{}", gates.len()).into()
            },
        )),
    ];
}

fn none_if_empty(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn default(pod: &mut Value) {
    let spec = pod.child("spec");
    defaults::pod_spec(spec);
    defaults::pod_only(spec);
    // Pods made long ago may hold it; templates are left alone. Upstream: Convert_v1_Pod_To_core_Pod
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        spec.set("terminationGracePeriodSeconds", 1);
    }
}

fn create(_context: &Context, pod: &mut Value) {
    let class = qos::class(pod.at("spec"));
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if pod.at("spec").len_of("schedulingGates") > 0 {
        status.set(
            "conditions",
            json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null,
            }]),
        );
    }
    pod.set("status", status);
}

fn update(_context: &Context, new: &mut Value, old: &Value) {
    let mut status = old.at("status").clone();
    if status.is_null() {
        status = json!({});
    }
    new.set("status", status);
}

/// `ephemeralcontainers` writes only those; `resize` writes only resources and their policies; `binding` and others are the server's.
fn subresource(context: &Context, new: &mut Value, old: &Value) {
    let asked = std::mem::take(new);
    *new = old.clone();
    if let Some(version) = asked.at("metadata").get("resourceVersion") {
        new.child("metadata").set("resourceVersion", version.clone());
    }
    match context.subresource.as_str() {
        "ephemeralcontainers" => new.child("spec").keep("ephemeralContainers", asked.at("spec")),
        "resize" => {
            for key in ["containers", "initContainers"] {
                for container in new.child("spec").items_mut(key) {
                    let name = container.text("name").to_owned();
                    if let Some(wanted) = asked.at("spec").items(key).iter().find(|wanted| wanted.text("name") == name) {
                        container.keep("resources", wanted);
                        container.keep("resizePolicy", wanted);
                    }
                }
            }
            new.child("spec").keep("resources", asked.at("spec"));
        }
        _ => {}
    }
    let changed = new.at("spec") != old.at("spec");
    let generation = old.at("metadata").int("generation").unwrap_or(0);
    if changed {
        new.child("metadata").set("generation", generation + 1);
    }
    default(new);
}

fn status_update(_context: &Context, new: &mut Value, old: &Value) {
    new.child("metadata").keep("ownerReferences", old.at("metadata"));
    new.child("metadata").keep("deletionTimestamp", old.at("metadata"));
    let class = old.at("status").text("qosClass").to_owned();
    let class = if class.is_empty() { qos::class(new.at("spec")).to_owned() } else { class };
    new.child("status").set("qosClass", class);
    // Upstream keeps podIP and the first of podIPs the same; the list wins.
    let status = new.child("status");
    let first = status.items("podIPs").first().map(|ip| ip.text("ip").to_owned());
    match first {
        Some(ip) => status.set("podIP", ip),
        None if !status.text("podIP").is_empty() => {
            let ip = status.text("podIP").to_owned();
            status.set("podIPs", json!([{"ip": ip}]));
        }
        None => {}
    }
    let first = status.items("hostIPs").first().map(|ip| ip.text("ip").to_owned());
    match first {
        Some(ip) => status.set("hostIP", ip),
        None if !status.text("hostIP").is_empty() => {
            let ip = status.text("hostIP").to_owned();
            status.set("hostIPs", json!([{"ip": ip}]));
        }
        None => {}
    }
}

fn validate_create(pod: &Value, errors: &mut Errors) {
    validate_spec(pod, errors);
    let spec = Path::new("spec");
    if pod.at("spec").len_of("ephemeralContainers") > 0 {
        errors.forbidden(&spec.child("ephemeralContainers"), "cannot be set on create");
    }
    if pod.at("spec").len_of("schedulingGates") > 0 && !pod.at("spec").text("nodeName").is_empty() {
        errors.forbidden(&spec.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What holds for pods whenever they are written, beyond what holds in templates too.
fn validate_spec(pod: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = pod.at("spec");
    validate::pod_spec(spec, &path, errors);
    if spec.text("serviceAccountName").is_empty() {
        for (index, volume) in spec.items("volumes").iter().enumerate() {
            for (source_index, source) in volume.at("projected").items("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let path = path.child("volumes").index(index).child("projected.sources").index(source_index);
                    errors.forbidden(
                        &path.child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    );
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (index, container) in spec.items(key).iter().enumerate() {
            let image = container.text("image");
            if image.trim() != image {
                errors.invalid(
                    &path.child(key).index(index).child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                );
            }
        }
    }
}

/// The pod's own grace unless the client says otherwise; none for pods that no kubelet has or that have ended.
fn graceful(pod: &Value, requested: Option<i64>) -> Graceful {
    let seconds = requested.or(pod.at("spec").int("terminationGracePeriodSeconds")).unwrap_or(0);
    let unscheduled = pod.at("spec").text("nodeName").is_empty();
    let ended = matches!(pod.at("status").text("phase"), "Succeeded" | "Failed");
    if unscheduled || ended || seconds == 0 {
        return Graceful::No;
    }
    Graceful::Seconds(if seconds < 0 { 1 } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_on_a_node_are_deleted_gracefully() {
        let mut pod = json!({"spec": {"terminationGracePeriodSeconds": 30}, "status": {"phase": "Pending"}});
        assert_eq!(graceful(&pod, None), Graceful::No);
        pod["spec"]["nodeName"] = "n".into();
        assert_eq!(graceful(&pod, None), Graceful::Seconds(30));
        assert_eq!(graceful(&pod, Some(5)), Graceful::Seconds(5));
        assert_eq!(graceful(&pod, Some(0)), Graceful::No);
        assert_eq!(graceful(&pod, Some(-3)), Graceful::Seconds(1));
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(graceful(&pod, None), Graceful::No);
    }
}
