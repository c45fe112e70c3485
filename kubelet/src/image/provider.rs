//! Credential providers: programs that give credentials for images (`--image-credential-provider-config` and `-bin-dir`).
//!
//! A provider gets a `CredentialProviderRequest` on its standard input and answers with a `CredentialProviderResponse`, which is kept
//! as long as it says. Upstream: pkg/credentialprovider/plugin

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::credentials::matches;
use crate::cri::v1::AuthConfig;
use crate::kubelet::Kubelet;
use crate::pod;

/// How long a program may take. Upstream: pluginExecTimeout.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The version of requests and answers.
const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// The providers of a node.
#[derive(Default)]
pub struct Providers {
    bin_dir: PathBuf,
    list: Vec<Provider>,
    cache: Mutex<BTreeMap<String, Kept>>,
}

/// One entry of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    token_attributes: Option<TokenAttributes>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// The provider wants a token of the pod's service account.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenAttributes {
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    #[serde(default)]
    require_service_account: bool,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

struct Kept {
    auth: BTreeMap<String, AuthConfig>,
    until: Instant,
}

impl Providers {
    /// Reads the configuration: a file, or a directory whose files are taken in the order of their names.
    ///
    /// # Errors
    /// It cannot work; the message says what to change.
    pub fn load(config: &Path, bin_dir: &Path) -> Result<Self, String> {
        let mut files = vec![config.to_owned()];
        if config.is_dir() {
            files = std::fs::read_dir(config)
                .map_err(|error| format!("unable to access path {}: {error}", config.display()))?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml"))
                .collect();
            files.sort();
        }
        let mut list: Vec<Provider> = Vec::new();
        for file in &files {
            let text = std::fs::read_to_string(file).map_err(|error| {
                format!("unable to read external registry credential provider configuration from {}: {error}", file.display())
            })?;
            list.extend(parse(&text).map_err(|why| format!("{}: {why}", file.display()))?);
        }
        if list.is_empty() {
            return Err("at least 1 item in plugins is required".into());
        }
        for (index, provider) in list.iter().enumerate() {
            if list[..index].iter().any(|other| other.name == provider.name) {
                return Err(format!("provider name {:?} is not unique", provider.name));
            }
            let program = bin_dir.join(&provider.name);
            if !program.is_file() {
                return Err(format!("plugin binary executable {} did not exist", program.display()));
            }
        }
        Ok(Self { bin_dir: bin_dir.to_owned(), list, cache: Mutex::default() })
    }

    /// What the providers give for an image. A provider that fails is left out and said so in the log.
    pub async fn for_image(&self, kubelet: &Kubelet, pod: &Pod, image: &str) -> Vec<(usize, AuthConfig)> {
        let mut out = Vec::new();
        for provider in self.list.iter().filter(|provider| provider.match_images.iter().any(|pattern| matches(pattern, image))) {
            match self.ask(kubelet, provider, pod, image).await {
                Ok(auth) => out.extend(
                    auth.into_iter().filter(|(pattern, _)| matches(pattern, image)).map(|(pattern, auth)| (pattern.len(), auth)),
                ),
                Err(why) => tracing::error!(
                    provider = provider.name,
                    image,
                    err = why,
                    "Failed getting credentials from external registry credential provider"
                ),
            }
        }
        out
    }

