//! Credentials for pulls: `imagePullSecrets` in both of Docker's formats, the node's own files, credential providers.
//!
//! Upstream: pkg/credentialprovider

use std::path::{Path, PathBuf};

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::Value;

use crate::cri::v1::AuthConfig;
use crate::kubelet::Kubelet;
use crate::pod;

/// Everything that may open the image's registry, the most specific first.
pub async fn for_image(kubelet: &Kubelet, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for reference in pod::spec(pod).image_pull_secrets.iter().flatten() {
        match kubelet.objects.secret(pod::namespace(pod), &reference.name).await {
            Ok(Some(secret)) => found.extend(matching(&secret, image)),
            Ok(None) => kubelet.event(
                pod,
                client::events::Kind::Warning,
                "FailedToRetrieveImagePullSecret",
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                ),
            ),
            Err(error) => tracing::debug!(err = %error, secret = reference.name, "Failed to read image pull secret"),
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    // The pod's own first, then what the node has.
    let mut of_node = node_files(&kubelet.config.root_dir, image);
    of_node.extend(kubelet.images.providers.for_image(kubelet, pod, image).await);
    of_node.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.extend(of_node);
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn matching(secret: &Secret, image: &str) -> Vec<(usize, AuthConfig)> {
    let key = if secret.type_.as_deref() == Some("kubernetes.io/dockercfg") { ".dockercfg" } else { ".dockerconfigjson" };
    let Some(document) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Vec::new() };
    let Ok(document) = serde_json::from_slice::<Value>(&document.0) else { return Vec::new() };
    entries(&document, key == ".dockercfg", image)
}

/// Docker's files where upstream looks for them: below the kubelet's root, in the home directory and in `/`.
fn node_files(root: &Path, image: &str) -> Vec<(usize, AuthConfig)> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/root"));
    let dirs = [root.to_owned(), home.join(".docker"), PathBuf::from("/.docker")];
    let read = |path: PathBuf, old| {
        let document = serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok()?;
        Some(entries(&document, old, image))
    };
    let mut out: Vec<_> = dirs.iter().filter_map(|dir| read(dir.join("config.json"), false)).flatten().collect();
    let old = [root.join(".dockercfg"), home.join(".dockercfg"), PathBuf::from("/.dockercfg")];
    out.extend(old.into_iter().filter_map(|path| read(path, true)).flatten());
    out
}

fn entries(document: &Value, old: bool, image: &str) -> Vec<(usize, AuthConfig)> {
    let registries = if old { Some(document) } else { document.get("auths") };
    let registries = registries.and_then(Value::as_object).into_iter().flatten();
    registries
        .filter(|(registry, _)| matches(registry, image))
        .filter_map(|(registry, entry)| Some((registry.len(), auth(entry)?)))
        .collect()
}

fn auth(entry: &Value) -> Option<AuthConfig> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, pass) = decoded.split_once(':')?;
        (username, password) = (user.to_owned(), pass.to_owned());
    }
    Some(AuthConfig { username, password, ..Default::default() })
}

/// Whether an entry of the file is for the image's registry: host (with `*` per label), port, and a path prefix.
pub(super) fn matches(registry: &str, image: &str) -> bool {
    let strip = |text: &str| text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let registry = strip(registry).trim_end_matches("/v1").trim_end_matches("/v2").to_owned();
    let first = image.split('/').next().unwrap_or("");
    let image = match image.contains('/') && (first.contains(['.', ':']) || first == "localhost") {
        true => image.to_owned(),
        false if image.contains('/') => format!("index.docker.io/{image}"),
        false => format!("index.docker.io/library/{image}"),
    };
    let registry =
        if registry == "docker.io" || registry == "registry-1.docker.io" { "index.docker.io".to_owned() } else { registry };
    let image = image.strip_prefix("docker.io/").map_or(image.clone(), |rest| format!("index.docker.io/{rest}"));
    let (want_host, want_path) = registry.split_once('/').unwrap_or((&registry, ""));
    let (host, path) = image.split_once('/').unwrap_or((&image, ""));
    let (want, have): (Vec<_>, Vec<_>) = (want_host.split('.').collect(), host.split('.').collect());
    let label = |want: &str, have: &str| match want.split_once('*') {
        Some((before, after)) => have.len() >= before.len() + after.len() && have.starts_with(before) && have.ends_with(after),
        None => want == have,
    };
    want.len() == have.len() && want.iter().zip(&have).all(|(want, have)| label(want, have)) && path.starts_with(want_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_match_as_upstream_says() {
        for (registry, image, yes) in [
            ("https://index.docker.io/v1/", "busybox:1", true),
            ("docker.io", "a/b", true),
            ("quay.io", "quay.io/a/b:1", true),
            ("quay.io", "a/b", false),
            ("*.example.com", "r.example.com/x", true),
            ("*.example.com", "a.r.example.com/x", false),
            ("r.io:5000/team", "r.io:5000/team/x", true),
            ("r.io:5000/team", "r.io:5000/other/x", false),
        ] {
            assert_eq!(matches(registry, image), yes, "{registry} {image}");
        }
    }

    #[test]
    fn both_formats_are_read() {
        let secret: Secret =
            serde_json::from_value(serde_json::json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson":
            base64::engine::general_purpose::STANDARD.encode(r#"{"auths": {"r.io": {"auth": "dTpw"}}}"#)}}))
            .unwrap();
        let got = matching(&secret, "r.io/a:1");
        assert_eq!((got[0].1.username.as_str(), got[0].1.password.as_str()), ("u", "p"));
    }
}
