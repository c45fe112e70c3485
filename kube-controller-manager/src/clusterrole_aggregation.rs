//! Fills ClusterRoles that have an aggregation rule with the rules of the roles it selects.
//!
//! Upstream: pkg/controller/clusterroleaggregation

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error;
use crate::context::{Context, Requeue, Store};
use crate::key::Key;
use crate::selector;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (roles, queue) = (ctx.store::<ClusterRole>(), ctx.queue());
    let (feed, all) = (queue.clone(), roles.clone());
    roles.on_change(move |change| {
        // Any role may be part of any aggregate; there are few aggregates. The role itself may not be in the store yet.
        let changed = change.object();
        let aggregates = all.list().into_iter().filter(|role| role.aggregation_rule.is_some()).map(|role| role.name_any());
        for name in aggregates.chain(changed.aggregation_rule.is_some().then(|| changed.name_any())) {
            feed.add(Key::cluster(name));
        }
    });
    roles.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 5, move |key| {
        let (ctx, roles) = (this.clone(), roles.clone());
        async move { sync(&ctx, &roles, &key).await }
    });
    Ok(())
}

async fn sync(ctx: &Context, roles: &Store<ClusterRole>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(role) = roles.get(key) else { return Ok(Requeue::No) };
    let Some(rules) = plan(&role, &roles.list()) else { return Ok(Requeue::No) };
    let api = ctx.cluster::<ClusterRole>();
    // As upstream: server-side apply of the rules alone, so that the labels and annotations stay whose they are.
    let patch = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": key.name}, "rules": rules});
    let applied =
        api.patch(&key.name, &PatchParams::apply("clusterrole-aggregation-controller").force(), &Patch::Apply(&patch)).await;
    match applied {
        Ok(_) => {}
        Err(error) if api_error::is_not_found(&error) => {}
        // Servers without server-side apply.
        Err(kube::Error::Api(status)) if status.code == 415 => {
            let changed = ClusterRole { rules: Some(rules), ..(*role).clone() };
            api.replace(&key.name, &PostParams::default(), &changed).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Requeue::No)
}

/// The rules that the role should have, or `None` if it has them.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    // The store lists by name, which makes the order of rules stable.
    for by in selectors {
        for other in all.iter().filter(|other| other.name_any() != role.name_any() && selector::matches(by, other.labels())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_the_union_of_selected_roles_without_the_role_itself() {
        let role = |name: &str, label: &str, verb: &str| -> Arc<ClusterRole> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": [{"verbs": [verb]}]}),
                )
                .unwrap(),
            )
        };
        let mut admin = (*role("admin", "admin", "old")).clone();
        admin.aggregation_rule =
            serde_json::from_value(json!({"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]})).unwrap();
        let all = [Arc::new(admin.clone()), role("a", "admin", "get"), role("b", "admin", "get"), role("c", "view", "list")];
        let rules = plan(&admin, &all).unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].verbs, ["get"]);
        admin.rules = Some(rules);
        assert!(plan(&admin, &all).is_none());
    }
}
