//! ResourceQuota: no namespace takes more than its quotas allow, however many ask at once.
//!
//! Usage is charged before the object is stored, by a compare-and-swap on each quota; the quota controller later sets right what was
//! charged for objects that were not stored after all.
//!
//! Upstream: apiserver/pkg/admission/plugin/resourcequota

use std::collections::BTreeMap;
use std::sync::Arc;

use api::lister::Lister;
use api::quantity::Quantity;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::{Host, QuotaWriter};
use crate::pod::text;

mod usage;

/// Tries of a compare-and-swap. Upstream: 3 rounds for each waiting batch; here each request tries by itself.
const TRIES: usize = 16;

/// Amounts by resource name.
type Amounts = BTreeMap<String, Quantity>;

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(ResourceQuota { lister: host.lister.clone(), quotas: host.quotas.clone() })
}

struct ResourceQuota {
    lister: Arc<dyn Lister>,
    quotas: Arc<dyn QuotaWriter>,
}

#[async_trait]
impl Plugin for ResourceQuota {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if request.namespace.is_empty() || request.dry_run && request.operation == Operation::Delete {
            return Ok(());
        }
        let resize = request.group.is_empty() && request.resource == "pods" && request.subresource == "resize";
        if !request.subresource.is_empty() && !resize {
            return Ok(());
        }
        let known = |resource: &str| !self.lister.list("", resource, Some(&request.namespace)).is_empty();
        if !known("resourcequotas") {
            return Ok(());
        }
        let charge = match request.operation {
            Operation::Create => usage::of(&request.group, &request.resource, object),
            Operation::Update => increase(
                &usage::of(&request.group, &request.resource, object),
                &old.map(|old| usage::of(&request.group, &request.resource, old)).unwrap_or_default(),
            ),
            _ => return Ok(()),
        };
        if request.operation == Operation::Update && charge.is_empty() {
            return Ok(());
        }
        for _ in 0..TRIES {
            match self.charge(request, object, &charge).await {
                Err(status) if status.code == 409 => {}
                outcome => return outcome,
            }
        }
        Err(Status::conflict(
            "",
            "resourcequotas",
            "",
            "the quotas of the namespace are being changed too often; please try again",
        ))
    }
}

impl ResourceQuota {
    async fn charge(&self, request: &Attributes, object: &Value, charge: &Amounts) -> Result<(), Status> {
        let mut writes = Vec::new();
        for quota in self.quotas.read(&request.namespace).await? {
            if !usage::in_scope(&quota, &request.group, &request.resource, object) {
                continue;
            }
            // Only what the controller has counted holds: before that nobody knows what is in use.
            let hard = amounts(&quota["status"]["hard"]);
            let relevant: Amounts =
                charge.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(n, a)| (n.clone(), a.clone())).collect();
            if request.operation == Operation::Create {
                missing(request, object, &quota, &hard)?;
            }
            if relevant.is_empty() {
                continue;
            }
            let used = amounts(&quota["status"]["used"]);
            let mut exceeded = Vec::new();
            for (name, amount) in &relevant {
                let total = used.get(name).map_or_else(|| amount.clone(), |used| used.add(amount));
                if total > hard[name] && amount.sign() > 0 {
                    exceeded.push(name.clone());
                }
            }
            if !exceeded.is_empty() {
                let list = |of: &Amounts| {
                    exceeded
                        .iter()
                        .map(|name| format!("{name}={}", of.get(name).map_or_else(|| "0".to_owned(), Quantity::to_string)))
                        .collect::<Vec<_>>()
                        .join(",")
                };
                let name = text(&quota["metadata"], "name");
                return Err(request.forbidden(
                    object,
                    format!(
                        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                        list(&relevant),
                        list(&used),
                        list(&hard)
                    ),
                ));
            }
            let mut quota = quota;
            for (name, amount) in &relevant {
                let total = used.get(name).map_or_else(|| amount.clone(), |used| used.add(amount));
                quota["status"]["used"][name] = total.to_string().into();
            }
            writes.push(quota);
        }
        if request.dry_run {
            return Ok(());
        }
        for quota in writes {
            self.quotas.write_status(&quota).await?;
        }
        Ok(())
    }
}

/// A quota on CPU or memory wants every container to say how much it takes.
fn missing(request: &Attributes, object: &Value, quota: &Value, hard: &Amounts) -> Result<(), Status> {
    if !(request.group.is_empty() && request.resource == "pods") {
        return Ok(());
    }
    let missing = usage::unstated(object, hard.keys().map(String::as_str));
    if missing.is_empty() {
        return Ok(());
    }
    let name = text(&quota["metadata"], "name");
    Err(request.forbidden(object, format!("failed quota: {name}: must specify {}", missing.join("; "))))
}

fn amounts(map: &Value) -> Amounts {
    map.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

/// What a change takes more than before; what it gives back is left to the controller.
fn increase(after: &Amounts, before: &Amounts) -> Amounts {
    after
        .iter()
        .filter_map(|(name, amount)| {
            let more = before.get(name).map_or_else(|| amount.clone(), |before| amount.sub(before));
            (more.sign() > 0).then(|| (name.clone(), more))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    struct Store {
        quota: Mutex<(Value, u64)>,
    }

    #[async_trait]
    impl QuotaWriter for Store {
        async fn read(&self, _namespace: &str) -> Result<Vec<Value>, Status> {
            let (mut quota, version) = self.quota.lock().clone();
            quota["metadata"]["resourceVersion"] = version.to_string().into();
            // Others get their turn between read and write.
            tokio::task::yield_now().await;
            Ok(vec![quota])
        }

        async fn write_status(&self, quota: &Value) -> Result<(), Status> {
            let mut held = self.quota.lock();
            if quota["metadata"]["resourceVersion"].as_str() != Some(&held.1.to_string()) {
                return Err(Status::conflict("", "resourcequotas", "q", "changed"));
            }
            *held = (quota.clone(), held.1 + 1);
            Ok(())
        }
    }

    fn plugin(hard: Value) -> (Arc<ResourceQuota>, Arc<Store>) {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard}});
        let store = Arc::new(Store { quota: Mutex::new((quota.clone(), 1)) });
        let host = Cluster::default().with("", "resourcequotas", "d", quota).host();
        (Arc::new(ResourceQuota { lister: host.lister, quotas: store.clone() }), store)
    }

    #[tokio::test]
    async fn many_at_once_never_exceed_the_quota() {
        let (plugin, store) = plugin(json!({"pods": "3", "requests.cpu": "1"}));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}});
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (plugin, pod) = (plugin.clone(), pod.clone());
            tasks.push(tokio::spawn(async move {
                let create = request(Operation::Create, "", "pods", "d", "p");
                plugin.validate(&create, &pod, None, &mut Vec::new()).await.is_ok()
            }));
        }
        let mut admitted = 0;
        for task in tasks {
            admitted += usize::from(task.await.unwrap());
        }
        assert_eq!(admitted, 3);
        assert_eq!(store.quota.lock().0["status"]["used"], json!({"pods": "3", "requests.cpu": "900m"}));
    }

    #[tokio::test]
    async fn a_refusal_names_the_numbers() {
        let (plugin, _) = plugin(json!({"requests.cpu": "1"}));
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = |cpu: &str| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let refused = plugin.validate(&create, &pod("2"), None, &mut Vec::new()).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=0, limited: requests.cpu=1"
        );
        let silent = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let refused = plugin.validate(&create, &silent, None, &mut Vec::new()).await.unwrap_err();
        assert_eq!(refused.message, "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    }
}
