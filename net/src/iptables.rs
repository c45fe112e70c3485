//! Running the distribution's iptables: whole batches through `iptables-restore --noflush`, single rules through the
//! `iptables` crate.

pub mod native;

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// How long to wait for another program that holds the xtables lock, seconds.
/// Upstream: pkg/util/iptables WaitSecondsValue.
const LOCK_WAIT_SECONDS: &str = "5";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// As the kernel numbers it.
    #[allow(clippy::cast_possible_truncation)] // AF_INET and AF_INET6 are small
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Why iptables did not do what it was told. All variants are worth another try later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to run {program}")]
    Run {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
}

/// A rule that leads from a built-in chain into one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump<'a> {
    pub table: &'a str,
    pub from: &'a str,
    /// Matches, comment and target, as on the command line.
    pub rule: &'a str,
    /// At the head of the chain, else at its end.
    pub first: bool,
}

/// One flavour of iptables for one address family.
#[derive(Debug, Clone, Copy)]
pub struct Iptables {
    pub family: Family,
}

impl Iptables {
    pub fn new(family: Family) -> Self {
        Self { family }
    }

    fn program(self) -> &'static str {
        match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    /// Applies a batch atomically per table, leaving what it does not name alone.
    ///
    /// # Errors
    /// The message names the line that iptables refused, where it says which.
    pub fn restore(&self, input: &str) -> Result<(), Error> {
        let program = format!("{}-restore", self.program());
        let run = |source| Error::Run { program: program.clone(), source };
        let mut child = Command::new(&program)
            .args(["-w", LOCK_WAIT_SECONDS, "--noflush"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run)?;
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        // iptables-restore reads all of its input before it reports; a broken pipe shows in its exit status.
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().map_err(run)?;
        if output.status.success() {
            return written.map_err(run);
        }
        Err(Error::Failed { message: explain(&output, input), program })
    }

    /// Whether the program writes to nf_tables (`iptables v1.8.9 (nf_tables)`), where [`native`] can do so too.
    pub fn is_nf_tables(self) -> bool {
        static ANSWER: OnceLock<bool> = OnceLock::new();
        *ANSWER.get_or_init(|| {
            let output = Command::new(self.program()).arg("--version").output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("nf_tables"))
        })
    }

    /// The table as `iptables-save` shows it.
    pub fn save(&self, table: &str) -> Result<String, Error> {
        let program = format!("{}-save", self.program());
        let output = Command::new(&program)
            .args(["-t", table])
            .output()
            .map_err(|source| Error::Run { program: program.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Failed { message: explain(&output, ""), program })
    }

    /// The names of a table's chains.
    pub fn chains(&self, table: &str) -> Result<BTreeSet<String>, Error> {
        Ok(self.save(table)?.lines().filter_map(chain_name).map(str::to_owned).collect())
    }

    /// Whether a chain is there; cheap also where there are many others.
    pub fn chain_exists(&self, table: &str, chain: &str) -> Result<bool, Error> {
        let mut handle = self.handle()?;
        handle.set_numeric(true);
        // `-S chain 1` reads one rule; the crate's own check would print the whole chain.
        let output = handle.execute(table, &format!("-S {chain} 1")).map_err(|error| self.failed(error.as_ref()))?;
        Ok(output.status.success())
    }

    /// Whether a chain is there and holds at least one rule.
    pub fn chain_has_rules(&self, table: &str, chain: &str) -> Result<bool, Error> {
        let output = self.handle()?.execute(table, &format!("-S {chain} 1")).map_err(|error| self.failed(error.as_ref()))?;
        Ok(output.status.success() && String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with("-A")))
    }

    /// Makes an empty chain; an existing one keeps its rules.
    pub fn ensure_chain(&self, table: &str, chain: &str) -> Result<(), Error> {
        if self.chain_exists(table, chain)? {
            return Ok(());
        }
        match self.handle()?.new_chain(table, chain) {
            // Somebody else made it in between.
            Err(_) if self.chain_exists(table, chain)? => Ok(()),
            Err(error) => Err(self.failed(error.as_ref())),
            Ok(()) => Ok(()),
        }
    }

