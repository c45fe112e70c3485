use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::authn::service_account::ServiceAccounts;
use crate::token::issue::Issuer;
use crate::token::key::{KeySet, SigningKey};

/// Group, resource, namespace, name.
type Id = (String, String, String, String);

/// A cluster in a map.
#[derive(Default)]
pub(crate) struct Cluster(parking_lot::Mutex<HashMap<Id, Arc<Value>>>);

impl Cluster {
    pub(crate) fn put(&self, group: &str, resource: &str, object: Value) {
        let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let key = (group.to_owned(), resource.to_owned(), at("/metadata/namespace"), at("/metadata/name"));
        self.0.lock().insert(key, Arc::new(object));
    }
}

impl Lister for Cluster {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.lock().get(&(group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let all = self.0.lock();
        let mut found: Vec<_> = all
            .iter()
            .filter(|((g, r, n, _), _)| g == group && r == resource && namespace.is_none_or(|namespace| namespace == n))
            .collect();
        found.sort_by(|a, b| a.0.cmp(b.0));
        found.into_iter().map(|(_, object)| object.clone()).collect()
    }

    fn version(&self, _group: &str, _resource: &str) -> u64 {
        self.0.lock().len() as u64
    }
}

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn authenticator(cluster: Arc<Cluster>) -> Authenticator {
    Authenticator {
        request_header: None,
        client_ca: None,
        token_file: None,
        service_accounts: None,
        bootstrap_tokens: true,
        oidc: Vec::new(),
        anonymous: anonymous::Anonymous { enabled: true, paths: Vec::new() },
        api_audiences: vec!["https://issuer".to_owned()],
        lister: cluster,
    }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    headers
}

fn cluster() -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::default());
    cluster.put("", "serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "sa-uid"}}));
    cluster.put("", "nodes", json!({"metadata": {"name": "n1", "uid": "n-uid"}}));
    cluster.put(
        "",
        "pods",
        json!({"metadata": {"namespace": "ns", "name": "p", "uid": "p-uid"}, "spec": {"serviceAccountName": "sa", "nodeName": "n1"}}),
    );
    cluster
}

#[test]
fn no_credentials_are_anonymous_and_bad_ones_are_not() {
    let authenticator = authenticator(cluster());
    let identity = authenticator.authenticate(&HeaderMap::new(), &Peer::default(), "/", now()).unwrap();
    assert_eq!(*identity.user, User::anonymous());
    let error = authenticator.authenticate(&bearer("nonsense"), &Peer::default(), "/", now()).unwrap_err();
    assert_eq!(error, "invalid bearer token");
}

#[test]
fn a_bootstrap_token_is_good_until_it_expires() {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = |expiration: &str| {
        json!({
            "metadata": {"namespace": "kube-system", "name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token",
            "data": {
                "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"), "expiration": encode(expiration),
                "usage-bootstrap-authentication": encode("true"),
                "auth-extra-groups": encode("system:bootstrappers:kubeadm:default-node-token"),
            },
        })
    };
    let cluster = cluster();
    cluster.put("", "secrets", secret("2030-01-01T00:00:00Z"));
    let authenticator = authenticator(cluster.clone());
    let identity = authenticator.authenticate(&bearer("abcdef.0123456789abcdef"), &Peer::default(), "/", now()).unwrap();
    assert_eq!(identity.user.name, "system:bootstrap:abcdef");
    let groups = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
    assert_eq!(identity.user.groups, groups);
    assert!(authenticator.authenticate(&bearer("abcdef.0123456789abcdee"), &Peer::default(), "/", now()).is_err());
    cluster.put("", "secrets", secret("2020-01-01T00:00:00Z"));
    assert!(authenticator.authenticate(&bearer("abcdef.0123456789abcdef"), &Peer::default(), "/", now()).is_err());
}

fn with_keys(cluster: &Arc<Cluster>, pem: &str) -> (Authenticator, Issuer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sa.key");
    std::fs::write(&file, pem).unwrap();
    let mut authenticator = authenticator(cluster.clone());
    let keys = KeySet::load(vec![file]).unwrap();
    authenticator.service_accounts = Some(ServiceAccounts::new(keys, vec!["https://issuer".to_owned()], true));
    let issuer = Issuer {
        issuer: "https://issuer".to_owned(),
        key: SigningKey::from_pem(pem).unwrap(),
        api_audiences: authenticator.api_audiences.clone(),
        max_seconds: 0,
        extend: true,
    };
    (authenticator, issuer, dir)
}

fn request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": spec})
}

