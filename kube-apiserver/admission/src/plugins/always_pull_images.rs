//! AlwaysPullImages: nobody runs an image by knowing its name; whoever runs it must be able to pull it.
//!
//! Upstream: plugin/pkg/admission/alwayspullimages

use std::sync::Arc;

use api::field::{Errors, Path};
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{containers, items, text};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(AlwaysPullImages)
}

struct AlwaysPullImages;

/// Whether a request brings images into a pod.
fn concerns(request: &Attributes, object: &Value, old: Option<&Value>) -> bool {
    let pods = request.group.is_empty()
        && request.resource == "pods"
        && matches!(request.subresource.as_str(), "" | "ephemeralcontainers");
    if !pods || !matches!(request.operation, Operation::Create | Operation::Update) {
        return false;
    }
    let images = |pod: &Value| -> Vec<String> {
        let volumes = items(&pod["spec"], "volumes").iter().map(|volume| text(&volume["image"], "reference").to_owned());
        containers(&pod["spec"]).map(|container| text(container, "image").to_owned()).chain(volumes).collect()
    };
    old.is_none_or(|old| {
        let known = images(old);
        images(object).iter().any(|image| !known.contains(image))
    })
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !concerns(request, object, old) {
            return Ok(());
        }
        for list in LISTS {
            for container in object["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = "Always".into();
            }
        }
        for volume in object["spec"].get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
                image["pullPolicy"] = "Always".into();
            }
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
        if !concerns(request, object, old) {
            return Ok(());
        }
        for list in LISTS {
            for (index, container) in items(&object["spec"], list).iter().enumerate() {
                let policy = text(container, "imagePullPolicy");
                if policy != "Always" {
                    let mut errors = Errors::new();
                    let path = Path::new("spec").child(list).index(index).child("imagePullPolicy");
                    errors.not_supported(&path, policy, &["Always"]);
                    return Err(request.forbidden(object, errors.message()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn every_container_pulls() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c", "imagePullPolicy": "Never"}]}});
        assert!(plugin.validate(&create, &pod, None, &mut Vec::new()).await.is_err());
        let pod = admitted(&plugin, &create, pod).await.unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
        assert!(plugin.validate(&create, &pod, None, &mut Vec::new()).await.is_ok());
    }
}
