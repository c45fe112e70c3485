//! Fixed names from the Corefile or a hosts file, and their reverse.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::config::Hosts;
use crate::handler::Reply;
use crate::kubernetes::Question;

/// The answer for a name that is listed; `None` when others may know it.
pub fn answer(hosts: &Hosts, question: &Question<'_>) -> Option<Reply> {
    let ips = hosts.names.get(question.labels)?;
    let record = |data| Record::from_rdata(question.name.clone(), hosts.ttl, data);
    let answers: Vec<Record> = ips
        .iter()
        .filter_map(|ip| match (ip, question.kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(record(RData::A(A(*v4)))),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(record(RData::AAAA(AAAA(*v6)))),
            _ => None,
        })
        .collect();
    if answers.is_empty() && hosts.fallthrough.allows(question.labels) {
        return None;
    }
    Some(Reply { answers, authoritative: true, ..Reply::code(ResponseCode::NoError) })
}
