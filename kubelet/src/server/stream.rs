//! exec, attach, port-forward, run: joins the caller's upgraded connection to the runtime's streaming server.
//!
//! SPDY/3.1 and WebSocket up to v4 go through untouched. The runtime (containerd 1.6) does not know `v5.channel.k8s.io`, whose
//! news is closing one direction of a channel: those connections are carried over SPDY, which can. Port-forward tunnels
//! (`SPDY/3.1+portforward.k8s.io`) are unwrapped.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::spdy::{self, Frame};
use super::{Body, Call, text};
use crate::cri::v1;
use crate::pod;
use crate::runtime::observed::{ContainerRecord, State};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const WS_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

type Failure = (StatusCode, String);

/// `/exec/{namespace}/{pod}[/{uid}]/{container}`.
pub fn exec(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        answer(async {
            let (_, record) = target(&call).await?;
            let streams = Streams::of(&call);
            streams.check()?;
            let cmd: Vec<String> =
                call.query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
            let Streams { stdin, stdout, stderr, tty } = streams;
            let request = v1::ExecRequest { container_id: record.id, cmd, tty, stdin, stdout, stderr: stderr && !tty };
            let url = call.kubelet.cri.exec(request).await.map_err(runtime_error)?;
            upgrade(call, url, Some(streams)).await
        })
        .await
    })
}

/// `/attach/{namespace}/{pod}[/{uid}]/{container}`.
pub fn attach(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        answer(async {
            let (pod, record) = target(&call).await?;
            let mut streams = Streams::of(&call);
            streams.check()?;
            // What the container was made with counts.
            let made = pod::container::find(&pod, record.name()).unwrap_or_default();
            streams.tty = made.tty.unwrap_or(false);
            let Streams { stdin, stdout, stderr, tty } = streams;
            let request = v1::AttachRequest { container_id: record.id, stdin, tty, stdout, stderr: stderr && !tty };
            let url = call.kubelet.cri.attach(request).await.map_err(runtime_error)?;
            upgrade(call, url, Some(streams)).await
        })
        .await
    })
}

/// `/portForward/{namespace}/{pod}[/{uid}]`.
pub fn port_forward(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        answer(async {
            let pod = find_pod(&call)?;
            let uid = pod::uid(&pod);
            let missing = || (StatusCode::NOT_FOUND, format!("pod not found ({:?})\n", pod::log_name(&pod)));
            let view = call.kubelet.workers.get(uid).ok_or_else(missing)?.view();
            let sandbox = view.runtime.ready_sandbox().ok_or_else(missing)?.id.clone();
            let port = call.query.iter().filter(|(key, _)| key == "port").filter_map(|(_, value)| value.parse().ok()).collect();
            let url = call
                .kubelet
                .cri
                .port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox, port })
                .await
                .map_err(runtime_error)?;
            upgrade(call, url, None).await
        })
        .await
    })
}

/// `/run/{namespace}/{pod}[/{uid}]/{container}?cmd=`: runs a command and answers with its output.
pub fn run(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        answer(async {
            let (_, record) = target(&call).await?;
            let cmd = call.param("cmd").unwrap_or("").split_whitespace().map(str::to_owned).collect();
            let output = call.kubelet.cri.exec_sync(&record.id, cmd, std::time::Duration::ZERO).await.map_err(runtime_error)?;
            Ok(text(StatusCode::OK, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
        })
        .await
    })
}

async fn answer(work: impl Future<Output = Result<Response<Body>, Failure>>) -> Response<Body> {
    work.await.unwrap_or_else(|(code, message)| text(code, message))
}

fn runtime_error(status: tonic::Status) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("rpc error: code = {:?} desc = {}\n", status.code(), status.message()))
}

