//! A small synchronous netlink client: requests are built byte by byte, answers are read as attributes.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket};

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// Receive buffer, bytes. The kernel fills dumps with up to 32 KiB per read; less would truncate, more is never used.
const BUFFER: usize = 64 * 1024;

/// What the kernel answered, and what was asked of it.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action}: {}{}", errno.desc(), detail(.message))]
pub struct Error {
    pub action: String,
    pub errno: Errno,
    /// The kernel's own words (extended acknowledgement), where it has any.
    pub message: String,
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl Error {
    pub fn new(action: impl Into<String>, errno: Errno) -> Self {
        Self { action: action.into(), errno, message: String::new() }
    }

    /// The thing asked for is already there.
    pub fn exists(&self) -> bool {
        self.errno == Errno::EEXIST
    }

    /// The thing asked about is not there.
    pub fn missing(&self) -> bool {
        matches!(self.errno, Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO)
    }
}

/// `Ok` also where the thing is already there.
pub fn allow_exists(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.exists() => Ok(()),
        other => other,
    }
}

/// `Ok` also where the thing is not there.
pub fn allow_missing(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.missing() => Ok(()),
        other => other,
    }
}

/// One request under construction.
pub struct Request {
    buf: Vec<u8>,
}

impl Request {
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut buf = vec![0; HEADER];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self { buf }
    }

    /// Appends the fixed header of the message kind.
    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let length = u16::try_from(data.len() + 4).expect("attributes are names, addresses and numbers: short");
        self.buf.extend_from_slice(&length.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(data);
        self.pad();
        self
    }

    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A NUL-terminated string.
    pub fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u16::try_from(self.buf.len() - start).expect("nested attributes are short");
        self.buf[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.buf[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    /// Bytes without a header of their own (a nested fixed structure).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Bytes so far.
    #[allow(clippy::len_without_is_empty)] // never empty: there is a header
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// The bytes of the message, with its length and this sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.buf.len()).expect("requests are short");
        self.buf[0..4].copy_from_slice(&length.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.buf
    }

    fn pad(&mut self) {
        while !self.buf.len().is_multiple_of(4) {
            self.buf.push(0);
        }
    }
}

/// One message of an answer.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl Message {
    /// The attributes that follow a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes { rest: self.payload.get(align(header)..).unwrap_or_default() }
    }
}

/// Iterates over (kind, value) pairs; stops at the first malformed one.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn get(self, wanted: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & NLA_TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A netlink socket; it stays in the network namespace in which it was opened, wherever its user goes.
pub struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

