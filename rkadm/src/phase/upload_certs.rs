//! `--upload-certs`: what control planes share, encrypted with a key that only the administrator sees, for two hours.
//! Upstream: cmd/kubeadm/app/phases/copycerts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::config::types::BootstrapToken;
use crate::init::Init;
use crate::node::Node;
use crate::{objects, say, token};

/// The uploaded certificates and the token that owns them live this long.
const TTL: Duration = Duration::from_secs(2 * 3600);

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    if !init.upload_certs {
        tracing::debug!("Skipping phase upload-certs: see --upload-certs");
        return Ok(());
    }
    if init.init.certificate_key.is_empty() {
        init.init.certificate_key = new_key();
    }
    let key = init.init.certificate_key.clone();
    upload(&mut init.node, &key).await?;
    say::phase("upload-certs", "The certificates are in the Secret kubeadm-certs of kube-system, encrypted, for two hours");
    if init.alone && !init.skip_certificate_key_print {
        say::phase("upload-certs", &format!("Using certificate key:\n{key}"));
    }
    Ok(())
}

/// 32 random bytes in hexadecimal.
pub fn new_key() -> String {
    let bytes: [u8; 32] = rand::random();
    hex::encode(bytes)
}

/// Encrypts and uploads.
pub async fn upload(node: &mut Node, key: &str) -> anyhow::Result<()> {
    let mut data = serde_json::Map::new();
    for (name, path) in shared(node) {
        let content =
            node.files.read(&path)?.with_context(|| format!("{} is missing: external CAs cannot be uploaded", path.display()))?;
        data.insert(name, json!(STANDARD.encode(encrypt(&content, key)?)));
    }
    // A token of its own whose end takes the Secret with it.
    let owner = BootstrapToken {
        token: token::generate(),
        ttl: TTL,
        usages: Vec::new(),
        groups: Vec::new(),
        description: "Proxy for managing TTL for the kubeadm-certs secret".into(),
        ..Default::default()
    };
    let owner = objects::token_secrets(&[owner], jiff::Timestamp::now()).remove(0);
    let owner = if node.dry_run {
        node.apply(&[owner]).await?;
        None
    } else {
        Some(node.api().await?.apply(&owner).await?)
    };
    node.apply(&objects::certificates_secret(data, owner.as_ref())).await
}

/// Downloads, decrypts and writes what is missing here: all, or what `only` names. Upstream: DownloadCerts.
pub async fn download(node: &mut Node, api: &crate::apply::Api, key: &str, only: &[&str]) -> anyhow::Result<usize> {
    let secret = api
        .find("/api/v1/namespaces/kube-system/secrets/kubeadm-certs")
        .await?
        .context("the Secret kubeadm-certs is gone (it lives two hours): run `rkadm init phase upload-certs --upload-certs` on a control-plane node")?;
    let mut contents = BTreeMap::new();
    for (name, path) in shared(node).into_iter().filter(|(name, _)| only.is_empty() || only.contains(&name.as_str())) {
        let Some(text) = secret["data"][&name].as_str() else { bail!("the Secret kubeadm-certs lacks {name}") };
        let content = decrypt(&STANDARD.decode(text)?, key)
            .context("the certificates cannot be decrypted: is --certificate-key the key that upload-certs printed last?")?;
        contents.insert(path, (name, content));
    }
    let mut written = 0;
    for (path, (name, content)) in contents {
        match node.files.read(&path)? {
            Some(known) if known == content => {}
            Some(_) => bail!("{} is there and is not the cluster's: remove it (`rkadm reset`) and join again", path.display()),
            None => {
                let mode = if name.ends_with(".key") { pki::files::SECRET } else { pki::files::PUBLIC };
                node.files.write(&path, mode, content)?;
                written += 1;
            }
        }
    }
    Ok(written)
}

/// Name in the Secret and path of everything that control planes share.
fn shared(node: &Node) -> Vec<(String, PathBuf)> {
    let dir = node.pki_dir();
    let mut names = vec!["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.pub", "sa.key"];
    if node.cluster.etcd.external.is_none() {
        names.extend(["etcd/ca.crt", "etcd/ca.key"]);
    }
    let mut list: Vec<_> = names.into_iter().map(|name| (name.replace('/', "-"), dir.join(name))).collect();
    if let Some(external) = &node.cluster.etcd.external {
        for (name, file) in [
            ("external-etcd-ca.crt", &external.ca_file),
            ("external-etcd.crt", &external.cert_file),
            ("external-etcd.key", &external.key_file),
        ] {
            if !file.is_empty() {
                list.push((name.into(), file.into()));
            }
        }
    }
    list
}

fn cipher(key: &str) -> anyhow::Result<LessSafeKey> {
    let key = hex::decode(key).context("the certificate key is not hexadecimal")?;
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("the certificate key is not 32 bytes long"))?;
    Ok(LessSafeKey::new(key))
}

/// AES-256-GCM: nonce, then ciphertext with its tag. The key is used for these few files only, so random nonces cannot meet.
fn encrypt(content: &[u8], key: &str) -> anyhow::Result<Vec<u8>> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = content.to_vec();
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .map_err(|_| anyhow::anyhow!("encryption failed"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn decrypt(sealed: &[u8], key: &str) -> anyhow::Result<Vec<u8>> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).context("the data is too short")?;
    let nonce: [u8; NONCE_LEN] = nonce.try_into().context("a nonce of twelve bytes")?;
    let mut body = body.to_vec();
    let opened = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
        .map_err(|_| anyhow::anyhow!("wrong key or damaged data"))?;
    Ok(opened.to_vec())
}

/// For tests and dry runs: the names that a Secret would hold.
pub fn names_of(secret: &Value) -> Vec<&str> {
    secret["data"].as_object().into_iter().flat_map(|data| data.keys().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens() {
        let key = new_key();
        let sealed = encrypt(b"secret", &key).unwrap();
        assert_eq!(decrypt(&sealed, &key).unwrap(), b"secret");
        assert!(decrypt(&sealed, &new_key()).is_err());
        assert!(decrypt(b"short", &key).is_err() && encrypt(b"", "zz").is_err() && encrypt(b"", "00").is_err());
        assert_ne!(sealed, encrypt(b"secret", &key).unwrap());
    }
}