    async fn ask(
        &self,
        kubelet: &Kubelet,
        provider: &Provider,
        pod: &Pod,
        image: &str,
    ) -> Result<BTreeMap<String, AuthConfig>, String> {
        let mut request = json!({"kind": "CredentialProviderRequest", "apiVersion": VERSION, "image": image});
        let mut owner = String::new();
        if let Some(wanted) = &provider.token_attributes {
            match identity(kubelet, wanted, pod).await? {
                Some((token, annotations)) => {
                    owner = match wanted.cache_type.as_str() {
                        "ServiceAccount" => format!("{}/{}/{annotations}", pod::namespace(pod), account(pod)),
                        _ => token.clone(),
                    };
                    request["serviceAccountToken"] = token.into();
                    request["serviceAccountAnnotations"] = annotations;
                }
                None if wanted.require_service_account => return Ok(BTreeMap::new()),
                None => {}
            }
        }
        let host = image.split('/').next().unwrap_or("");
        let keys = [image, host, ""].map(|scope| format!("{}|{owner}|{scope}", provider.name));
        {
            let now = Instant::now();
            let mut cache = self.cache.lock();
            cache.retain(|_, kept| kept.until > now);
            if let Some(kept) = keys.iter().find_map(|key| cache.get(key)) {
                return Ok(kept.auth.clone());
            }
        }
        let answer = self.run(provider, &request).await?;
        let (auth, scope, duration) = read(&answer)?;
        let duration = match (duration, provider.default_cache_duration.as_deref()) {
            (Some(duration), _) => duration,
            (None, Some(text)) => component::duration::parse(text).unwrap_or_default(),
            (None, None) => Duration::ZERO,
        };
        let [image_key, registry_key, global_key] = keys;
        let key = match scope.as_str() {
            "Image" => image_key,
            "Registry" => registry_key,
            _ => global_key,
        };
        if !duration.is_zero() {
            self.cache.lock().insert(key, Kept { auth: auth.clone(), until: Instant::now() + duration });
        }
        Ok(auth)
    }

