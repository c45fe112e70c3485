//! nf_tables over netlink: transactions of any size, and what has to be read back to make them.
//!
//! Programs like `nft` and `iptables` read the present rules before they change one; with ten thousand Services that reading
//! is most of the time. A transaction here is only what it changes.

use nix::errno::Errno;

use crate::netlink::{self, Error, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Request, Socket};

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEWTABLE: u16 = 0;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_USERDATA: u16 = 7;
const ELEM_LIST_TABLE: u16 = 1;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
/// An item of any list.
pub const LIST_ELEM: u16 = 1;

/// Bytes of elements in one message: a netlink attribute holds at most 64 KiB.
const ELEMENTS_AT_ONCE: usize = 48 * 1024;

/// A verdict, as rules and elements hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    Drop,
    Accept,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

impl Verdict<'_> {
    /// Writes it as `NFTA_DATA_VERDICT`.
    pub fn write(&self, request: &mut Request) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Return => (-5_i32, None),
            Self::Jump(chain) => (-3, Some(*chain)),
            Self::Goto(chain) => (-4, Some(*chain)),
        };
        request.nested(2, |r| {
            r.attr(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                r.attr_str(2, chain);
            }
        });
    }
}

/// A transaction under construction: all of it happens, or nothing.
pub struct Batch {
    family: u8,
    buffer: Vec<u8>,
    last: usize,
    count: usize,
}

impl Batch {
    /// `family` is that of the tables (`AF_INET`, `AF_INET6`).
    pub fn new(family: u8) -> Self {
        let mut this = Self { family, buffer: Vec::new(), last: 0, count: 0 };
        this.append(BATCH_BEGIN, 0, &edge(), |_| {});
        this
    }

    /// Bytes so far: callers that may split their work do so by this.
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 1
    }

    fn append(&mut self, kind: u16, flags: u16, header: &[u8], fill: impl FnOnce(&mut Request)) {
        let mut request = Request::new(kind, flags).body(header);
        fill(&mut request);
        self.last = self.buffer.len();
        // The sequence number is the message's place in the batch: it tells which one was refused.
        self.buffer.extend_from_slice(&request.finish(u32::try_from(self.count).unwrap_or(u32::MAX)));
        self.count += 1;
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Request)) {
        let header = [self.family, 0, 0, 0];
        self.append(SUBSYSTEM << 8 | kind, flags, &header, fill);
    }

    /// Makes a table; one that is there stays as it is.
    pub fn add_table(&mut self, table: &str) {
        self.message(NEWTABLE, NLM_F_CREATE, |r| {
            r.attr_str(TABLE_NAME, table);
        });
    }

    /// Makes a chain without a hook; one that is there keeps its rules.
    pub fn add_chain(&mut self, table: &str, chain: &str) {
        self.message(NEWCHAIN, NLM_F_CREATE, |r| {
            r.attr_str(CHAIN_TABLE, table).attr_str(CHAIN_NAME, chain);
        });
    }

    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        self.message(DELCHAIN, 0, |r| {
            r.attr_str(CHAIN_TABLE, table).attr_str(CHAIN_NAME, chain);
        });
    }

    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        self.message(DELRULE, 0, |r| {
            r.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
        });
    }

    /// Adds a rule at the chain's end (or head); `fill` writes its expressions and the rest.
    pub fn add_rule(&mut self, table: &str, chain: &str, at_end: bool, fill: impl FnOnce(&mut Request)) {
        self.message(NEWRULE, NLM_F_CREATE | if at_end { NLM_F_APPEND } else { 0 }, |r| {
            r.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
            fill(r);
        });
    }

    pub fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.message(DELRULE, 0, |r| {
            r.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain).attr(RULE_HANDLE, &handle.to_be_bytes());
        });
    }

    /// Adds elements to a set or map; `write` fills in one element's attributes.
    pub fn add_elements<T>(&mut self, table: &str, set: &str, all: &[T], write: impl Fn(&T, &mut Request)) {
        self.elements(NEWSETELEM, NLM_F_CREATE, table, set, all, write);
    }

    pub fn delete_elements<T>(&mut self, table: &str, set: &str, all: &[T], write: impl Fn(&T, &mut Request)) {
        self.elements(DELSETELEM, 0, table, set, all, write);
    }

    /// Empties a set or map.
    pub fn flush_set(&mut self, table: &str, set: &str) {
        self.message(DELSETELEM, 0, |r| {
            r.attr_str(ELEM_LIST_TABLE, table).attr_str(ELEM_LIST_SET, set);
        });
    }

    pub fn delete_set(&mut self, table: &str, set: &str) {
        self.message(DELSET, 0, |r| {
            r.attr_str(SET_TABLE, table).attr_str(SET_NAME, set);
        });
    }

    fn elements<T>(&mut self, kind: u16, flags: u16, table: &str, set: &str, all: &[T], write: impl Fn(&T, &mut Request)) {
        let mut rest = all.iter().peekable();
        while rest.peek().is_some() {
            self.message(kind, flags, |r| {
                r.attr_str(ELEM_LIST_TABLE, table).attr_str(ELEM_LIST_SET, set).nested(ELEM_LIST_ELEMENTS, |r| {
                    let start = r.len();
                    while r.len() - start < ELEMENTS_AT_ONCE
                        && let Some(element) = rest.next()
                    {
                        r.nested(LIST_ELEM, |r| write(element, r));
                    }
                });
            });
        }
    }

    /// Hands the transaction to the kernel and waits for its verdict.
    ///
    /// # Errors
    /// Nothing was changed. The action names the place of the message that was refused.
    pub fn commit(mut self, socket: &Socket) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let last = u32::try_from(self.count - 1).unwrap_or(u32::MAX);
        // One answer to all: the last message asks for it.
        let flags = u16::from_ne_bytes([self.buffer[self.last + 6], self.buffer[self.last + 7]]) | NLM_F_ACK;
        self.buffer[self.last + 6..self.last + 8].copy_from_slice(&flags.to_ne_bytes());
        self.append(BATCH_END, 0, &edge(), |_| {});
        socket.transact(&self.buffer, last)
    }
}

