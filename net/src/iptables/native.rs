//! Batches of `iptables-restore --noflush` written to nf_tables directly, in the form in which iptables-nft would write
//! them, so that `iptables-save` and `iptables -L` show them as ever.
//!
//! iptables-nft needs time that grows with the square of the number of chains; this needs time that grows with the batch.
//! Only the matches and targets of Services are understood. A batch with any other goes to the program.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Family;
use crate::netlink::{self, Request};
use crate::nft::{self, Batch, LIST_ELEM, Verdict};
use crate::{Error, Socket};

const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const RULE_USERDATA: u16 = 7;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `IFNAMSIZ`
const NAME_SIZE: usize = 16;
/// User data that iptables takes for the comment.
const UDATA_COMMENT: u8 = 0;
/// User data of ours, which others skip: a digest of the rule's text, by which it is found again.
const UDATA_DIGEST: u8 = 0x52;
/// User data is at most 256 bytes; two headers, a digest and the string's end are not for the comment.
const COMMENT_LIMIT: usize = 256 - 2 - 2 - 8 - 1;
const SCTP: u8 = 132;
/// `RTN_LOCAL` as a bit.
const TYPE_LOCAL: u16 = 1 << 2;

/// A batch cannot be written this way, for a reason that is no error: the program can.
#[derive(Debug, PartialEq, Eq)]
pub struct NotUnderstood(pub String);

#[derive(Debug, Clone, PartialEq)]
enum Step<'a> {
    Source { net: IpNet, not: bool },
    Destination { net: IpNet, not: bool },
    Input { name: &'a str, not: bool },
    Protocol(u8),
    DestinationPort(u16),
    SourceLocal,
    DestinationLocal,
    Chance(u32),
    Recent { name: &'a str, seconds: Option<u32>, set: bool },
}

#[derive(Debug, Clone, PartialEq)]
enum Target<'a> {
    Verdict(Verdict<'a>),
    Reject,
    Dnat(SocketAddr),
}

#[derive(Debug, Clone, PartialEq)]
struct Rule<'a> {
    comment: Option<&'a str>,
    steps: Vec<Step<'a>>,
    target: Target<'a>,
}

/// Words of a rule; quotes hold one together.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        rest = after;
        Some(word)
    })
}

fn parse(text: &str) -> Result<Rule<'_>, NotUnderstood> {
    let foreign = || NotUnderstood(text.to_owned());
    let mut words = words(text);
    let (mut comment, mut steps, mut target, mut not) = (None, Vec::new(), None, false);
    let (mut recent_name, mut recent_seconds, mut recent_set, mut recent_at) = (None, None, false, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(foreign);
        let inverted = std::mem::replace(&mut not, word == "!");
        let mut takes_not = false;
        match word {
            "!" => {
                if inverted {
                    return Err(foreign());
                }
                continue;
            }
            "-m" => match value()? {
                "comment" | "tcp" | "udp" | "sctp" | "addrtype" | "statistic" => {}
                "recent" => recent_at = Some(steps.len()),
                _ => return Err(foreign()),
            },
            "--comment" => comment = Some(value()?).filter(|text| text.len() <= COMMENT_LIMIT),
            "-s" | "-d" | "-i" => {
                takes_not = true;
                let value = value()?;
                steps.push(if word == "-i" {
                    Step::Input { name: Some(value).filter(|name| name.len() < NAME_SIZE).ok_or_else(foreign)?, not: inverted }
                } else {
                    let net: IpNet =
                        value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from)).map_err(|_| foreign())?;
                    if word == "-s" { Step::Source { net, not: inverted } } else { Step::Destination { net, not: inverted } }
                });
            }
            "-p" => steps.insert(0, Step::Protocol(protocol(value()?).ok_or_else(foreign)?)),
            "--dport" => steps.push(Step::DestinationPort(value()?.parse().map_err(|_| foreign())?)),
            "--src-type" | "--dst-type" => {
                if value()? != "LOCAL" {
                    return Err(foreign());
                }
                steps.push(if word == "--src-type" { Step::SourceLocal } else { Step::DestinationLocal });
            }
            "--mode" => {
                if value()? != "random" {
                    return Err(foreign());
                }
            }
            "--probability" => {
                let chance: f64 = value()?.parse().map_err(|_| foreign())?;
                steps.push(Step::Chance(scale(chance).ok_or_else(foreign)?));
            }
            "--name" => recent_name = Some(value()?).filter(|name| name.len() < 200),
            "--seconds" => recent_seconds = Some(value()?.parse().map_err(|_| foreign())?),
            "--rcheck" | "--reap" | "--rsource" => {}
            "--set" => recent_set = true,
            "-j" => {
                let name = value()?;
                target = Some(match name {
                    "ACCEPT" => Target::Verdict(Verdict::Accept),
                    "DROP" => Target::Verdict(Verdict::Drop),
                    "RETURN" => Target::Verdict(Verdict::Return),
                    "REJECT" => Target::Reject,
                    "DNAT" if words.next() == Some("--to-destination") => {
                        Target::Dnat(words.next().and_then(|to| to.parse().ok()).ok_or_else(foreign)?)
                    }
                    // Targets of extensions are upper case too; chains of ours have a dash.
                    chain if chain.contains('-') => Target::Verdict(Verdict::Jump(chain)),
                    _ => return Err(foreign()),
                });
            }
            _ => return Err(foreign()),
        }
        if inverted && !takes_not {
            return Err(foreign());
        }
    }
    if let Some(at) = recent_at {
        let name = recent_name.ok_or_else(foreign)?;
        steps.insert(at.min(steps.len()), Step::Recent { name, seconds: recent_seconds, set: recent_set });
    }
    Ok(Rule { comment, steps, target: target.ok_or_else(foreign)? })
}

