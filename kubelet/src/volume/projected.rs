//! `projected`: tokens, ConfigMaps, Secrets and fields in one directory. Upstream: pkg/volume/projected

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, VolumeProjection};

use super::atomic_writer::{File, Payload};
use super::{Context, Plugin, Ready, VolumeError, config_map, downward_api, fs_group, secret, trust_bundle};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~projected",
    can: |volume| volume.projected.is_some(),
    set_up: |context| async move { set_up(&context).await }.boxed(),
    refreshes: true,
};

async fn set_up(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let source = context.volume.projected.clone().unwrap_or_default();
    let mode = source.default_mode.unwrap_or(0o644);
    let sources = source.sources.unwrap_or_default();
    let parts = futures::future::try_join_all(sources.iter().map(|source| part(context, source, mode))).await?;
    let payload: Payload = parts.into_iter().flatten().collect();
    secret::in_memory(context, &payload)
}

async fn part(context: &Context<'_>, source: &VolumeProjection, mode: i32) -> Result<Payload, VolumeError> {
    if let Some(token) = &source.service_account_token {
        return self::token(context, token, mode).await;
    }
    if let Some(source) = &source.config_map {
        let optional = source.optional.unwrap_or(false);
        return match context.kubelet.objects.follow_config_map(context.pod, &source.name).await? {
            Some(map) => config_map::payload(&map, source.items.as_deref(), mode, optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("configmap {:?} not found", source.name))),
        };
    }
    if let Some(source) = &source.secret {
        let optional = source.optional.unwrap_or(false);
        return match context.kubelet.objects.follow_secret(context.pod, &source.name).await? {
            Some(found) => secret::payload(&found, source.items.as_deref(), mode, optional),
            None if optional => Ok(Payload::new()),
            None => Err(VolumeError(format!("secret {:?} not found", source.name))),
        };
    }
    if let Some(source) = &source.downward_api {
        return downward_api::payload(context.pod, source.items.as_deref().unwrap_or_default(), mode, context.facts);
    }
    if let Some(source) = &source.cluster_trust_bundle {
        let data = trust_bundle::read(context.kubelet, source).await?;
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
        return Ok(Payload::from([(source.path.clone(), File { data: data.unwrap_or_default(), mode })]));
    }
    let kind = if source.pod_certificate.is_some() { "podCertificate" } else { "unknown" };
    Err(VolumeError(format!("a projected source of kind {kind} is not supported by this kubelet")))
}

async fn token(context: &Context<'_>, source: &ServiceAccountTokenProjection, mode: i32) -> Result<Payload, VolumeError> {
    let audience = source.audience.as_deref().unwrap_or("");
    let token = context.kubelet.objects.token(context.pod, audience, source.expiration_seconds.unwrap_or(3600)).await?;
    // With a group, only root and the group may read it.
    let mode = if fs_group::of(context.pod).is_some() { 0o600 } else { u32::try_from(mode).unwrap_or(0o644) & 0o777 };
    Ok(Payload::from([(source.path.clone(), File { data: token.into_bytes(), mode })]))
}
