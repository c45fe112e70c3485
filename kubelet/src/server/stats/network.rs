//! Traffic of a network namespace, from its `/proc/<pid>/net/dev`.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Counters of an interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: the same.
    pub sent: [u64; 4],
}

/// The interfaces that a process sees, without the loopback.
pub fn of_process(pid: &str) -> Vec<Interface> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Interface> {
    let rows = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // bytes packets errs drop fifo frame compressed multicast, twice
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let name = name.trim().to_owned();
        Some(Interface { name, received: [0, 1, 2, 3].map(at), sent: [8, 9, 10, 11].map(at) })
    });
    rows.filter(|row| row.name != "lo").collect()
}

/// As the summary shows it: the default interface first, then all. `None` without any.
pub fn show(interfaces: &[Interface], now: Timestamp) -> Option<Value> {
    let one = |row: &Interface| json!({"name": row.name, "rxBytes": row.received[0], "rxErrors": row.received[2], "txBytes": row.sent[0], "txErrors": row.sent[2]});
    let first = interfaces.iter().find(|row| row.name == "eth0").or(interfaces.first())?;
    let mut out = one(first);
    out["time"] = now.to_string().into();
    out["interfaces"] = interfaces.iter().map(one).collect();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_column() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  eth0:    1500      10    1    2    0     0          0         0     2500      20    3    4    0     0       0          0\n";
        let got = parse(text);
        assert_eq!(got, [Interface { name: "eth0".into(), received: [1500, 10, 1, 2], sent: [2500, 20, 3, 4] }]);
        let shown = show(&got, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((&shown["rxBytes"], &shown["interfaces"][0]["txErrors"]), (&json!(1500), &json!(3)));
        assert_eq!(show(&[], Timestamp::UNIX_EPOCH), None);
    }
}
