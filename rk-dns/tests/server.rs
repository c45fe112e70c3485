//! The server over the wire: UDP and TCP on loopback, an upstream server of our own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use component::tasks::Tasks;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::RwLock;
use rk_dns::config::Config;
use rk_dns::handler::{Probes, Running, Shared};
use rk_dns::index::Index;
use rk_dns::{corefile, start};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// An upstream that knows everything: names have an address, `big…` has many, `missing…` do not exist, `silent…` get no answer.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

fn answer(message: &Message) -> Option<Message> {
    let query = message.queries.first()?.clone();
    let name = query.name().to_ascii();
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.add_query(query.clone());
    reply.metadata.recursion_available = true;
    if name.starts_with("silent") {
        return None;
    }
    if name.starts_with("missing") {
        reply.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::A {
        let count = if name.starts_with("big") { 100 } else { 1 };
        for host in 0..count {
            reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A([203, 0, 113, host].into()))));
        }
    } else if query.query_type() == RecordType::TXT {
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::TXT(TXT::new(vec!["x".into()]))));
    }
    Some(reply)
}

async fn upstream() -> Upstream {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::Relaxed);
            let Some(mut reply) = answer(&Message::from_vec(&buffer[..length]).unwrap()) else { continue };
            if reply.to_vec().unwrap().len() > 512 {
                reply = reply.truncate();
                reply.metadata.truncation = true;
            }
            udp.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut buffer = vec![0; usize::from(length)];
            stream.read_exact(&mut buffer).await.unwrap();
            let reply = answer(&Message::from_vec(&buffer).unwrap()).unwrap().to_vec().unwrap();
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    Upstream { address, asked }
}

struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

async fn dns(corefile_text: &str) -> Dns {
    // Port 0 cannot be a zone's port: find a free one first.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let text = corefile_text.replace("PORT", &port.to_string());
    let config = Config::new(&corefile::parse(&text).unwrap(), &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let mut index = Index::default();
    index.namespaces.insert("default".into());
    let service = |name: &str, spec| {
        serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
    };
    index.set_service(&service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80, "name": "http"}]})));
    index.set_service(&service("out", json!({"type": "ExternalName", "externalName": "www.example.org"})));
    let shared = Arc::new(Shared {
        running: ArcSwap::from_pointee(Running::new(config.clone())),
        index: RwLock::new(index),
        synced: AtomicBool::new(true),
        probes: Probes::default(),
        loop_found: tokio::sync::Notify::new(),
    });
    let tasks = Tasks::new();
    let address = start::listen(&config, &shared, &tasks).await.unwrap()[0];
    Dns { address: SocketAddr::from(([127, 0, 0, 1], address.port())), shared, tasks }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl Dns {
    async fn udp(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = [0; 65535];
        let length = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn tcp(&self, message: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = message.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut buffer).await.unwrap();
        Message::from_vec(&buffer).unwrap()
    }
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

const COREFILE: &str = ".:PORT {\n bind 127.0.0.1\n kubernetes cluster.local in-addr.arpa {\n  ttl 30\n  fallthrough in-addr.arpa\n }\n forward . UPSTREAM\n cache 30\n loadbalance\n}";

#[tokio::test]
async fn cluster_names_and_others_are_answered_over_udp_and_tcp() {
    let upstream = upstream().await;
    let dns = dns(&COREFILE.replace("UPSTREAM", &upstream.address.to_string())).await;
    for over_tcp in [false, true] {
        let ask = async |name: &str, kind| {
            let message = question(name, kind);
            if over_tcp { dns.tcp(&message).await } else { dns.udp(&message).await }
        };
        let reply = ask("WEB.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(addresses(&reply), ["10.96.0.5".parse::<IpAddr>().unwrap()]);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
        assert_eq!(reply.queries[0].name().to_ascii(), "WEB.default.svc.cluster.local.", "as the client wrote it");
        let reply = ask("nothing.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        let reply = ask("www.example.org.", RecordType::A).await;
        assert_eq!(addresses(&reply), ["203.0.113.0".parse::<IpAddr>().unwrap()]);
        assert!(!reply.metadata.authoritative);
        let reply = ask("out.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
        assert_eq!(addresses(&reply), ["203.0.113.0".parse::<IpAddr>().unwrap()], "the alias's address comes along");
    }
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 1, "one question for the same name, the rest from the cache");
    dns.tasks.stop();
}

#[tokio::test]
async fn large_answers_are_truncated_for_udp_and_whole_for_tcp() {
    let upstream = upstream().await;
    let dns = dns(&COREFILE.replace("UPSTREAM", &upstream.address.to_string())).await;
    let mut message = question("big.example.org.", RecordType::A);
    let plain = dns.udp(&message).await;
    assert!(plain.metadata.truncation && plain.answers.len() < 100, "{} answers", plain.answers.len());
    assert_eq!(dns.tcp(&message).await.answers.len(), 100);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let extended = dns.udp(&message).await;
    assert!(extended.edns.is_some());
    assert!(extended.answers.len() > plain.answers.len(), "{} answers", extended.answers.len());
    dns.tasks.stop();
}

#[tokio::test]
async fn dead_upstreams_are_passed_over() {
    let upstream = upstream().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = format!("{dead} {} {{\n policy sequential\n}}", upstream.address);
    let dns = dns(&COREFILE.replace("UPSTREAM", &servers)).await;
    for number in 0..5 {
        let reply = dns.udp(&question(&format!("n{number}.example.org."), RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    }
    dns.tasks.stop();
}

#[tokio::test]
async fn what_we_do_not_do_is_said_so() {
    let upstream = upstream().await;
    let dns = dns(&COREFILE.replace("UPSTREAM", &upstream.address.to_string())).await;
    let reply = dns.udp(&question("cluster.local.", RecordType::AXFR)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    let reply = dns.udp(&question("missing.example.org.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let mut update = question("example.org.", RecordType::A);
    update.metadata.op_code = hickory_proto::op::OpCode::Notify;
    assert_eq!(dns.udp(&update).await.metadata.response_code, ResponseCode::NotImp);
    dns.tasks.stop();
}

#[tokio::test]
async fn garbage_does_not_disturb_others() {
    let upstream = upstream().await;
    let dns = dns(&COREFILE.replace("UPSTREAM", &upstream.address.to_string())).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good = question("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let mut state = 1_u32;
    for round in 0..2000_usize {
        let mut bytes = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = usize::try_from(state >> 8).unwrap() % bytes.len();
            bytes[at] = u8::try_from(state & 255).unwrap();
        }
        bytes.truncate(round % (bytes.len() + 1));
        socket.send_to(&bytes, dns.address).await.unwrap();
    }
    let reply = dns.udp(&question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let mut stream = TcpStream::connect(dns.address).await.unwrap();
    stream.write_all(&[0xff; 600]).await.unwrap();
    let reply = dns.tcp(&question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
    dns.tasks.stop();
}

#[tokio::test]
async fn a_question_that_comes_back_is_a_loop() {
    let dns = dns(".:PORT {\n bind 127.0.0.1\n forward . 127.0.0.1:PORT\n loop\n}").await;
    let name = Name::from_ascii("1.2.").unwrap();
    let labels = rk_dns::handler::labels(&name);
    dns.shared.probes.add(labels.clone());
    dns.udp(&question("1.2.", RecordType::HINFO)).await;
    tokio::time::timeout(Duration::from_secs(10), dns.shared.loop_found.notified()).await.unwrap();
    dns.tasks.stop();
}
