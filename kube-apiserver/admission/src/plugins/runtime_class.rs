//! RuntimeClass: a pod takes its runtime class's overhead and scheduling.
//!
//! Upstream: plugin/pkg/admission/runtimeclass

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{items, text};

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(RuntimeClass { lister: host.lister.clone() })
}

struct RuntimeClass {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for RuntimeClass {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(class) = self.class(request, object)? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if !overhead.is_null() {
            let given = &object["spec"]["overhead"];
            if !given.is_null() && given != overhead {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(request.forbidden(object, why));
            }
            object["spec"]["overhead"] = overhead.clone();
        }
        let selector = class["scheduling"]["nodeSelector"].as_object().cloned().unwrap_or_default();
        for (key, value) in selector {
            let given = &object["spec"]["nodeSelector"][&key];
            if !given.is_null() && *given != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or(""),
                    given.as_str().unwrap_or("")
                );
                return Err(request.forbidden(object, why));
            }
            if !object["spec"]["nodeSelector"].is_object() {
                object["spec"]["nodeSelector"] = json!({});
            }
            object["spec"]["nodeSelector"][&key] = value;
        }
        for toleration in items(&class["scheduling"], "tolerations") {
            if items(&object["spec"], "tolerations").contains(toleration) {
                continue;
            }
            match object["spec"]["tolerations"].as_array_mut() {
                Some(list) => list.push(toleration.clone()),
                None => object["spec"]["tolerations"] = json!([toleration]),
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let class = self.class(request, object)?;
        let given = &object["spec"]["overhead"];
        let allowed = class.as_ref().map(|class| class["overhead"]["podFixed"].clone()).unwrap_or_default();
        if given.is_null() || *given == allowed {
            return Ok(());
        }
        let why = if class.is_none() {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        } else {
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        };
        Err(request.forbidden(object, why))
    }
}

impl RuntimeClass {
    fn class(&self, request: &Attributes, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
        let name = text(&pod["spec"], "runtimeClassName");
        if name.is_empty() {
            return Ok(None);
        }
        match self.lister.get("node.k8s.io", "runtimeclasses", "", name) {
            Some(class) => Ok(Some(class)),
            None => Err(request.forbidden(pod, format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn overhead_and_scheduling_come_from_the_class() {
        let class = json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "1"}}, "scheduling": {"nodeSelector": {"vm": "y"}}});
        let plugin = build(&Cluster::default().with("node.k8s.io", "runtimeclasses", "", class).host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = admitted(&plugin, &create, json!({"spec": {"runtimeClassName": "vm"}})).await.unwrap();
        assert_eq!(pod["spec"], json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}, "nodeSelector": {"vm": "y"}}));
        let missing = admitted(&plugin, &create, json!({"spec": {"runtimeClassName": "x"}})).await.unwrap_err();
        assert!(missing.message.contains("RuntimeClass \"x\" not found"));
        let other = json!({"spec": {"runtimeClassName": "vm", "nodeSelector": {"vm": "n"}}});
        assert!(admitted(&plugin, &create, other).await.is_err());
    }
}
