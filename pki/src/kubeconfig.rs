//! kubeconfig files as kubeadm writes them: one cluster, one user, one context.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Certificate, Error, PrivateKey};

/// What a kubeconfig with one cluster and one user says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    pub cluster: String,
    pub user: String,
    /// `https://host:port`.
    pub server: String,
    /// The name in the server's certificate, where it is not the one in `server`.
    pub tls_server_name: Option<String>,
    /// PEM.
    pub certificate_authority: Vec<u8>,
    pub credentials: Credentials,
}

/// How the user proves who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    None,
    /// PEM texts inside the file.
    Embedded {
        certificate: Vec<u8>,
        key: Vec<u8>,
    },
    /// Paths, re-read by clients when they change (the kubelet's rotated certificate).
    Files {
        certificate: String,
        key: String,
    },
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::None => f.write_str("None"),
            Credentials::Embedded { .. } => f.write_str("Embedded"),
            Credentials::Files { certificate, .. } => write!(f, "Files({certificate})"),
            Credentials::Token(_) => f.write_str("Token"),
        }
    }
}

impl Kubeconfig {
    pub fn context(&self) -> String {
        format!("{}@{}", self.user, self.cluster)
    }

    /// With an embedded certificate and key.
    pub fn embed(
        cluster: &str,
        user: &str,
        server: &str,
        authority: &Certificate,
        certificate: &Certificate,
        key: &PrivateKey,
    ) -> Result<Kubeconfig, Error> {
        Ok(Kubeconfig {
            cluster: cluster.to_string(),
            user: user.to_string(),
            server: server.to_string(),
            tls_server_name: None,
            certificate_authority: authority.to_pem().into_bytes(),
            credentials: Credentials::Embedded {
                certificate: certificate.to_pem().into_bytes(),
                key: key.to_pem()?.into_bytes(),
            },
        })
    }

    pub fn to_yaml(&self) -> Result<String, Error> {
        let user = match &self.credentials {
            Credentials::None => UserWire::default(),
            Credentials::Embedded { certificate, key } => UserWire {
                client_certificate_data: Some(STANDARD.encode(certificate)),
                client_key_data: Some(STANDARD.encode(key)),
                ..UserWire::default()
            },
            Credentials::Files { certificate, key } => {
                UserWire { client_certificate: Some(certificate.clone()), client_key: Some(key.clone()), ..UserWire::default() }
            }
            Credentials::Token(token) => UserWire { token: Some(token.clone()), ..UserWire::default() },
        };
        let wire = Wire {
            api_version: "v1".into(),
            clusters: vec![NamedCluster {
                cluster: ClusterWire {
                    certificate_authority: None,
                    certificate_authority_data: Some(STANDARD.encode(&self.certificate_authority)),
                    server: self.server.clone(),
                    tls_server_name: self.tls_server_name.clone(),
                    rest: BTreeMap::new(),
                },
                name: self.cluster.clone(),
            }],
            contexts: vec![NamedContext {
                context: ContextWire { cluster: self.cluster.clone(), user: self.user.clone(), rest: BTreeMap::new() },
                name: self.context(),
            }],
            current_context: self.context(),
            kind: "Config".into(),
            users: vec![NamedUser { name: self.user.clone(), user }],
        };
        serde_yaml::to_string(&wire).map_err(|e| Error::encode("kubeconfig", e))
    }

