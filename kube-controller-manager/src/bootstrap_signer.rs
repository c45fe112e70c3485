//! Signs the ConfigMap `cluster-info` of kube-public with every bootstrap token, so that a joining node, which knows only its token,
//! can trust the certificate in it.
//!
//! Upstream: pkg/controller/bootstrap/bootstrapsigner.go

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::watcher;

use crate::api_error;
use crate::bootstrap_token::{NAMESPACE, SECRET_TYPE, for_signing};
use crate::context::{Context, Requeue};
use crate::key::Key;

const MAP: (&str, &str) = ("kube-public", "cluster-info");
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

/// Tokens run out without anything changing.
const RECHECK: Duration = Duration::from_secs(60);

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let watched = ctx.informers.client();
    let fields = format!("metadata.name={}", MAP.1);
    let maps = ctx.watch(Api::<ConfigMap>::namespaced(watched.clone(), MAP.0), watcher::Config::default().fields(&fields));
    let fields = format!("type={SECRET_TYPE}");
    let secrets = ctx.watch(Api::<Secret>::namespaced(watched, NAMESPACE), watcher::Config::default().fields(&fields));
    let queue = ctx.queue();
    let key = Key::new(MAP.0, MAP.1);
    let (feed, one) = (queue.clone(), key.clone());
    maps.on_change(move |_| feed.add(one.clone()));
    let (feed, one) = (queue.clone(), key.clone());
    secrets.on_change(move |_| feed.add(one.clone()));
    maps.synced().await;
    secrets.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, maps, secrets) = (this.clone(), maps.clone(), secrets.clone());
        async move {
            let Some(map) = maps.get(&key) else { return Ok(Requeue::No) };
            let tokens = secrets.list();
            if let Some(signed) = plan(&map, &tokens, ctx.now())? {
                let written = ctx.namespaced::<ConfigMap>(MAP.0).replace(MAP.1, &PostParams::default(), &signed).await;
                api_error::ignore_not_found(written)?;
            }
            Ok(if tokens.is_empty() { Requeue::No } else { Requeue::After(RECHECK) })
        }
    });
    Ok(())
}

/// The map with the signatures it should have, or `None` if it has them.
fn plan(map: &ConfigMap, tokens: &[Arc<Secret>], now: jiff::Timestamp) -> anyhow::Result<Option<ConfigMap>> {
    let data = map.data.clone().unwrap_or_default();
    let Some(content) = data.get("kubeconfig") else { return Ok(None) };
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE_PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (id, secret) in tokens.iter().filter_map(|token| for_signing(token, now)) {
        wanted.insert(format!("{SIGNATURE_PREFIX}{id}"), sign(content, &id, &secret)?);
    }
    Ok((wanted != data).then(|| ConfigMap { data: Some(wanted), ..map.clone() }))
}

/// A detached JWS (HS256) over `content`; deterministic, so that an unchanged map is not written again.
/// Upstream: cluster-bootstrap/token/jws.ComputeDetachedSignature.
fn sign(content: &str, id: &str, secret: &str) -> anyhow::Result<String> {
    let header = URL_SAFE_NO_PAD.encode(serde_json::json!({"alg": "HS256", "kid": id}).to_string());
    let payload = URL_SAFE_NO_PAD.encode(content);
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let message = format!("{header}.{payload}");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256)
        .context("failed to sign cluster-info")?;
    Ok(format!("{header}..{signature}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"kubeconfig": "content", "jws-kubeconfig-gone00": "x"}})).unwrap();
        let b64 = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
        let token: Secret =
            serde_json::from_value(json!({"metadata": {"name": "bootstrap-token-abcdef"}, "data": {"token-id": b64("abcdef"),
            "token-secret": b64("0123456789abcdef"), "usage-bootstrap-signing": b64("true")}}))
            .unwrap();
        let signed = plan(&map, &[Arc::new(token.clone())], now).unwrap().unwrap();
        let keys: Vec<_> = signed.data.as_ref().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig"]);
        assert!(plan(&signed, &[Arc::new(token)], now).unwrap().is_none());
    }

    #[test]
    fn the_signature_is_the_one_of_upstreams_test() {
        // staging/src/k8s.io/cluster-bootstrap/token/jws/jws_test.go
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        let content = "Hello from the other side. I must have called a thousand times.";
        assert_eq!(sign(content, "joshua", "my voice is my passcode").unwrap(), expected);
    }
}
