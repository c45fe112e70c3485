//! ServiceAccount: gives every pod an identity and its token.
//!
//! Upstream: plugin/pkg/admission/serviceaccount

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use rand::Rng;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{is_mirror, items, text};

/// Where clients in pods look for their token. Upstream: DefaultAPITokenMountPath
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Seconds: an hour and seven, by which such tokens are told from others. Upstream: WarnOnlyBoundTokenExpirationSeconds
const TOKEN_SECONDS: i64 = 3607;

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(ServiceAccount { lister: host.lister.clone() })
}

struct ServiceAccount {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for ServiceAccount {
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
        if is_mirror(object) {
            return mirror(request, object);
        }
        if text(&object["spec"], "serviceAccountName").is_empty() {
            object["spec"]["serviceAccountName"] = "default".into();
        }
        let name = text(&object["spec"], "serviceAccountName").to_owned();
        object["spec"]["serviceAccount"] = name.clone().into();
        let account = self.account(request, object, &name)?;
        if automount(&account, object) {
            mount_token(object);
        }
        if items(&object["spec"], "imagePullSecrets").is_empty() && !items(&account, "imagePullSecrets").is_empty() {
            object["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
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
        if !request.is("", "pods") || request.operation != Operation::Create || is_mirror(object) {
            return Ok(());
        }
        self.account(request, object, text(&object["spec"], "serviceAccountName")).map(|_| ())
    }
}

impl ServiceAccount {
    fn account(&self, request: &Attributes, object: &Value, name: &str) -> Result<Arc<Value>, Status> {
        self.lister.get("", "serviceaccounts", &request.namespace, name).ok_or_else(|| {
            let namespace = &request.namespace;
            request.forbidden(
                object,
                format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
            )
        })
    }
}

/// Static pods come without the API: they may not lean on it.
fn mirror(request: &Attributes, pod: &Value) -> Result<(), Status> {
    let refuse = |what: &str| Err(request.forbidden(pod, format!("a mirror pod may not reference {what}")));
    if !text(&pod["spec"], "serviceAccountName").is_empty() {
        return refuse("service accounts");
    }
    for volume in items(&pod["spec"], "volumes") {
        if volume["secret"].is_object() {
            return refuse("secrets");
        }
        for source in items(&volume["projected"], "sources") {
            if source["serviceAccountToken"].is_object() {
                return refuse("serviceaccounts");
            }
        }
    }
    Ok(())
}

fn automount(account: &Value, pod: &Value) -> bool {
    pod["spec"]["automountServiceAccountToken"].as_bool().or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    // A volume that already is one of ours serves again.
    let existing = items(&pod["spec"], "volumes")
        .iter()
        .find(|volume| text(volume, "name").starts_with(VOLUME_PREFIX) && volume["projected"].is_object())
        .map(|volume| text(volume, "name").to_owned());
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut mounted = false;
    for key in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"][key].as_array_mut() else { continue };
        for container in containers {
            if items(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match container["volumeMounts"].as_array_mut() {
                Some(list) => list.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
        },
    });
    match pod["spec"]["volumes"].as_array_mut() {
        Some(list) => list.push(volume),
        None => pod["spec"]["volumes"] = json!([volume]),
    }
}

/// Five letters as in generated names.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    fn cluster() -> Cluster {
        Cluster::default().with(
            "",
            "serviceaccounts",
            "d",
            json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "s"}]}),
        )
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_and_its_token() {
        let plugin = build(&cluster().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = admitted(&plugin, &create, json!({"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}}))
            .await
            .unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
        let volume = text(&pod["spec"]["volumes"][0], "name");
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        for container in ["containers", "initContainers"] {
            assert_eq!(pod["spec"][container][0]["volumeMounts"][0]["name"], volume);
        }
        let plain = json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "c"}]}});
        assert!(admitted(&plugin, &create, plain).await.unwrap()["spec"]["volumes"].is_null());
    }

    #[tokio::test]
    async fn unknown_accounts_and_mirror_pods_with_accounts_are_refused() {
        let plugin = build(&cluster().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let unknown = admitted(&plugin, &create, json!({"spec": {"serviceAccountName": "x"}})).await.unwrap_err();
        assert_eq!(
            unknown.message,
            r#"pods "p" is forbidden: error looking up service account d/x: serviceaccount "x" not found"#
        );
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}}, "spec": {}});
        assert_eq!(admitted(&plugin, &create, mirror.clone()).await.unwrap(), mirror);
        let mut with_account = mirror;
        with_account["spec"]["serviceAccountName"] = "default".into();
        assert!(admitted(&plugin, &create, with_account).await.is_err());
    }
}