/// A probability as the statistic match holds it: in parts of 2^31.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked to be within 0 and 1
fn scale(chance: f64) -> Option<u32> {
    (0.0..=1.0).contains(&chance).then(|| (chance * f64::from(1_u32 << 31)).round() as u32)
}

fn protocol(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(SCTP),
        _ => None,
    }
}

fn expression(r: &mut Request, name: &str, fill: impl FnOnce(&mut Request)) {
    r.nested(LIST_ELEM, |r| {
        r.attr_str(EXPR_NAME, name).nested(EXPR_DATA, fill);
    });
}

fn number(r: &mut Request, kind: u16, value: u32) {
    r.attr(kind, &value.to_be_bytes());
}

fn compare(r: &mut Request, not: bool, value: &[u8]) {
    expression(r, "cmp", |r| {
        number(r, 1, REGISTER);
        number(r, 2, u32::from(not));
        r.nested(3, |r| {
            r.attr(DATA_VALUE, value);
        });
    });
}

fn meta(r: &mut Request, key: u32) {
    expression(r, "meta", |r| {
        number(r, 1, REGISTER);
        number(r, 2, key);
    });
}

fn payload(r: &mut Request, base: u32, offset: u32, length: usize) {
    expression(r, "payload", |r| {
        number(r, 1, REGISTER);
        number(r, 2, base);
        number(r, 3, offset);
        number(r, 4, u32::try_from(length).unwrap_or_default());
    });
}

fn address(r: &mut Request, net: &IpNet, source: bool, not: bool) {
    let (octets, mask) = (netlink::octets(net.network()), netlink::octets(net.netmask()));
    let offset = match (octets.len(), source) {
        (4, true) => 12,
        (4, false) => 16,
        (_, true) => 8,
        (_, false) => 24,
    };
    let bits = usize::from(net.prefix_len());
    // Whole bytes are compared as they are; the rest is masked first.
    let length = if bits.is_multiple_of(8) { bits / 8 } else { octets.len() };
    if bits == 0 {
        return;
    }
    payload(r, NETWORK_HEADER, offset, length);
    if !bits.is_multiple_of(8) {
        expression(r, "bitwise", |r| {
            number(r, 1, REGISTER);
            number(r, 2, REGISTER);
            number(r, 3, u32::try_from(length).unwrap_or_default());
            r.nested(4, |r| {
                r.attr(DATA_VALUE, &mask);
            });
            r.nested(5, |r| {
                r.attr(DATA_VALUE, &vec![0; length]);
            });
        });
    }
    compare(r, not, &octets[..length]);
}

