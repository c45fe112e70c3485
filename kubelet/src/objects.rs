//! What pods refer to: ConfigMaps, Secrets, service-account tokens, services.
//!
//! Environments and pull secrets are read when a container starts; containers that start together share one read. What pods show as
//! files is followed ([`followed`]). A token is kept until four fifths of its life are over.

pub mod followed;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use client::informer::Informer;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use kube::Api;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pod;
use followed::{Followed, Wake};

/// How long one read serves others. Short: a pod that starts must see what was written before it was created.
const SHARE: Duration = Duration::from_millis(500);
/// Entries kept before stale ones are swept.
const SWEEP_AT: usize = 256;

type Slot<T> = Arc<tokio::sync::Mutex<Option<(Instant, Option<Arc<T>>)>>>;
type Cache<T> = Mutex<HashMap<String, Slot<T>>>;

/// Reads objects for pods.
pub struct Objects {
    api: Option<kube::Client>,
    services: Option<Informer<Service>>,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
    tokens: Mutex<HashMap<String, Token>>,
    /// `None`: every read goes to the server (`configMapAndSecretChangeDetectionStrategy` other than `Watch`).
    followed: Option<(Followed<ConfigMap>, Followed<Secret>)>,
    wake: OnceLock<Wake>,
}

#[derive(Clone)]
struct Token {
    text: String,
    refresh_at: Timestamp,
    expires_at: Timestamp,
}

/// Why an object is not to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    /// It does not exist; the message is upstream's.
    #[error("{0}")]
    NotFound(String),
    /// The API server did not answer; retried.
    #[error("{0}")]
    Api(String),
    /// There is no API server.
    #[error("no API server is configured")]
    Standalone,
}

impl Objects {
    /// Reads through `api`; `services` feeds environments; `watch`: files follow their objects by a watch.
    pub fn new(api: Option<kube::Client>, services: Option<Informer<Service>>, watch: bool) -> Self {
        let followed = api.clone().filter(|_| watch).map(|api| (Followed::new(api.clone()), Followed::new(api)));
        Self {
            api,
            services,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            tokens: Mutex::default(),
            followed,
            wake: OnceLock::new(),
        }
    }

    /// Who is told when an object that a pod shows as files has changed. Call once, before pods start.
    pub fn on_change(&self, wake: Wake) {
        let _ = self.wake.set(wake);
    }

    fn wake(&self) -> &Wake {
        self.wake.get_or_init(|| Arc::new(|_| {}))
    }