#[test]
fn an_issued_token_is_its_pods_until_the_pod_is_gone() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let cluster = cluster();
        let (authenticator, issuer, _dir) = with_keys(&cluster, &pem);
        let account = cluster.get("", "serviceaccounts", "ns", "sa").unwrap();
        let spec = json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "p-uid"}});
        let issued = issuer.issue(&request(spec), &account, cluster.as_ref(), "jti-1", now()).unwrap().object;
        assert_eq!(issued["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
        let token = issued["status"]["token"].as_str().unwrap();

        let identity = authenticator.authenticate(&bearer(token), &Peer::default(), "/", now()).unwrap();
        assert_eq!(identity.user.name, "system:serviceaccount:ns:sa");
        assert_eq!(identity.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
        assert_eq!(identity.user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
        assert_eq!(identity.user.extra["authentication.kubernetes.io/credential-id"], ["JTI=jti-1"]);
        // Extended: still good after the hour that was asked for.
        let later = Timestamp::from_second(NOW + 7200).unwrap();
        assert!(authenticator.authenticate(&bearer(token), &Peer::default(), "/", later).is_ok());

        let tampered = format!("{}x{}", &token[..token.len() - 5], &token[token.len() - 4..]);
        let error = authenticator.authenticate(&bearer(&tampered), &Peer::default(), "/", now()).unwrap_err();
        assert_eq!(error, "[invalid bearer token, invalid signature]");
        let wrong = authenticator.authenticate_token(token, &["other".to_owned()], now()).unwrap_err();
        assert!(wrong.contains("is invalid for the target audiences"), "{wrong}");

        cluster.put("", "pods", json!({"metadata": {"namespace": "ns", "name": "p", "uid": "another"}}));
        assert!(
            authenticator.authenticate(&bearer(token), &Peer::default(), "/", later).is_ok(),
            "known to be good for some seconds"
        );
        let later = Timestamp::from_second(NOW + 7211).unwrap();
        let error = authenticator.authenticate(&bearer(token), &Peer::default(), "/", later).unwrap_err();
        assert!(error.contains("pod UID (another) does not match service account pod ref claim (p-uid)"), "{error}");
    }
}

#[test]
fn a_token_ends_when_it_says() {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let cluster = cluster();
    let (authenticator, issuer, _dir) = with_keys(&cluster, &pem);
    let account = cluster.get("", "serviceaccounts", "ns", "sa").unwrap();
    let issued = issuer.issue(&request(json!({"expirationSeconds": 600})), &account, cluster.as_ref(), "j", now()).unwrap();
    let token = issued.object["status"]["token"].as_str().unwrap().to_owned();
    let at = |second: i64| Timestamp::from_second(NOW + second).unwrap();
    assert!(authenticator.authenticate(&bearer(&token), &Peer::default(), "/", at(659)).is_ok());
    let error = authenticator.authenticate(&bearer(&token), &Peer::default(), "/", at(661)).unwrap_err();
    assert!(error.contains("service account token has expired"), "{error}");
    let refused = issuer.issue(&request(json!({"expirationSeconds": 5})), &account, cluster.as_ref(), "j", now()).unwrap_err();
    assert_eq!(refused.code, 422);
    let jwks = authenticator.service_accounts.as_ref().unwrap().keys.jwks();
    assert_eq!(jwks["keys"][0]["kty"], "EC");
}

#[test]
fn keys_of_openssl_are_read_and_public_and_private_half_have_one_id() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| assert!(std::process::Command::new("openssl").args(args).status().unwrap().success());
    run(&["genrsa", "-traditional", "-out", &at("sa.key"), "2048"]);
    run(&["rsa", "-in", &at("sa.key"), "-pubout", "-out", &at("sa.pub")]);
    let private = std::fs::read_to_string(at("sa.key")).unwrap();
    assert!(private.contains("RSA PRIVATE KEY"));
    let public = KeySet::load(vec![at("sa.pub").into()]).unwrap();
    let both = KeySet::load(vec![at("sa.pub").into(), at("sa.key").into()]).unwrap();
    assert_eq!(public.keys().1.len(), 1);
    assert_eq!(public.jwks(), both.jwks());
    let token = SigningKey::from_pem(&private).unwrap().sign(&json!({"iss": "x"})).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert!(public.keys().1[0].verifies(jsonwebtoken::Algorithm::RS256, message, signature));
    assert!(!public.keys().1[0].verifies(jsonwebtoken::Algorithm::RS256, &message[1..], signature));
}

#[test]
fn a_certificate_names_user_and_groups_only_if_the_bundle_vouches() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut leaf = rcgen::CertificateParams::new(Vec::new()).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
    leaf.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let der = leaf.signed_by(&key, &issuer).unwrap().der().clone();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, &ca_pem).unwrap();
    let bundle = x509::Bundle::load(&file).unwrap();
    let peer = Peer::new(vec![der.clone()]);
    let user = peer.verified(&bundle, now()).unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.node_name()), ("system:node:n1", Some("n1")));

    // Another CA in the file: the verdict changes at the next reload, for the open connection too.
    let other = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&file, params.self_signed(&other).unwrap().pem()).unwrap();
    bundle.reload().unwrap();
    let error = peer.verified(&bundle, now()).unwrap_err();
    assert!(error.starts_with("verifying certificate SN="), "{error}");
    std::fs::write(&file, "rubbish").unwrap();
    assert!(bundle.reload().is_err());
}

#[test]
fn a_front_proxy_is_believed_only_with_its_certificate() {
    let mut headers = HeaderMap::new();
    headers.insert("x-remote-user", "jane".parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, key);
    let mut leaf = rcgen::CertificateParams::new(Vec::new()).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "front-proxy-client");
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let der = leaf.signed_by(&leaf_key, &issuer).unwrap().der().clone();
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut proxy = request_header::RequestHeader {
        bundle: x509::Bundle::load(&file).unwrap(),
        allowed_names: names(&["front-proxy-client"]),
        username_headers: names(&["X-Remote-User"]),
        uid_headers: Vec::new(),
        group_headers: names(&["X-Remote-Group"]),
        extra_prefixes: names(&["X-Remote-Extra-"]),
    };
    headers.append("x-remote-group", "dev".parse().unwrap());
    headers.append("x-remote-extra-acme.com%2fproject", "p".parse().unwrap());
    assert_eq!(proxy.authenticate(&headers, &Peer::default(), now()), Ok(None));
    let user = proxy.authenticate(&headers, &Peer::new(vec![der.clone()]), now()).unwrap().unwrap().user;
    assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jane", ["dev".to_owned()].as_slice()));
    assert_eq!(user.extra["acme.com/project"], ["p"]);
    proxy.allowed_names = names(&["other"]);
    assert!(proxy.authenticate(&headers, &Peer::new(vec![der]), now()).is_err());
    proxy.strip(&mut headers);
    assert!(headers.is_empty());
}