fn interface(r: &mut Request, name: &str, not: bool) {
    meta(r, META_IIFNAME);
    match name.strip_suffix('+') {
        Some(prefix) => compare(r, not, prefix.as_bytes()),
        None => compare(r, not, &[name.as_bytes(), &[0]].concat()),
    }
}

/// A match or target of an extension; its structure is padded to what the kernel reckons it is.
fn extension(r: &mut Request, kind: &str, name: &str, revision: u32, mut info: Vec<u8>) {
    while !info.len().is_multiple_of(8) {
        info.push(0);
    }
    expression(r, kind, |r| {
        r.attr_str(1, name);
        number(r, 2, revision);
        r.attr(3, &info);
    });
}

/// `struct xt_addrtype_info_v1`
fn address_type(source: u16, destination: u16) -> Vec<u8> {
    let mut info = source.to_ne_bytes().to_vec();
    info.extend_from_slice(&destination.to_ne_bytes());
    info.extend_from_slice(&[0; 4]);
    info
}

/// `struct xt_statistic_info`, mode random.
fn statistic(chance: u32) -> Vec<u8> {
    let mut info = vec![0; 4];
    info.extend_from_slice(&chance.to_ne_bytes());
    info.extend_from_slice(&[0; 16]);
    info
}

/// `struct xt_recent_mtinfo_v1`
fn recent(name: &str, seconds: Option<u32>, set: bool) -> Vec<u8> {
    const CHECK: u8 = 1;
    const SET: u8 = 2;
    const REAP: u8 = 32;
    let mut info = seconds.unwrap_or(0).to_ne_bytes().to_vec();
    info.extend_from_slice(&[0; 4]);
    info.push(if set { SET } else { CHECK | if seconds.is_some() { REAP } else { 0 } });
    info.push(0);
    let mut padded = [0; 200];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    info.extend_from_slice(&padded);
    info.push(0); // by source address
    info.push(0); // alignment
    info.extend_from_slice(&[0xff; 16]);
    info
}

/// `struct nf_nat_range2`
fn translation(to: SocketAddr) -> Vec<u8> {
    const MAP_IPS: u32 = 1;
    const PROTO_SPECIFIED: u32 = 2;
    let mut info = (MAP_IPS | PROTO_SPECIFIED).to_ne_bytes().to_vec();
    let mut ip = netlink::octets(to.ip());
    ip.resize(16, 0);
    info.extend_from_slice(&ip);
    info.extend_from_slice(&ip);
    info.extend_from_slice(&to.port().to_be_bytes());
    info.extend_from_slice(&to.port().to_be_bytes());
    info.extend_from_slice(&[0; 2]);
    info
}

impl Rule<'_> {
    fn write(&self, family: Family, digest: u64, r: &mut Request) {
        let mut compat = None;
        r.nested(RULE_EXPRESSIONS, |r| {
            for step in &self.steps {
                match step {
                    Step::Source { net, not } => address(r, net, true, *not),
                    Step::Destination { net, not } => address(r, net, false, *not),
                    Step::Input { name, not } => interface(r, name, *not),
                    Step::Protocol(number) => {
                        compat = Some(*number);
                        meta(r, META_L4PROTO);
                        compare(r, false, &[*number]);
                    }
                    // The one transport whose ports iptables does not show unless its own match looks at them.
                    Step::DestinationPort(port) if compat == Some(SCTP) => extension(r, "match", "sctp", 0, sctp(*port)),
                    Step::DestinationPort(port) => {
                        payload(r, TRANSPORT_HEADER, 2, 2);
                        compare(r, false, &port.to_be_bytes());
                    }
                    Step::SourceLocal => extension(r, "match", "addrtype", 1, address_type(TYPE_LOCAL, 0)),
                    Step::DestinationLocal => extension(r, "match", "addrtype", 1, address_type(0, TYPE_LOCAL)),
                    Step::Chance(chance) => extension(r, "match", "statistic", 0, statistic(*chance)),
                    Step::Recent { name, seconds, set } => extension(r, "match", "recent", 1, recent(name, *seconds, *set)),
                }
            }
            expression(r, "counter", |_| {});
            match &self.target {
                Target::Verdict(verdict) => expression(r, "immediate", |r| {
                    number(r, 1, 0);
                    r.nested(2, |r| verdict.write(r));
                }),
                // IPT_ICMP_PORT_UNREACHABLE and IP6T_ICMP6_PORT_UNREACH, iptables' defaults.
                Target::Reject => {
                    let with: u32 = if family == Family::V4 { 3 } else { 4 };
                    extension(r, "target", "REJECT", 0, with.to_ne_bytes().to_vec());
                }
                Target::Dnat(to) => extension(r, "target", "DNAT", 2, translation(*to)),
            }
        });
        if let Some(protocol) = compat {
            r.nested(RULE_COMPAT, |r| {
                number(r, 1, u32::from(protocol));
                number(r, 2, 0);
            });
        }
        let mut data = Vec::new();
        if let Some(comment) = self.comment {
            data.extend_from_slice(&[UDATA_COMMENT, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)]);
            data.extend_from_slice(comment.as_bytes());
            data.push(0);
        }
        data.extend_from_slice(&[UDATA_DIGEST, 8]);
        data.extend_from_slice(&digest.to_be_bytes());
        r.attr(RULE_USERDATA, &data);
    }
}

