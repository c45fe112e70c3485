//! Priority: turns a pod's priority class name into a number.
//!
//! Upstream: plugin/pkg/admission/priority

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

const GROUP: &str = "scheduling.k8s.io";
/// Classes that exist in every cluster, known even before their objects are made.
const SYSTEM: &[(&str, i64)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const PREEMPT: &str = "PreemptLowerPriority";

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(Priority { lister: host.lister.clone() })
}

struct Priority {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for Priority {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        match request.operation {
            Operation::Create => self.pod(request, object),
            Operation::Update => {
                // Clients of old leave the number out of updates.
                if let Some(old) = old {
                    for key in ["priority", "preemptionPolicy"] {
                        if object["spec"][key].is_null() && !old["spec"][key].is_null() {
                            object["spec"][key] = old["spec"][key].clone();
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is(GROUP, "priorityclasses") || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if object["globalDefault"] != true {
            return Ok(());
        }
        let name = text(&object["metadata"], "name");
        match self.default() {
            Some(other) if text(&other["metadata"], "name") != name => Err(request.forbidden(
                object,
                format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    text(&other["metadata"], "name")
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Priority {
    /// The default class; the lowest where several claim to be.
    fn default(&self) -> Option<Arc<Value>> {
        self.lister
            .list(GROUP, "priorityclasses", None)
            .into_iter()
            .filter(|class| class["globalDefault"] == true)
            .min_by_key(|class| class["value"].as_i64().unwrap_or(0))
    }

    fn pod(&self, request: &Attributes, pod: &mut Value) -> Result<(), Status> {
        let name = text(&pod["spec"], "priorityClassName").to_owned();
        let (value, policy) = if name.is_empty() {
            match self.default() {
                Some(class) => {
                    pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
                    rank(&class)
                }
                None => (0, PREEMPT.to_owned()),
            }
        } else if let Some(class) = self.lister.get(GROUP, "priorityclasses", "", &name) {
            rank(&class)
        } else if let Some((_, value)) = SYSTEM.iter().find(|(system, _)| *system == name) {
            (*value, PREEMPT.to_owned())
        } else {
            return Err(request.forbidden(pod, format!("no PriorityClass with name {name} was found")));
        };
        if let Some(given) = pod["spec"]["priority"].as_i64()
            && given != value
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(request.forbidden(pod, why));
        }
        pod["spec"]["priority"] = value.into();
        let given = text(&pod["spec"], "preemptionPolicy");
        if !given.is_empty() && given != policy {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.forbidden(pod, why));
        }
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }
}

fn rank(class: &Value) -> (i64, String) {
    let policy = match text(class, "preemptionPolicy") {
        "" => PREEMPT,
        policy => policy,
    };
    (class["value"].as_i64().unwrap_or(0), policy.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn the_class_decides_the_number() {
        let cluster = Cluster::default()
            .with(GROUP, "priorityclasses", "", json!({"metadata": {"name": "low"}, "value": 5, "preemptionPolicy": "Never"}))
            .with(GROUP, "priorityclasses", "", json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true}));
        let plugin = build(&cluster.host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let spec = |spec: Value| json!({"spec": spec});
        let pod = admitted(&plugin, &create, spec(json!({}))).await.unwrap();
        assert_eq!(pod["spec"], json!({"priorityClassName": "usual", "priority": 7, "preemptionPolicy": PREEMPT}));
        let pod = admitted(&plugin, &create, spec(json!({"priorityClassName": "low"}))).await.unwrap();
        assert_eq!((pod["spec"]["priority"].as_i64(), text(&pod["spec"], "preemptionPolicy")), (Some(5), "Never"));
        let pod = admitted(&plugin, &create, spec(json!({"priorityClassName": "system-node-critical"}))).await.unwrap();
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        for (bad, why) in [
            (json!({"priorityClassName": "none"}), "no PriorityClass with name none was found"),
            (json!({"priorityClassName": "low", "priority": 6}), "the integer value of priority (6) must not be provided"),
        ] {
            assert!(admitted(&plugin, &create, spec(bad)).await.unwrap_err().message.contains(why));
        }
    }
}