/// The header of the messages around a transaction.
fn edge() -> [u8; 4] {
    let subsystem = SUBSYSTEM.to_be_bytes();
    [0, 0, subsystem[0], subsystem[1]]
}

/// The names of a table's chains; none when there is no such table.
pub fn chains(socket: &Socket, family: u8, table: &str) -> Result<Vec<String>, Error> {
    names(socket, family, table, GETCHAIN, CHAIN_NAME)
}

/// The names of a table's sets and maps; none when there is no such table.
pub fn sets(socket: &Socket, family: u8, table: &str) -> Result<Vec<String>, Error> {
    names(socket, family, table, GETSET, SET_NAME)
}

/// Objects of all kinds have their table's name as the first attribute.
fn names(socket: &Socket, family: u8, table: &str, kind: u16, name: u16) -> Result<Vec<String>, Error> {
    let request = || Request::new(SUBSYSTEM << 8 | kind, 0).body(&[family, 0, 0, 0]);
    let mut names = Vec::new();
    let result = socket.dump_each("list chains or sets", request, |message| {
        let attributes = message.attributes(4);
        if attributes.get(CHAIN_TABLE).map(netlink::string).as_deref() == Some(table) {
            names.extend(attributes.get(name).map(netlink::string));
        }
    });
    match result {
        Err(error) if error.errno == Errno::ENOENT => Ok(Vec::new()),
        other => other.map(|()| names),
    }
}

/// Whether a chain is there and not empty; as cheap with many rules as with one.
pub fn has_rules(family: u8, table: &str, chain: &str) -> Result<bool, Error> {
    let mut request = Request::new(SUBSYSTEM << 8 | GETRULE, 0).body(&[family, 0, 0, 0]);
    request.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
    let some = Socket::netfilter()?.dump_beginning("list rules", request)?;
    Ok(some.iter().any(|message| {
        let attributes = message.attributes(4);
        let is = |kind, name: &str| attributes.get(kind).map(netlink::string).as_deref() == Some(name);
        is(RULE_TABLE, table) && is(RULE_CHAIN, chain)
    }))
}

/// A rule as far as it is needed to delete it.
#[derive(Debug, Clone)]
pub struct Rule {
    pub handle: u64,
    pub user_data: Vec<u8>,
}

/// The rules of one chain, in order; none when there is no such chain.
pub fn rules(socket: &Socket, family: u8, table: &str, chain: &str) -> Result<Vec<Rule>, Error> {
    let request = || {
        let mut request = Request::new(SUBSYSTEM << 8 | GETRULE, 0).body(&[family, 0, 0, 0]);
        request.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
        request
    };
    let mut rules = Vec::new();
    let result = socket.dump_each("list rules", request, |message| {
        let attributes = message.attributes(4);
        // Kernels that do not filter send all chains.
        if attributes.get(RULE_CHAIN).map(netlink::string).as_deref() != Some(chain) {
            return;
        }
        let handle = attributes.get(RULE_HANDLE).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map(u64::from_be_bytes);
        let user_data = attributes.get(RULE_USERDATA).unwrap_or_default().to_vec();
        rules.extend(handle.map(|handle| Rule { handle, user_data }));
    });
    match result {
        Err(error) if error.errno == Errno::ENOENT => Ok(Vec::new()),
        other => other.map(|()| rules),
    }
}
