//! Fills Secrets of type `kubernetes.io/service-account-token` with a token that does not expire, as older software wants it, and
//! removes them with their service account.
//!
//! Upstream: pkg/controller/serviceaccount/tokens_controller.go

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};

use crate::api_error;
use crate::config::{Config, workers};
use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

struct Controller {
    ctx: Context,
    accounts: Store<ServiceAccount>,
    secrets: Store<Secret>,
    signer: Signer,
    root_ca: Option<String>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let Some(file) = Config::file(&ctx.config.options.service_account_private_key_file) else {
        tracing::info!("Controller is disabled because there is no private key, see --service-account-private-key-file");
        return Ok(());
    };
    let pem = std::fs::read(&file)
        .with_context(|| format!("error reading key for service account token controller {}", file.display()))?;
    let root_ca = match Config::file(&ctx.config.options.root_ca_file) {
        Some(file) => {
            Some(std::fs::read_to_string(&file).with_context(|| format!("error reading root-ca-file at {}", file.display()))?)
        }
        None => None,
    };
    let fields = format!("type={TYPE}");
    let secrets = ctx.watch(Api::<Secret>::all(ctx.informers.client()), watcher::Config::default().fields(&fields));
    let controller = Arc::new(Controller { accounts: ctx.store(), secrets, signer: Signer::new(&pem)?, root_ca, ctx });
    let queue = controller.ctx.queue();
    controller.secrets.feed(&queue);
    let (this, feed) = (Arc::clone(&controller), queue.clone());
    controller.accounts.on_change(move |change| {
        if matches!(change, Change::Updated(..)) {
            return;
        }
        let account = change.object();
        for secret in this.secrets.in_namespace(&account.namespace().unwrap_or_default()) {
            if secret.annotations().get(NAME) == Some(&account.name_any()) {
                feed.add(Key::of(secret.as_ref()));
            }
        }
    });
    controller.accounts.synced().await;
    controller.secrets.synced().await;
    let this = Arc::clone(&controller);
    controller.ctx.run(&queue, workers(controller.ctx.config.options.concurrent_serviceaccount_token_syncs), move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Requeue::No) };
        let Some(name) = secret.annotations().get(NAME).filter(|name| !name.is_empty()) else { return Ok(Requeue::No) };
        let wanted_uid = secret.annotations().get(UID);
        let api = self.ctx.namespaced::<Secret>(&key.namespace);
        let fits = |account: &ServiceAccount| wanted_uid.is_none_or(|uid| account.uid().as_ref() == Some(uid));
        let account = match self.accounts.get(&Key::new(&key.namespace, name)) {
            Some(account) if fits(&account) => (*account).clone(),
            // The cache may be behind: a token is not deleted on its word.
            _ => match self.ctx.namespaced::<ServiceAccount>(&key.namespace).get_opt(name).await? {
                Some(account) if fits(&account) => account,
                _ => {
                    let params =
                        DeleteParams::default().preconditions(Preconditions { uid: secret.uid(), resource_version: None });
                    api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
                    return Ok(Requeue::No);
                }
            },
        };
        let Some(changed) =
            plan(&secret, &account, self.root_ca.as_deref(), |account, secret| self.signer.token(account, secret))?
        else {
            return Ok(Requeue::No);
        };
        api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &changed).await)?;
        Ok(Requeue::No)
    }
}

/// The secret with all it should hold, or `None` when it does.
fn plan(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca: Option<&str>,
    token: impl FnOnce(&ServiceAccount, &Secret) -> anyhow::Result<String>,
) -> anyhow::Result<Option<Secret>> {
    let mut changed = secret.clone();
    let data = changed.data.get_or_insert_default();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    if let Some(ca) = root_ca {
        data.insert("ca.crt".to_owned(), bytes(ca));
    }
    data.entry("namespace".to_owned()).or_insert_with(|| bytes(&account.namespace().unwrap_or_default()));
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        data.insert("token".to_owned(), bytes(&token(account, secret)?));
    }
    changed.annotations_mut().insert(NAME.to_owned(), account.name_any());
    changed.annotations_mut().insert(UID.to_owned(), account.uid().unwrap_or_default());
    Ok((changed != *secret).then_some(changed))
}

struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    id: String,
}

impl Signer {
    fn new(pem: &[u8]) -> anyhow::Result<Signer> {
        let text = String::from_utf8_lossy(pem);
        let pair = rcgen::KeyPair::from_pem(&text).context("error parsing the service account key")?;
        // The key's name is the digest of its public half. Upstream: keyIDFromPublicKey.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&pair)));
        let (key, algorithm) = match EncodingKey::from_rsa_pem(pem) {
            Ok(key) => (key, Algorithm::RS256),
            Err(_) => (EncodingKey::from_ec_pem(pem).context("error parsing the service account key")?, Algorithm::ES256),
        };
        Ok(Signer { key, algorithm, id })
    }

    /// Upstream: serviceaccount.LegacyClaims.
    fn token(&self, account: &ServiceAccount, secret: &Secret) -> anyhow::Result<String> {
        let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
        let claims = BTreeMap::from([
            ("iss", "kubernetes/serviceaccount".to_owned()),
            ("kubernetes.io/serviceaccount/namespace", namespace.clone()),
            ("kubernetes.io/serviceaccount/secret.name", secret.name_any()),
            ("kubernetes.io/serviceaccount/service-account.name", name.clone()),
            ("kubernetes.io/serviceaccount/service-account.uid", account.uid().unwrap_or_default()),
            ("sub", format!("system:serviceaccount:{namespace}:{name}")),
        ]);
        let header = Header { kid: Some(self.id.clone()), typ: None, ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims, &self.key).context("failed to sign a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_get_what_is_missing_and_keep_their_token() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "d", "uid": "u"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "s", "annotations": {NAME: "a"}}})).unwrap();
        let filled = plan(&secret, &account, Some("CA"), |_, _| Ok("T".to_owned())).unwrap().unwrap();
        let data = filled.data.as_ref().unwrap();
        assert_eq!(["ca.crt", "namespace", "token"].map(|key| String::from_utf8(data[key].0.clone()).unwrap()), ["CA", "d", "T"]);
        assert_eq!(filled.annotations()[UID], "u");
        assert!(plan(&filled, &account, Some("CA"), |_, _| anyhow::bail!("not asked")).unwrap().is_none());
    }
}
