//! Real requests over loopback: through the proxy to real servers.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use component::tasks::Tasks;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::ByteString;
use rk_ingress::certificates::Resolver;
use rk_ingress::proxy::{Arrival, Proxy};
use rk_ingress::table::{self, Objects, Selection, Table};
use serde_json::{Value, json};
use tokio::net::TcpListener;

struct Lab {
    tasks: Tasks,
    table: Arc<ArcSwap<Table>>,
    objects: Objects,
    http: SocketAddr,
    https: SocketAddr,
}

impl Lab {
    /// A proxy without rules; ports of its own.
    async fn new() -> Self {
        component::install_crypto();
        let tasks = Tasks::new();
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = (http.local_addr().unwrap(), https.local_addr().unwrap());
        let proxy = Proxy::new(table.clone(), addresses.1.port());
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver::new(table.clone()).unwrap()));
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        for (listener, tls) in [(http, None), (https, Some(Arc::new(tls)))] {
            let (proxy, secure) = (proxy.clone(), tls.is_some());
            component::serve::serve(&tasks, listener, tls, move |request: Request<hyper::body::Incoming>| {
                let peer = request.extensions().get::<component::serve::Peer>().unwrap().address;
                let proxy = proxy.clone();
                async move { proxy.handle(request, Arrival { peer, tls: secure }).await }
            })
            .unwrap();
        }
        let class = json!({"metadata": {"name": "rk"}, "spec": {"controller": rk_ingress::CONTROLLER}});
        let objects = Objects { classes: vec![Arc::new(serde_json::from_value(class).unwrap())], ..Objects::default() };
        Self { tasks, table, objects, http: addresses.0, https: addresses.1 }
    }

    /// A server that tells what it saw, as the Service `name`.
    async fn echo(&mut self, name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        component::serve::serve(&self.tasks, listener, None, move |request: Request<hyper::body::Incoming>| async move {
            let (head, body) = request.into_parts();
            let headers: serde_json::Map<String, Value> =
                head.headers.iter().map(|(key, value)| (key.to_string(), json!(value.to_str().unwrap_or("?")))).collect();
            let body = body.collect().await.unwrap().to_bytes();
            let text = json!({"server": name, "method": head.method.as_str(), "uri": head.uri.to_string(), "headers": headers, "body": body.len()});
            Response::new(Full::new(Bytes::from(text.to_string())))
        })
        .unwrap();
        self.service(name, &[address]);
        address
    }

    fn service(&mut self, name: &str, endpoints: &[SocketAddr]) {
        let service = json!({"metadata": {"namespace": "d", "name": name}, "spec": {"ports": [{"port": 80}]}});
        self.objects.services.push(Arc::new(serde_json::from_value(service).unwrap()));
        for (index, endpoint) in endpoints.iter().enumerate() {
            let slice = json!({
                "metadata": {"namespace": "d", "name": format!("{name}-{index}"), "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": [{"port": endpoint.port()}],
                "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
            });
            self.objects.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
        }
    }

    fn ingress(&mut self, name: &str, annotations: Value, spec: Value) {
        let mut spec = spec;
        spec["ingressClassName"] = json!("rk");
        let ingress = json!({"metadata": {"namespace": "d", "name": name, "annotations": annotations}, "spec": spec});
        self.objects.ingresses.push(Arc::new(serde_json::from_value(ingress).unwrap()));
        let selection = Selection { class: "rk".into(), controller: rk_ingress::CONTROLLER.into(), ..Selection::default() };
        self.table.store(Arc::new(table::build(&self.objects, &selection)));
    }

    async fn get(&self, host: &str, path: &str) -> (StatusCode, http::HeaderMap, Value) {
        self.send(Request::get(format!("http://{}{path}", self.http)).header("host", host).body(Full::default()).unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, http::HeaderMap, Value) {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn rule(host: &str, path: &str, service: &str) -> Value {
    json!({"host": host, "http": {"paths": [
        {"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}},
    ]}})
}

#[tokio::test]
async fn requests_reach_their_service_with_the_client_s_headers() {
    let mut lab = Lab::new().await;
    lab.echo("shop").await;
    lab.echo("api").await;
    lab.ingress("x", json!({}), json!({"rules": [rule("shop.test", "/", "shop"), rule("shop.test", "/api", "api")]}));
    let (status, _, seen) = lab.get("shop.test", "/a?b=c").await;
    assert_eq!((status, seen["server"].as_str(), seen["uri"].as_str()), (StatusCode::OK, Some("shop"), Some("/a?b=c")));
    assert_eq!(seen["headers"]["host"], "shop.test");
    assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["headers"]["x-forwarded-proto"], "http");
    let request = Request::post(format!("http://{}/api/things", lab.http))
        .header("host", "shop.test")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .body(Full::from(vec![b'x'; 3_000_000]))
        .unwrap();
    let (status, _, seen) = lab.send(request).await;
    assert_eq!((status, seen["server"].as_str(), seen["body"].as_u64()), (StatusCode::OK, Some("api"), Some(3_000_000)));
    assert_eq!(seen["headers"]["x-secret"], Value::Null);
    assert_eq!(lab.get("other.test", "/").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn dead_endpoints_are_passed_by_and_none_is_told() {
    let mut lab = Lab::new().await;
    let live = lab.echo("live").await;
    let dead: SocketAddr = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap()
    };
    lab.service("half", &[dead, live]);
    lab.service("none", &[]);
    lab.service("down", &[dead]);
    lab.ingress(
        "x",
        json!({}),
        json!({"rules": [rule("half", "/", "half"), rule("none", "/", "none"), rule("down", "/", "down")]}),
    );
    for _ in 0..6 {
        assert_eq!(lab.get("half", "/").await.0, StatusCode::OK);
    }
    assert_eq!(lab.get("none", "/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(lab.get("down", "/").await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn paths_are_rewritten_with_their_query() {
    let mut lab = Lab::new().await;
    lab.echo("pay").await;
    let spec = json!({"rules": [{"http": {"paths": [{"path": "/pay(/|$)(.*)", "pathType": "ImplementationSpecific",
        "backend": {"service": {"name": "pay", "port": {"number": 80}}}}]}}]});
    lab.ingress("x", json!({"nginx.ingress.kubernetes.io/rewrite-target": "/$2"}), spec);
    assert_eq!(lab.get("any", "/pay/card?n=1").await.2["uri"], "/card?n=1");
    assert_eq!(lab.get("any", "/pay").await.2["uri"], "/");
}

/// Accepts the certificate it is shown and keeps it: which one it is, is what the test asks.
#[derive(Debug, Default)]
struct Shown(std::sync::Mutex<Vec<u8>>);

impl rustls::client::danger::ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = end_entity.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256, rustls::SignatureScheme::ED25519]
    }
}

/// The certificate shown for `name`, and the answer to GET / by HTTP/2.
async fn tls_get(lab: &Lab, name: &str) -> (Vec<u8>, Value) {
    let shown = Arc::new(Shown::default());
    let mut config =
        rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(shown.clone()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(lab.https).await.unwrap();
    let server = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server, stream).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{name}/")).body(Full::<Bytes>::default()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let certificate = shown.0.lock().unwrap().clone();
    (certificate, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn https_shows_the_secret_s_certificate_and_follows_its_replacement() {
    let mut lab = Lab::new().await;
    lab.echo("shop").await;
    let pair = || rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let secret = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let data = json!({"tls.crt": ByteString(pair.cert.pem().into_bytes()), "tls.key": ByteString(pair.signing_key.serialize_pem().into_bytes())});
        let secret = json!({"metadata": {"namespace": "d", "name": "cert"}, "type": "kubernetes.io/tls", "data": data});
        Arc::new(serde_json::from_value(secret).unwrap())
    };
    let (first, second) = (pair(), pair());
    lab.objects.secrets = vec![secret(&first)];
    let spec = json!({"tls": [{"hosts": ["shop.test"], "secretName": "cert"}], "rules": [rule("shop.test", "/", "shop"), rule("plain.test", "/", "shop")]});
    lab.ingress("x", json!({}), spec.clone());
    let (shown, seen) = tls_get(&lab, "shop.test").await;
    assert_eq!(shown, first.cert.der().to_vec());
    assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
    assert_eq!(seen["headers"]["host"], "shop.test");
    // A host without a certificate gets one that no client trusts, and an answer.
    let (other, seen) = tls_get(&lab, "plain.test").await;
    assert!(other != shown && seen["server"] == "shop");
    // HTTP goes to HTTPS where there is a certificate, and only there.
    let (status, headers, _) = lab.get("shop.test", "/a?b").await;
    assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(headers["location"], format!("https://shop.test:{}/a?b", lab.https.port()));
    assert_eq!(lab.get("plain.test", "/").await.0, StatusCode::OK);
    lab.objects.secrets = vec![secret(&second)];
    lab.objects.ingresses.clear();
    lab.ingress("x", json!({"nginx.ingress.kubernetes.io/ssl-redirect": "false"}), spec);
    assert_eq!(tls_get(&lab, "shop.test").await.0, second.cert.der().to_vec());
    assert_eq!(lab.get("shop.test", "/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn websockets_pass_through() {
    let mut lab = Lab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    lab.service("ws", &[address]);
    lab.ingress("x", json!({}), json!({"rules": [rule("ws.test", "/", "ws")]}));
    let stream = tokio::net::TcpStream::connect(lab.http).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://ws.test/live", stream).await.unwrap();
    for text in ["one", "two"] {
        socket.send(text.into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), text);
    }
}