impl Socket {
    /// A socket to the routing family, in the calling thread's namespace.
    pub fn route() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// A socket to the netfilter family, in the calling thread's namespace.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Error> {
        let failed = |errno| Error::new("open a netlink socket", errno);
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        // Both only make errors readable and short; kernels without them still answer.
        let _ = crate::sys::enable_option(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK);
        let _ = crate::sys::enable_option(fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_CAP_ACK);
        Ok(Self { fd, sequence: Cell::new(1) })
    }

    /// Sends a request that changes something and waits for the kernel's verdict.
    pub fn change(&self, action: impl Into<String>, request: Request) -> Result<(), Error> {
        self.exchange(action.into(), request, NLM_F_ACK).map(drop)
    }

    /// Sends a request for one object.
    pub fn get(&self, action: impl Into<String>, request: Request) -> Result<Option<Message>, Error> {
        Ok(self.exchange(action.into(), request, NLM_F_ACK)?.into_iter().next())
    }

    /// Reads a whole table; reads again when it changed meanwhile.
    pub fn dump(&self, action: impl Into<String>, request: impl Fn() -> Request) -> Result<Vec<Message>, Error> {
        let action = action.into();
        // A table that never holds still is taken as it was last seen.
        for _ in 0..4 {
            match self.exchange(action.clone(), request(), NLM_F_DUMP) {
                Err(error) if error.errno == Errno::EINTR => {}
                other => return other,
            }
        }
        self.exchange(action, request(), NLM_F_DUMP)
    }

    /// Reads a whole table without keeping it; what changes meanwhile may be missed or seen twice.
    pub fn dump_each(&self, action: &str, request: impl Fn() -> Request, mut each: impl FnMut(&Message)) -> Result<(), Error> {
        let sequence = self.send(action, request(), NLM_F_DUMP)?;
        self.collect_each(action.to_owned(), sequence, false, |kind, payload| {
            each(&Message { kind, payload: payload.to_vec() });
        })
    }

    /// Reads the beginning of a table: what the kernel answers first. For a socket that is not used again.
    pub fn dump_beginning(self, action: &str, request: Request) -> Result<Vec<Message>, Error> {
        let sequence = self.send(action, request, NLM_F_DUMP)?;
        let mut buffer = vec![0; BUFFER];
        let read = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(|errno| Error::new(action, errno))?;
        let (mut rest, mut messages) = (&buffer[..read], Vec::new());
        while let Some(frame) = Frame::split(&mut rest) {
            if frame.sequence == sequence && frame.kind > NLMSG_DONE {
                messages.push(Message { kind: frame.kind, payload: frame.payload.to_vec() });
            }
        }
        Ok(messages)
    }

    /// Sends a transaction; its messages are numbered from 1, and only the last one asks for an answer.
    pub(crate) fn transact(&self, bytes: &[u8], last: u32) -> Result<(), Error> {
        use nix::sys::socket::{setsockopt, sockopt};
        // The kernel takes a transaction in one piece. Without the privilege to pass the system's limit, up to that limit.
        let wanted = bytes.len() + 64 * 1024;
        if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &wanted);
        }
        let action = || "change rules".to_owned();
        if let Err(errno) = sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
            return Err(Error::new(action(), errno));
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(read) => read,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::new(action(), errno)),
            };
            let mut rest = &buffer[..read];
            while let Some(frame) = Frame::split(&mut rest) {
                if frame.kind != NLMSG_ERROR {
                    continue;
                }
                let errno = frame.payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                if errno != 0 {
                    self.drain();
                    let message = extended_message(frame.flags, frame.payload);
                    let action = format!("change rules (message {} of {last})", frame.sequence);
                    return Err(Error { action, errno: Errno::from_raw(-errno), message });
                }
                if frame.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Throws away what is left of an answer: a refused transaction has one for each message that was refused.
    fn drain(&self) {
        let mut buffer = vec![0; BUFFER];
        while recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok_and(|read| read > 0) {}
    }

    fn send(&self, action: &str, mut request: Request, flags: u16) -> Result<u32, Error> {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        let all = u16::from_ne_bytes([request.buf[6], request.buf[7]]) | flags;
        request.buf[6..8].copy_from_slice(&all.to_ne_bytes());
        match sendto(self.fd.as_raw_fd(), &request.finish(sequence), &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
            Ok(_) => Ok(sequence),
            Err(errno) => Err(Error::new(action, errno)),
        }
    }

    fn exchange(&self, action: String, request: Request, flags: u16) -> Result<Vec<Message>, Error> {
        let sequence = self.send(&action, request, flags)?;
        let mut messages = Vec::new();
        self.collect_each(action, sequence, flags & NLM_F_DUMP != 0, |kind, payload| {
            messages.push(Message { kind, payload: payload.to_vec() });
        })?;
        Ok(messages)
    }

    fn collect_each(&self, action: String, sequence: u32, dump: bool, mut each: impl FnMut(u16, &[u8])) -> Result<(), Error> {
        let mut buffer = vec![0; BUFFER];
        let mut interrupted = false;
        loop {
            let read = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(read) => read,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::new(action, errno)),
            };
            let mut rest = &buffer[..read];
            while let Some(frame) = Frame::split(&mut rest) {
                if frame.sequence != sequence {
                    continue; // the late answer to a request that was given up
                }
                interrupted |= dump && frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_DONE if interrupted => return Err(Error::new(action, Errno::EINTR)),
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = frame.payload.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        if errno == 0 {
                            return Ok(());
                        }
                        let message = extended_message(frame.flags, frame.payload);
                        return Err(Error { action, errno: Errno::from_raw(-errno), message });
                    }
                    kind => each(kind, frame.payload),
                }
            }
        }
    }
}

struct Frame<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let frame = Self {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            payload: rest.get(HEADER..length)?,
        };
        *rest = rest.get(align(length)..).unwrap_or_default();
        Some(frame)
    }
}

fn extended_message(flags: u16, payload: &[u8]) -> String {
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    // After the error number comes the request's header, and the whole request unless the answer is capped.
    let echoed = if flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(payload, 4).map_or(HEADER, |n| n as usize) };
    let attributes = Attributes::of(payload.get(4 + align(echoed)..).unwrap_or_default());
    attributes.get(NLMSGERR_ATTR_MSG).map(string).unwrap_or_default()
}

pub(crate) fn align(length: usize) -> usize {
    (length + 3) & !3
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string attribute without its trailing NUL.
pub(crate) fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// The octets of an address, in network order.
pub(crate) fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address behind 4 or 16 octets.
pub(crate) fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(std::net::IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(std::net::IpAddr::from),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation)] // AF_INET and AF_INET6 are small
pub(crate) fn family(address: std::net::IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(io::Error::from(error.errno).kind(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_as_they_were_written() {
        let mut request = Request::new(1, 0).body(&[]);
        request.attr_str(3, "eth0").nested(18, |r| {
            r.attr_str(1, "veth");
        });
        let message = Message { kind: 1, payload: request.buf[HEADER..].to_vec() };
        assert_eq!(message.attributes(0).get(3).map(string).as_deref(), Some("eth0"));
        let nested = Attributes::of(message.attributes(0).get(18).unwrap());
        assert_eq!(nested.get(1).map(string).as_deref(), Some("veth"));
    }

    #[test]
    fn truncated_attributes_end_the_iteration() {
        for bytes in [&[][..], &[4], &[8, 0, 1, 0, 9], &[0, 0, 1, 0], &[3, 0, 1, 0]] {
            assert_eq!(Attributes::of(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn an_unknown_link_is_missing() {
        let error = crate::link::by_name(&Socket::route().unwrap(), "no-such-link0").unwrap_err();
        assert!(error.missing(), "{error}");
    }
}
