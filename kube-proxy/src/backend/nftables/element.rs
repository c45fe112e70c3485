//! Elements of sets and maps as the kernel takes them, from the text that nft would take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::netlink::Request;
use net::nft::Verdict;

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
const UDATA_COMMENT: u8 = 0;
/// Longest comment that nft shows, bytes.
const COMMENT_LIMIT: usize = 128;

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Nothing,
    Data(Vec<u8>),
    Drop,
    Goto(String),
}

/// One element, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    key: Vec<u8>,
    value: Value,
    comment: String,
}

/// One field of a concatenation, padded to a multiple of four bytes. The index of an endpoint is a number of the machine, all
/// other numbers are ports.
fn field(text: &str, is_index: bool, out: &mut Vec<u8>) -> Option<()> {
    match text {
        "tcp" => out.extend_from_slice(&[6, 0, 0, 0]),
        "udp" => out.extend_from_slice(&[17, 0, 0, 0]),
        "sctp" => out.extend_from_slice(&[132, 0, 0, 0]),
        _ if is_index => out.extend_from_slice(&text.parse::<u32>().ok()?.to_ne_bytes()),
        _ => match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(v4)) => out.extend_from_slice(&Ipv4Addr::octets(&v4)),
            Ok(IpAddr::V6(v6)) => out.extend_from_slice(&Ipv6Addr::octets(&v6)),
            Err(_) => {
                out.extend_from_slice(&text.parse::<u16>().ok()?.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
            }
        },
    }
    Some(())
}

fn concatenation(text: &str, has_index: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(48);
    let fields: Vec<&str> = text.split(" . ").collect();
    for (at, text) in fields.iter().enumerate() {
        field(text.trim(), has_index && at + 1 == fields.len(), &mut out)?;
    }
    Some(out)
}

impl Element {
    /// Parses `key` and `rest` (comment and value) of an element of `set`; `None` for what only nft understands.
    pub fn parse(set: &str, key: &str, rest: &str) -> Option<Self> {
        let key = concatenation(key, set.starts_with("endpoints-"))?;
        let (before, value) = rest.rsplit_once(" : ").or_else(|| rest.rsplit_once(": ")).unwrap_or((rest, ""));
        let comment = before.trim().strip_prefix("comment").map(|text| text.trim().trim_matches('"')).unwrap_or_default();
        let value = match value.trim() {
            "" => Value::Nothing,
            "drop" => Value::Drop,
            text => match text.strip_prefix("goto ") {
                Some(chain) => Value::Goto(chain.to_owned()),
                None => Value::Data(concatenation(text, false)?),
            },
        };
        Some(Self { key, value, comment: comment.to_owned() })
    }

    /// Writes the attributes of an element that is added.
    pub fn write(&self, request: &mut Request) {
        self.write_key(request);
        match &self.value {
            Value::Nothing => {}
            Value::Data(data) => {
                request.nested(ELEM_DATA, |r| {
                    r.attr(DATA_VALUE, data);
                });
            }
            Value::Drop => {
                request.nested(ELEM_DATA, |r| Verdict::Drop.write(r));
            }
            Value::Goto(chain) => {
                request.nested(ELEM_DATA, |r| Verdict::Goto(chain).write(r));
            }
        }
        if !self.comment.is_empty() && self.comment.len() < COMMENT_LIMIT {
            let mut data = vec![UDATA_COMMENT, u8::try_from(self.comment.len() + 1).unwrap_or(u8::MAX)];
            data.extend_from_slice(self.comment.as_bytes());
            data.push(0);
            request.attr(ELEM_USERDATA, &data);
        }
    }

    /// Writes the attributes of an element that is deleted.
    pub fn write_key(&self, request: &mut Request) {
        request.nested(ELEM_KEY, |r| {
            r.attr(DATA_VALUE, &self.key);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_and_ordered_as_the_kernel_wants_them() {
        let element =
            Element::parse("endpoints-2", "10.96.0.5 . tcp . 80 . 1", " comment \"ns/web\" : 10.244.0.2 . 8080").unwrap();
        let mut key = vec![10, 96, 0, 5, 6, 0, 0, 0, 0, 80, 0, 0];
        key.extend_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(element.key, key);
        assert_eq!(element.value, Value::Data(vec![10, 244, 0, 2, 0x1f, 0x90, 0, 0]));
        assert_eq!(element.comment, "ns/web");
        let plain = Element::parse("hairpin", "fd00::1 . fd00::1", "").unwrap();
        assert_eq!((plain.key.len(), plain.value), (32, Value::Nothing));
        let verdict = Element::parse("service-nodeports", "udp . 30053", " comment \"a\" : goto external-x-ns/web/udp").unwrap();
        assert_eq!(verdict.value, Value::Goto("external-x-ns/web/udp".into()));
        assert_eq!(Element::parse("x", "10.0.0.0/8", ""), None);
    }
}