    /// A ConfigMap whose changes the pod follows from now on.
    ///
    /// # Errors
    /// As [`Objects::config_map`].
    pub async fn follow_config_map(&self, pod: &Pod, name: &str) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        match &self.followed {
            Some((followed, _)) => followed.get(pod::uid(pod), pod::namespace(pod), name, self.wake()).await,
            None => self.config_map(pod::namespace(pod), name).await,
        }
    }

    /// A Secret whose changes the pod follows from now on.
    ///
    /// # Errors
    /// As [`Objects::secret`].
    pub async fn follow_secret(&self, pod: &Pod, name: &str) -> Result<Option<Arc<Secret>>, ObjectError> {
        match &self.followed {
            Some((_, followed)) => followed.get(pod::uid(pod), pod::namespace(pod), name, self.wake()).await,
            None => self.secret(pod::namespace(pod), name).await,
        }
    }

    /// A ConfigMap; `None` where it does not exist.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        self.shared(&self.config_maps, namespace, name).await
    }

    /// A Secret; `None` where it does not exist.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ObjectError> {
        self.shared(&self.secrets, namespace, name).await
    }

    async fn shared<K>(&self, cache: &Cache<K>, namespace: &str, name: &str) -> Result<Option<Arc<K>>, ObjectError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let api = self.api.as_ref().ok_or(ObjectError::Standalone)?;
        let key = format!("{namespace}/{name}");
        let slot = {
            let mut cache = cache.lock();
            if cache.len() > SWEEP_AT {
                cache.retain(|_, slot| {
                    slot.try_lock().map_or(true, |entry| entry.as_ref().is_some_and(|(at, _)| at.elapsed() < SHARE))
                });
            }
            cache.entry(key).or_default().clone()
        };
        let mut entry = slot.lock().await;
        if let Some((at, object)) = entry.as_ref()
            && at.elapsed() < SHARE
        {
            return Ok(object.clone());
        }
        let object = match Api::<K>::namespaced(api.clone(), namespace).get_opt(name).await {
            Ok(object) => object.map(Arc::new),
            Err(error) => return Err(ObjectError::Api(message(&error))),
        };
        *entry = Some((Instant::now(), object.clone()));
        Ok(object)
    }

    /// The services that environments name; `wait`s a moment for the first list. A static pod must not: it may be the API server.
    pub async fn services(&self, wait: bool) -> Vec<Arc<Service>> {
        let Some(services) = &self.services else { return Vec::new() };
        const PATIENCE: Duration = Duration::from_secs(5);
        if wait {
            let _ = tokio::time::timeout(PATIENCE, services.synced()).await;
        }
        services.store().list()
    }

    /// A token of the pod's service account, bound to the pod. A kept one is given while it is fresh enough.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn token(&self, pod: &Pod, audience: &str, expiration_seconds: i64) -> Result<String, ObjectError> {
        Ok(self.token_until(pod, audience, expiration_seconds).await?.0)
    }

    /// The same, and when it expires.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn token_until(
        &self,
        pod: &Pod,
        audience: &str,
        expiration_seconds: i64,
    ) -> Result<(String, Timestamp), ObjectError> {
        let api = self.api.as_ref().ok_or(ObjectError::Standalone)?;
        let account = pod::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let key = format!("{}/{account}/{audience}/{expiration_seconds}", pod::uid(pod));
        let now = Timestamp::now();
        let kept = self.tokens.lock().get(&key).cloned();
        if let Some(token) = kept.as_ref().filter(|token| token.refresh_at > now) {
            return Ok((token.text.clone(), token.expires_at));
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(if audience.is_empty() { Vec::new() } else { vec![audience.to_owned()] }),
                expiration_seconds: Some(expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod::name(pod).into()),
                    uid: Some(pod::uid(pod).into()),
                }),
            }),
            ..Default::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(api.clone(), pod::namespace(pod));
        let status = match accounts.create_token_request(account, &Default::default(), &request).await {
            Ok(answer) => answer.status,
            // An old one that still holds is better than none.
            Err(_) if kept.as_ref().is_some_and(|token| token.expires_at > now) => {
                return Ok(kept.map(|token| (token.text, token.expires_at)).unwrap_or_default());
            }
            Err(error) => return Err(ObjectError::Api(format!("failed to fetch token: {}", message(&error)))),
        };
        let status = status.ok_or_else(|| ObjectError::Api("the token request was answered without a token".into()))?;
        let expires_at = status.expiration_timestamp.map_or(now, |time| time.0);
        let text = status.token.unwrap_or_default();
        let life = expires_at.as_second() - now.as_second();
        // Upstream: refreshed at 80 % of its life, or a day, whichever is sooner.
        let refresh_at = Timestamp::from_second(now.as_second() + (life * 8 / 10).min(86_400)).unwrap_or(now);
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, token| token.expires_at > now);
        tokens.insert(key, Token { text: text.clone(), refresh_at, expires_at });
        Ok((text, expires_at))
    }

    /// Forgets a pod's tokens, and what only it followed.
    pub fn forget(&self, uid: &str) {
        if let Some((config_maps, secrets)) = &self.followed {
            config_maps.forget(uid);
            secrets.forget(uid);
        }
        self.tokens.lock().retain(|key, _| !key.starts_with(uid));
    }
}

/// The server's own words where it has some.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => component::chain(other),
    }
}