/// `struct xt_sctp_info` with a destination port and nothing else.
fn sctp(port: u16) -> Vec<u8> {
    const DESTINATION_PORTS: u32 = 2;
    let mut info = port.to_ne_bytes().repeat(2);
    info.extend_from_slice(&[0; 4 + 256 + 4]);
    info.extend_from_slice(&[0xff, 0, 0].repeat(4));
    info.extend_from_slice(&[0; 4]);
    info.extend_from_slice(&DESTINATION_PORTS.to_ne_bytes());
    info.extend_from_slice(&[0; 4]);
    info
}

/// FNV-1a: short, and the same in every release, as what is in the kernel outlives the process.
fn digest(text: &str) -> u64 {
    text.trim().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn digest_of(user_data: &[u8]) -> Option<u64> {
    let mut rest = user_data;
    while let [kind, length, ..] = *rest {
        let value = rest.get(2..2 + usize::from(length))?;
        if kind == UDATA_DIGEST {
            return value.try_into().ok().map(u64::from_be_bytes);
        }
        rest = &rest[2 + usize::from(length)..];
    }
    None
}

/// Why a batch was not applied.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was tried.
    NotUnderstood(NotUnderstood),
    Kernel(Error),
    /// A rule that is to go is not there, or not of our making.
    NoSuchRule(String),
}

impl From<NotUnderstood> for Failure {
    fn from(reason: NotUnderstood) -> Self {
        Self::NotUnderstood(reason)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Kernel(error)
    }
}

/// Applies a batch as one transaction. Declared chains are emptied first, as `iptables-restore --noflush` does.
pub fn apply(socket: &Socket, family: Family, input: &str) -> Result<(), Failure> {
    let mut batch = Batch::new(family.number());
    let mut table = "";
    let mut handles: HashMap<(&str, &str), HashMap<u64, Vec<u64>>> = HashMap::new();
    for line in input.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('*') {
            table = name;
            batch.add_table(table);
        } else if let Some(name) = super::chain_name(line) {
            batch.add_chain(table, name);
            batch.flush_chain(table, name);
        } else if let Some(name) = line.strip_prefix("-X ") {
            batch.delete_chain(table, name);
        } else if let Some((verb @ ("-A" | "-I" | "-D"), rest)) = line.split_once(' ') {
            let (chain, text) = rest.split_once(' ').ok_or_else(|| NotUnderstood(line.to_owned()))?;
            if verb == "-D" {
                let known = match handles.entry((table, chain)) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => {
                        let mut known: HashMap<u64, Vec<u64>> = HashMap::new();
                        for rule in nft::rules(socket, family.number(), table, chain)? {
                            if let Some(digest) = digest_of(&rule.user_data) {
                                known.entry(digest).or_default().push(rule.handle);
                            }
                        }
                        place.insert(known)
                    }
                };
                let handle = known.get_mut(&digest(text)).and_then(Vec::pop);
                batch.delete_rule(table, chain, handle.ok_or_else(|| Failure::NoSuchRule(line.to_owned()))?);
            } else {
                let rule = parse(text)?;
                batch.add_rule(table, chain, verb == "-A", |r| rule.write(family, digest(text), r));
            }
        } else if !(line.is_empty() || line == "COMMIT" || line.starts_with('#')) {
            return Err(NotUnderstood(line.to_owned()).into());
        }
    }
    Ok(batch.commit(socket)?)
}