    /// Adds the jump where it is missing and says whether it was.
    pub fn ensure_jump(&self, jump: &Jump<'_>) -> Result<bool, Error> {
        let handle = self.handle()?;
        let failed = |error: Box<dyn std::error::Error>| self.failed(error.as_ref());
        if handle.exists(jump.table, jump.from, jump.rule).map_err(failed)? {
            return Ok(false);
        }
        if jump.first {
            handle.insert(jump.table, jump.from, jump.rule, 1).map_err(failed)?;
        } else {
            handle.append(jump.table, jump.from, jump.rule).map_err(failed)?;
        }
        Ok(true)
    }

    /// Removes the jump; idempotent.
    pub fn delete_jump(&self, jump: &Jump<'_>) -> Result<(), Error> {
        let handle = self.handle()?;
        let failed = |error: Box<dyn std::error::Error>| self.failed(error.as_ref());
        while handle.exists(jump.table, jump.from, jump.rule).map_err(failed)? {
            handle.delete(jump.table, jump.from, jump.rule).map_err(failed)?;
        }
        Ok(())
    }

    /// The crate's handle; what it learns from `--version` is asked once per process.
    fn handle(self) -> Result<::iptables::IPTables, Error> {
        static CAPABILITIES: OnceLock<(bool, bool)> = OnceLock::new();
        if let Some((has_check, has_wait)) = CAPABILITIES.get().copied() {
            return Ok(::iptables::IPTables { cmd: self.program(), has_check, has_wait, is_numeric: false });
        }
        let handle = ::iptables::new(self.family == Family::V6).map_err(|error| self.failed(error.as_ref()))?;
        let _ = CAPABILITIES.set((handle.has_check, handle.has_wait));
        Ok(handle)
    }

    fn failed(self, error: &dyn std::error::Error) -> Error {
        Error::Failed { program: self.program().to_owned(), message: error.to_string() }
    }
}

/// The chain that a line of `iptables-save` declares.
pub fn chain_name(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split_whitespace().next()
}

/// The program's complaint, with the offending line of the input when it gives its number.
fn explain(output: &Output, input: &str) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim();
    let line = complaint
        .split("line")
        .nth(1)
        .map(|after| after.trim_start_matches(|c: char| !c.is_ascii_digit()))
        .map(|after| after.chars().take_while(char::is_ascii_digit).collect::<String>())
        .and_then(|number| number.parse::<usize>().ok())
        .and_then(|number| input.lines().nth(number.checked_sub(1)?));
    let complaint: String = complaint.chars().take(2000).collect();
    match line {
        Some(line) => format!("{complaint} (line: {line})"),
        None if complaint.is_empty() => output.status.to_string(),
        None => complaint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetNs;

    #[test]
    fn a_batch_leaves_other_peoples_rules_alone_and_names_a_refused_line() {
        NetNs::fresh()
            .unwrap()
            .run(|| {
                let iptables = Iptables::new(Family::V4);
                iptables.restore("*filter\n:THEIRS - [0:0]\n-A THEIRS -j ACCEPT\nCOMMIT\n").unwrap();
                iptables.restore("*filter\n:OURS - [0:0]\n-A OURS -j DROP\nCOMMIT\n").unwrap();
                assert!(iptables.save("filter").unwrap().contains("-A THEIRS -j ACCEPT"));
                assert!(iptables.chain_exists("filter", "OURS").unwrap());
                assert!(!iptables.chain_exists("filter", "NOBODYS").unwrap());
                assert!(iptables.chains("filter").unwrap().contains("THEIRS"));
                let jump =
                    Jump { table: "filter", from: "INPUT", rule: r#"-m comment --comment "to ours" -j OURS"#, first: true };
                assert!(iptables.ensure_jump(&jump).unwrap());
                assert!(!iptables.ensure_jump(&jump).unwrap());
                iptables.delete_jump(&jump).unwrap();
                assert!(!iptables.save("filter").unwrap().contains("to ours"));
                let error = iptables.restore("*filter\n-A OURS -j NOWHERE\nCOMMIT\n").unwrap_err().to_string();
                assert!(error.contains("NOWHERE"), "{error}");
            })
            .unwrap();
    }
}