/// The streams asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(call: &Call) -> Self {
        let tty = call.flag(&["tty"]);
        Self {
            stdin: call.flag(&["input", "stdin"]),
            stdout: call.flag(&["output", "stdout"]),
            stderr: call.flag(&["error", "stderr"]),
            tty,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.stdin || self.stdout || self.stderr {
            Ok(())
        } else {
            Err((StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr\n".into()))
        }
    }
}

fn find_pod(call: &Call) -> Result<Arc<Pod>, Failure> {
    let [namespace, name, ..] = &call.rest[..] else { return Err((StatusCode::BAD_REQUEST, "missing pod\n".into())) };
    call.kubelet.pods.by_name(namespace, name).ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist\n")))
}

async fn target(call: &Call) -> Result<(Arc<Pod>, ContainerRecord), Failure> {
    let pod = find_pod(call)?;
    let container =
        call.rest.get(2..).and_then(<[String]>::last).ok_or((StatusCode::BAD_REQUEST, "missing container\n".to_owned()))?;
    let missing = || (StatusCode::NOT_FOUND, format!("container not found ({container:?})\n"));
    let uid = pod::uid(&pod);
    let running = |runtime: &crate::runtime::observed::PodRuntime| {
        runtime.latest(container).filter(|record| record.state == State::Running).cloned()
    };
    let known = call.kubelet.workers.get(uid).and_then(|handle| running(&handle.view().runtime));
    let record = match known {
        Some(record) => record,
        None => {
            let runtime = crate::runtime::observed::observe(&call.kubelet.cri, uid).await.map_err(runtime_error)?;
            running(&runtime).ok_or_else(missing)?
        }
    };
    Ok((pod, record))
}

/// How the caller wants to speak.
#[derive(Debug, PartialEq)]
enum Way {
    /// As it is, with this set of WebSocket subprotocols (none for SPDY).
    Through(Option<String>),
    /// WebSocket v5, carried over SPDY.
    Translate,
    /// SPDY in WebSocket messages.
    Untunnel,
    /// Not an upgrade.
    No,
}

fn way(headers: &HeaderMap) -> Way {
    let text =
        |name: &HeaderName| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let upgrade = text(&UPGRADE).to_ascii_lowercase();
    if upgrade.contains("spdy/3.1") {
        return Way::Through(None);
    }
    if !upgrade.contains("websocket") {
        return Way::No;
    }
    let offered = text(&WS_PROTOCOL);
    let offered: Vec<&str> = offered.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if offered.contains(&TUNNEL) {
        return Way::Untunnel;
    }
    if offered.contains(&V5) {
        return Way::Translate;
    }
    Way::Through(Some(offered.join(",")))
}

async fn upgrade(mut call: Call, url: String, streams: Option<Streams>) -> Result<Response<Body>, Failure> {
    match (way(call.request.headers()), streams) {
        (Way::No, _) => Err((StatusCode::BAD_REQUEST, "Upgrade request required\n".into())),
        (Way::Translate, Some(streams)) => {
            let (backend, _) = connect(&url, &spdy_headers(V4)).await?;
            Ok(accept(&mut call, V5, move |client| translate(client, backend, streams)))
        }
        (Way::Untunnel, _) => {
            let (backend, _) = connect(&url, &spdy_headers("portforward.k8s.io")).await?;
            Ok(accept(&mut call, TUNNEL, move |client| untunnel(client, backend)))
        }
        (Way::Through(_) | Way::Translate, _) => through(call, &url).await,
    }
}

fn spdy_headers(protocol: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    headers
}

/// Upgrades a connection to the runtime's streaming server.
async fn connect(url: &str, headers: &HeaderMap) -> Result<(Upgraded, HeaderMap), Failure> {
    let failed = |why: String| (StatusCode::BAD_GATEWAY, format!("error dialing the container runtime: {why}\n"));
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let authority = uri.authority().ok_or_else(|| failed(format!("no host in {url:?}")))?;
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.map_err(|error| failed(error.to_string()))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    // Lives as long as the upgraded connection, which ends it.
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path).body(Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
    if headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        *request.method_mut() = http::Method::GET;
    }
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|error| failed(error.to_string()))?);
    let response = sender.send_request(request).await.map_err(|error| failed(component::chain(&error)))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        return Err((code, String::from_utf8_lossy(&body).into_owned()));
    }
    let answered = response.headers().clone();
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed(error.to_string()))?;
    Ok((upgraded, answered))
}

/// The caller's own handshake, passed on; then bytes both ways.
async fn through(mut call: Call, url: &str) -> Result<Response<Body>, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in call.request.headers() {
        let keep =
            name.as_str().starts_with("sec-websocket") || *name == UPGRADE || *name == CONNECTION || *name == STREAM_PROTOCOL;
        if keep {
            headers.append(name, value.clone());
        }
    }
    let (backend, answered) = connect(url, &headers).await?;
    let mut response = switching();
    for (name, value) in &answered {
        if name.as_str().starts_with("sec-websocket") || *name == UPGRADE || *name == CONNECTION || *name == STREAM_PROTOCOL {
            response.headers_mut().append(name, value.clone());
        }
    }
    let client = hyper::upgrade::on(&mut call.request);
    call.kubelet.tasks.spawn("stream", async move {
        if let Ok(client) = client.await {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
    });
    Ok(response)
}

fn switching() -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().clear();
    response
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Accepts the caller's WebSocket with `protocol` and hands it to `work`.
fn accept<F>(call: &mut Call, protocol: &'static str, work: impl FnOnce(Socket) -> F + Send + 'static) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let key = call.request.headers().get("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes())).unwrap_or_default();
    let mut response = switching();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(WS_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert("sec-websocket-accept", key);
    }
    let client = hyper::upgrade::on(&mut call.request);
    call.kubelet.tasks.spawn("stream", async move {
        if let Ok(client) = client.await {
            work(WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await).await;
        }
    });
    response
}