    /// Reads the current context of a kubeconfig (or its only cluster when there is no context, as in the `cluster-info` ConfigMap).
    pub fn parse(text: &[u8]) -> Result<Kubeconfig, Error> {
        let bad = |why: String| Error::malformed("kubeconfig", why);
        let wire: Wire = serde_yaml::from_slice(text).map_err(|e| bad(e.to_string()))?;
        let context = wire.contexts.iter().find(|context| context.name == wire.current_context);
        let (cluster, user) = match context {
            Some(named) => (
                wire.clusters.iter().find(|cluster| cluster.name == named.context.cluster),
                wire.users.iter().find(|user| user.name == named.context.user),
            ),
            None if wire.current_context.is_empty() => (wire.clusters.first(), None),
            None => return Err(bad(format!("there is no context {:?}", wire.current_context))),
        };
        let cluster = cluster.ok_or_else(|| bad("the current context names no cluster of the file".into()))?;
        let decode = |what: &str, data: &str| STANDARD.decode(data.trim()).map_err(|e| bad(format!("{what}: {e}")));
        let certificate_authority = match (&cluster.cluster.certificate_authority_data, &cluster.cluster.certificate_authority) {
            (Some(data), _) => decode("certificate-authority-data", data)?,
            (None, Some(path)) => {
                std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.into(), source })?
            }
            (None, None) => Vec::new(),
        };
        let credentials = match user.map(|user| &user.user) {
            Some(UserWire { client_certificate_data: Some(certificate), client_key_data: Some(key), .. }) => {
                Credentials::Embedded {
                    certificate: decode("client-certificate-data", certificate)?,
                    key: decode("client-key-data", key)?,
                }
            }
            Some(UserWire { client_certificate: Some(certificate), client_key: Some(key), .. }) => {
                Credentials::Files { certificate: certificate.clone(), key: key.clone() }
            }
            Some(UserWire { token: Some(token), .. }) => Credentials::Token(token.clone()),
            _ => Credentials::None,
        };
        Ok(Kubeconfig {
            cluster: cluster.name.clone(),
            user: user.map(|user| user.name.clone()).unwrap_or_default(),
            server: cluster.cluster.server.clone(),
            tls_server_name: cluster.cluster.tls_server_name.clone(),
            certificate_authority,
            credentials,
        })
    }

    /// The embedded client certificate, if any.
    pub fn certificate(&self) -> Result<Option<Certificate>, Error> {
        match &self.credentials {
            Credentials::Embedded { certificate, .. } => Certificate::from_pem(certificate).map(Some),
            _ => Ok(None),
        }
    }
}

// Field order is alphabetical, as upstream's YAML marshaller writes.

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    clusters: Vec<NamedCluster>,
    #[serde(default, deserialize_with = "null_is_empty")]
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    users: Vec<NamedUser>,
}

#[derive(Serialize, Deserialize)]
struct NamedCluster {
    cluster: ClusterWire,
    #[serde(default)]
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterWire {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    certificate_authority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    server: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tls_server_name: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_yaml::Value>,
}

#[derive(Serialize, Deserialize)]
struct NamedContext {
    context: ContextWire,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct ContextWire {
    cluster: String,
    user: String,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_yaml::Value>,
}

#[derive(Serialize, Deserialize)]
struct NamedUser {
    name: String,
    user: UserWire,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct UserWire {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    client_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    client_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    token: Option<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for credentials in [
            Credentials::None,
            Credentials::Embedded { certificate: b"cert".to_vec(), key: b"key".to_vec() },
            Credentials::Files { certificate: "/c".into(), key: "/k".into() },
            Credentials::Token("abcdef.0123456789abcdef".into()),
        ] {
            let config = Kubeconfig {
                cluster: "kubernetes".into(),
                user: "system:kube-scheduler".into(),
                server: "https://172.30.0.1:6443".into(),
                tls_server_name: Some("kubernetes".into()),
                certificate_authority: b"ca".to_vec(),
                credentials,
            };
            assert_eq!(Kubeconfig::parse(config.to_yaml().unwrap().as_bytes()).unwrap(), config);
        }
    }

    #[test]
    fn the_cluster_info_form_has_no_user() {
        let text = b"apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: Y2E=\n    server: https://1.2.3.4:6443\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n";
        let config = Kubeconfig::parse(text).unwrap();
        assert_eq!((config.server.as_str(), config.certificate_authority.as_slice()), ("https://1.2.3.4:6443", b"ca".as_slice()));
        assert_eq!(config.credentials, Credentials::None);
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        assert!(Kubeconfig::parse(b"current-context: x\n").unwrap_err().to_string().contains("no context \"x\""));
        assert!(Kubeconfig::parse(b": : :").is_err());
    }
}