/// The names of a table's chains.
pub fn chains(socket: &Socket, family: Family, table: &str) -> Result<Vec<String>, Error> {
    nft::chains(socket, family.number(), table)
}

/// Whether a chain is there and not empty.
pub fn has_rules(family: Family, table: &str, chain: &str) -> Result<bool, Error> {
    nft::has_rules(family.number(), table, chain)
}

/// Makes chains that are not there; those that are keep their rules.
pub fn ensure_chains(socket: &Socket, family: Family, table: &str, names: &[&str]) -> Result<(), Error> {
    let mut batch = Batch::new(family.number());
    batch.add_table(table);
    for name in names {
        batch.add_chain(table, name);
    }
    batch.commit(socket)
}

#[cfg(test)]
mod tests {
    use super::super::Iptables;
    use super::*;
    use crate::NetNs;

    const BATCH: &str = r#"*filter
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -m comment --comment "ns/web has no endpoints" -p tcp -m tcp -d 10.96.0.5 --dport 80 -j REJECT
-A KUBE-SERVICES -m comment --comment "ns/web no local" -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 30080 -j DROP
COMMIT
*nat
:KUBE-SEP-X - [0:0]
:KUBE-SVC-X - [0:0]
:KUBE-GONE - [0:0]
-A KUBE-SVC-X -m comment --comment "ns/web:dns cluster IP" -p udp -m udp -d 10.96.0.5 --dport 53 -j KUBE-SEP-X
-A KUBE-SVC-X -p sctp -m sctp -d 10.96.0.5/32 --dport 53 -j KUBE-SEP-X
-A KUBE-SVC-X -m comment --comment "x" ! -s 10.244.0.0/16 -p tcp -m tcp -d 10.96.0.5 --dport 80 -j KUBE-SEP-X
-A KUBE-SVC-X -i cni0 -j KUBE-SEP-X
-A KUBE-SVC-X ! -i cni+ -j RETURN
-A KUBE-SVC-X -s 10.240.0.0/13 -j ACCEPT
-A KUBE-SVC-X -m addrtype --src-type LOCAL -j KUBE-SEP-X
-A KUBE-SVC-X -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-X
-A KUBE-SVC-X -m recent --name KUBE-SEP-X --rcheck --seconds 60 --reap --rsource -j KUBE-SEP-X
-A KUBE-SEP-X -m recent --name KUBE-SEP-X --set --rsource -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A KUBE-SEP-X -p sctp -m sctp -j DNAT --to-destination 10.244.0.2:8080
-X KUBE-GONE
COMMIT
"#;

    fn batch(family: Family) -> String {
        if family == Family::V4 {
            return BATCH.to_owned();
        }
        let pairs = [
            ("10.96.0.5/32", "fd00:96::5/128"),
            ("10.96.0.5", "fd00:96::5"),
            ("10.244.0.0/16", "fd00:244::/60"),
            ("10.240.0.0/13", "fd00::/8"),
            ("10.244.0.2:8080", "[fd00:244::2]:8080"),
        ];
        pairs.iter().fold(BATCH.to_owned(), |text, (v4, v6)| text.replace(v4, v6))
    }