    async fn run(&self, provider: &Provider, request: &Value) -> Result<Vec<u8>, String> {
        let words = |error: std::io::Error| format!("error execing credential provider plugin {}: {error}", provider.name);
        let mut child = tokio::process::Command::new(self.bin_dir.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(words)?;
        let work = async {
            if let Some(mut input) = child.stdin.take() {
                // A program that does not read its request may still answer.
                let _ = input.write_all(request.to_string().as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(TIMEOUT, work)
            .await
            .map_err(|_| format!("credential provider plugin {} timed out after {} seconds", provider.name, TIMEOUT.as_secs()))?
            .map_err(words)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("error execing credential provider plugin {}: {}: {said}", provider.name, output.status));
        }
        Ok(output.stdout)
    }
}

/// A token of the pod's account for the provider and the annotations it asks for; `None` where the provider gets none.
async fn identity(kubelet: &Kubelet, wanted: &TokenAttributes, pod: &Pod) -> Result<Option<(String, Value)>, String> {
    let Some(api) = kubelet.api.clone().filter(|_| !pod::is_static(pod)) else { return Ok(None) };
    let accounts = kube::Api::<ServiceAccount>::namespaced(api, pod::namespace(pod));
    let found = accounts.get_opt(account(pod)).await.map_err(|error| crate::objects::message(&error))?;
    let annotations = found.and_then(|account| account.metadata.annotations).unwrap_or_default();
    let mut given = serde_json::Map::new();
    for key in &wanted.required_service_account_annotation_keys {
        let Some(value) = annotations.get(key) else {
            return if wanted.require_service_account { Err(format!("required annotation {key} not found")) } else { Ok(None) };
        };
        given.insert(key.clone(), value.clone().into());
    }
    for key in &wanted.optional_service_account_annotation_keys {
        if let Some(value) = annotations.get(key) {
            given.insert(key.clone(), value.clone().into());
        }
    }
    const LIFE: i64 = 600;
    let token =
        kubelet.objects.token(pod, &wanted.service_account_token_audience, LIFE).await.map_err(|error| error.to_string())?;
    Ok(Some((token, given.into())))
}

fn account(pod: &Pod) -> &str {
    pod::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
}

fn parse(text: &str) -> Result<Vec<Provider>, String> {
    let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let (kind, version) = (document["kind"].as_str().unwrap_or(""), document["apiVersion"].as_str().unwrap_or(""));
    if kind != "CredentialProviderConfig" || !version.starts_with("kubelet.config.k8s.io/v1") {
        return Err(format!("no kind {kind:?} is registered for version {version:?}: a CredentialProviderConfig is expected"));
    }
    let list: Vec<Provider> =
        serde_json::from_value(document["providers"].clone()).map_err(|error| format!("providers: {error}"))?;
    for provider in &list {
        let name = &provider.name;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
            return Err(format!("provider name {name:?} must be the name of a file, without spaces or slashes"));
        }
        if provider.match_images.is_empty() {
            return Err(format!("provider {name}: matchImages: Required value: at least 1 item in matchImages is required"));
        }
        if provider.api_version != VERSION {
            return Err(format!(
                "provider {name}: apiVersion: Unsupported value: {:?}: supported values: {VERSION:?}",
                provider.api_version
            ));
        }
        let duration = provider.default_cache_duration.as_deref();
        if duration.is_none_or(|text| component::duration::parse(text).is_err()) {
            return Err(format!("provider {name}: defaultCacheDuration: Required value: a duration such as \"10m\" is required"));
        }
    }
    Ok(list)
}

/// An answer: credentials by pattern, what they are valid for, and how long.
type Answer = (BTreeMap<String, AuthConfig>, String, Option<Duration>);

fn read(answer: &[u8]) -> Result<Answer, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|error| format!("failed to decode response: {error}"))?;
    if answer["kind"] != "CredentialProviderResponse" || answer["apiVersion"] != VERSION {
        return Err(format!("unexpected response of kind {} and apiVersion {}", answer["kind"], answer["apiVersion"]));
    }
    let scope = answer["cacheKeyType"].as_str().unwrap_or("").to_owned();
    if !["Image", "Registry", "Global"].contains(&scope.as_str()) {
        return Err(format!("invalid cache key type {scope:?} returned"));
    }
    let duration = match answer["cacheDuration"].as_str() {
        Some(text) => Some(component::duration::parse(text)?),
        None => None,
    };
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
    let auth = answer["auth"].as_object().into_iter().flatten().map(|(pattern, auth)| {
        let auth = AuthConfig { username: text(auth, "username"), password: text(auth, "password"), ..Default::default() };
        (pattern.clone(), auth)
    });
    Ok((auth.collect(), scope, duration))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- name: give\n  matchImages: ['*.example.com']\n  defaultCacheDuration: 10m\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  env: [{name: WHO, value: me}]\n";

    #[test]
    fn configurations_that_cannot_work_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("c.yaml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Providers::load(&file, temp.path())
        };
        for (text, why) in [
            ("kind: Pod\napiVersion: v1\n".to_owned(), "CredentialProviderConfig"),
            (CONFIG.replace("10m", "x"), "defaultCacheDuration"),
            (CONFIG.replace("['*.example.com']", "[]"), "matchImages"),
            (CONFIG.replace("io/v1\n  env", "io/v9\n  env"), "Unsupported value"),
            (CONFIG.to_owned(), "did not exist"),
        ] {
            let error = load(&text).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
        std::fs::write(temp.path().join("give"), "").unwrap();
        assert!(load(CONFIG).is_ok());
    }

    #[tokio::test]
    async fn a_program_is_asked_with_the_image_on_its_input() {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("give");
        let script = "#!/bin/sh\nread line\ncase \"$line\" in *r.example.com/a*) ;; *) exit 3;; esac\n\
             echo '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\"cacheDuration\":\"5m0s\",\"auth\":{\"*.example.com\":{\"username\":\"'$WHO'\",\"password\":\"p\"}}}'\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(temp.path().join("c.yaml"), CONFIG).unwrap();
        let providers = Providers::load(&temp.path().join("c.yaml"), temp.path()).unwrap();
        let ask = |image: &str| json!({"image": image});
        let answer = providers.run(&providers.list[0], &ask("r.example.com/a:1")).await.unwrap();
        let (auth, scope, duration) = read(&answer).unwrap();
        assert_eq!(
            (auth["*.example.com"].username.as_str(), scope.as_str(), duration),
            ("me", "Registry", Some(Duration::from_secs(300)))
        );
        let error = providers.run(&providers.list[0], &ask("other")).await.unwrap_err();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(read(b"{}").is_err());
    }
}