/// Channels of the v5 protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// The end of all goes well.
const NORMAL: CloseFrame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };

async fn translate(mut client: Socket, backend: Upgraded, streams: Streams) {
    let (read, write) = tokio::io::split(TokioIo::new(backend));
    let (mut reader, mut writer) = (spdy::Reader::new(read), spdy::Writer::new(write));
    let mut ids: HashMap<u8, u32> = HashMap::new();
    let wanted = [
        (ERROR, "error", true),
        (STDIN, "stdin", streams.stdin),
        (STDOUT, "stdout", streams.stdout),
        (STDERR, "stderr", streams.stderr && !streams.tty),
        (RESIZE, "resize", streams.tty),
    ];
    for (id, (channel, kind, _)) in (1..).step_by(2).zip(wanted.into_iter().filter(|(.., wanted)| *wanted)) {
        if writer.open(id, &[("streamtype", kind)]).await.is_err() {
            return;
        }
        ids.insert(channel, id);
    }
    let channels: HashMap<u32, u8> = ids.iter().map(|(channel, id)| (*id, *channel)).collect();
    let outputs = |open: &std::collections::HashSet<u32>| {
        open.iter().any(|id| matches!(channels.get(id), Some(&(STDOUT | STDERR | ERROR))))
    };
    let mut open: std::collections::HashSet<u32> = channels.keys().copied().collect();
    loop {
        tokio::select! {
            message = client.next() => match message {
                Some(Ok(Message::Binary(data))) => {
                    let result = match data.split_first() {
                        Some((&CLOSE, [channel, ..])) => match ids.get(channel) {
                            Some(id) => writer.data(*id, &[], true).await,
                            None => Ok(()),
                        },
                        Some((channel @ &(STDIN | RESIZE), data)) => match ids.get(channel) {
                            Some(id) => writer.data(*id, data, false).await,
                            None => Ok(()),
                        },
                        _ => Ok(()),
                    };
                    if result.is_err() {
                        break;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            frame = reader.next() => match frame {
                Ok(Some(Frame::Data(id, data, last))) => {
                    if let Some(channel) = channels.get(&id).filter(|_| !data.is_empty()) {
                        let mut message = Vec::with_capacity(data.len() + 1);
                        message.push(*channel);
                        message.extend_from_slice(&data);
                        if client.send(Message::Binary(message.into())).await.is_err() {
                            return;
                        }
                    }
                    if last {
                        open.remove(&id);
                    }
                }
                Ok(Some(Frame::Reset(id))) => {
                    open.remove(&id);
                }
                Ok(Some(Frame::Ping(id))) => {
                    let _ = writer.pong(id).await;
                }
                Ok(Some(Frame::Other)) => {}
                Ok(Some(Frame::GoAway) | None) | Err(_) => break,
            },
        }
        if !outputs(&open) {
            break;
        }
    }
    // A close without a code is an error to the caller.
    let _ = client.close(Some(NORMAL)).await;
}

async fn untunnel(client: Socket, backend: Upgraded) {
    let (mut read, mut write) = tokio::io::split(TokioIo::new(backend));
    let (mut sink, mut messages) = client.split();
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            let over = match message {
                Message::Binary(data) => write.write_all(&data).await.is_err() || write.flush().await.is_err(),
                Message::Close(_) => true,
                _ => false,
            };
            if over {
                break;
            }
        }
        let _ = write.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(n) = read.read(&mut buffer).await {
            if n == 0 || sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                break;
            }
        }
        let _ = sink.send(Message::Close(Some(NORMAL))).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_follows_what_the_caller_offers() {
        let headers = |upgrade: &str, protocols: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, upgrade.parse().unwrap());
            headers.insert(WS_PROTOCOL, protocols.parse().unwrap());
            headers
        };
        assert_eq!(way(&headers("SPDY/3.1", "")), Way::Through(None));
        assert_eq!(way(&headers("websocket", "v5.channel.k8s.io")), Way::Translate);
        assert_eq!(way(&headers("websocket", "v5.channel.k8s.io, v4.channel.k8s.io")), Way::Translate);
        assert_eq!(
            way(&headers("WebSocket", "v4.channel.k8s.io,channel.k8s.io")),
            Way::Through(Some("v4.channel.k8s.io,channel.k8s.io".into()))
        );
        assert_eq!(way(&headers("websocket", TUNNEL)), Way::Untunnel);
        assert_eq!(way(&HeaderMap::new()), Way::No);
    }
}