    /// Rules as sets of words: where the comment stands and which protocol modules are named twice is not compared.
    fn shown(iptables: Iptables) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for table in ["filter", "nat"] {
            for line in iptables.save(table).unwrap().lines().filter(|line| line.starts_with('-') || line.contains("KUBE")) {
                let line = line.replace(" -m tcp", "").replace(" -m sctp", "").replace(" -m comment", "");
                let mut words: Vec<String> = words(&line).map(str::to_owned).collect();
                words.sort();
                all.push(words);
            }
        }
        all
    }

    #[test]
    fn iptables_shows_the_same_rules_as_if_it_had_written_them() {
        for family in [Family::V4, Family::V6] {
            let iptables = Iptables::new(family);
            let theirs = NetNs::fresh().unwrap().run(|| {
                iptables.restore(&batch(family)).unwrap();
                shown(iptables)
            });
            let ours = NetNs::fresh().unwrap().run(|| {
                let socket = Socket::netfilter().unwrap();
                apply(&socket, family, &batch(family)).unwrap();
                apply(&socket, family, &batch(family)).unwrap();
                shown(iptables)
            });
            assert_eq!(ours.unwrap(), theirs.unwrap(), "{family}");
        }
    }

    #[test]
    fn rules_are_found_again_and_a_refused_batch_changes_nothing() {
        NetNs::fresh()
            .unwrap()
            .run(|| {
                let iptables = Iptables::new(Family::V4);
                iptables.restore("*nat\n:THEIRS - [0:0]\n-A THEIRS -j ACCEPT\nCOMMIT\n").unwrap();
                let socket = Socket::netfilter().unwrap();
                let rule = r#"-m comment --comment "a b" -p tcp -m tcp -d 10.0.0.1 --dport 80 -j KUBE-SVC-X"#;
                let head = "*nat\n:KUBE-SVC-X - [0:0]\n:KUBE-SERVICES - [0:0]\n";
                apply(
                    &socket,
                    Family::V4,
                    &format!("{head}-A KUBE-SERVICES -j RETURN\n-I KUBE-SERVICES {rule}\n-A KUBE-SERVICES {rule}\n"),
                )
                .unwrap();
                let before = iptables.save("nat").unwrap();
                assert_eq!(before.matches("a b").count(), 2, "{before}");
                let refused =
                    apply(&socket, Family::V4, &format!("*nat\n-D KUBE-SERVICES {rule}\n-A KUBE-SERVICES -j KUBE-NO\n"));
                assert!(matches!(&refused, Err(Failure::Kernel(error)) if error.missing()), "{refused:?}");
                let unknown = apply(&socket, Family::V4, "*nat\n-D KUBE-SERVICES -j DROP\n");
                assert!(matches!(unknown, Err(Failure::NoSuchRule(_))), "{unknown:?}");
                let foreign = apply(&socket, Family::V4, "*nat\n-A KUBE-SERVICES -m quota --quota 5 -j DROP\n");
                assert!(matches!(foreign, Err(Failure::NotUnderstood(_))), "{foreign:?}");
                let rules = |text: &str| text.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect::<Vec<_>>();
                assert_eq!(rules(&before), rules(&iptables.save("nat").unwrap()));
                apply(
                    &socket,
                    Family::V4,
                    &format!("*nat\n-D KUBE-SERVICES {rule}\n-D KUBE-SERVICES {rule}\n:KUBE-SVC-X - [0:0]\n-X KUBE-SVC-X\n"),
                )
                .unwrap();
                let after = iptables.save("nat").unwrap();
                assert!(
                    !after.contains("a b")
                        && after.contains("-A THEIRS -j ACCEPT")
                        && after.contains("-A KUBE-SERVICES -j RETURN"),
                    "{after}"
                );
                // What was written here, the program can change.
                iptables.restore("*nat\n:KUBE-SERVICES - [0:0]\n-X KUBE-SERVICES\nCOMMIT\n").unwrap();
            })
            .unwrap();
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for text in [
            "-m multiport --dports 1,2 -j DROP",
            "! -p tcp -j DROP",
            "-j MARK --or-mark 0x4000",
            "-p icmp -j DROP",
            "-m statistic --mode nth --every 2 -j KUBE-SVC-X",
            "-d nonsense -j DROP",
            "-s 10.0.0.1",
            "-j DNAT --to-destination 10.0.0.1",
            "-m recent --set -j DROP",
            "! ! -s 10.0.0.1 -j DROP",
            "-m statistic --mode random --probability 2 -j DROP",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
