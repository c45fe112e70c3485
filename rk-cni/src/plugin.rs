//! The CNI plugin: reads `CNI_*` and a configuration on stdin, does one operation, prints a result or an error.
//!
//! One binary serves several plugin types; which one is asked for is the configuration's `type`. To add one: a file under
//! `plugin/` and a line in [`TYPES`].
//!
//! Specification: CNI 1.1.0.

pub mod bandwidth;
pub mod bridge;
pub mod conf;
pub mod error;
pub mod ipam;
pub mod loopback;
pub mod portmap;
pub mod result;

use std::io::{Read, Write};

use serde_json::{Value, json};

use conf::{Command, Environment, NetConf};
use error::{CniError, Code};

/// Versions of the specification whose results we can write, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Largest configuration accepted, bytes: runtimes send a few KB; more is a mistake.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// One plugin type.
pub struct Type {
    pub name: &'static str,
    pub add: fn(&Environment, &NetConf) -> Result<Value, CniError>,
    pub del: fn(&Environment, &NetConf) -> Result<(), CniError>,
    pub check: fn(&Environment, &NetConf) -> Result<(), CniError>,
    pub status: fn(&NetConf) -> Result<(), CniError>,
    pub gc: fn(&NetConf) -> Result<(), CniError>,
}

/// Every plugin type in this binary.
pub const TYPES: [Type; 2] = [bridge::TYPE, loopback::TYPE];

/// Runs the operation that the environment asks for; returns the process's exit code.
pub fn main() -> i32 {
    let mut input = String::new();
    let read = std::io::stdin().take(MAX_CONFIG_BYTES).read_to_string(&mut input);
    let version = conf::version_of(&input);
    let outcome = match read {
        Ok(_) => run(&Environment::from_process(), &input),
        Err(error) => Err(CniError::new(Code::Io, format!("failed to read the configuration from stdin: {error}"))),
    };
    let (text, code) = match outcome {
        Ok(None) => return 0,
        Ok(Some(result)) => (result.to_string(), 0),
        Err(error) => (error.to_json(&version).to_string(), 1),
    };
    // A runtime that no longer reads has given up on us.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

/// One operation: `Some` is to be printed.
pub fn run(environment: &Result<Environment, CniError>, input: &str) -> Result<Option<Value>, CniError> {
    let environment = environment.as_ref().map_err(CniError::clone)?;
    if environment.command == Command::Version {
        return Ok(Some(version(input)?));
    }
    let conf = NetConf::parse(input)?;
    environment.validate()?;
    let kind = TYPES.iter().find(|kind| kind.name == conf.kind).unwrap_or(&TYPES[0]);
    match environment.command {
        Command::Add => Ok(Some((kind.add)(environment, &conf)?)),
        Command::Del => (kind.del)(environment, &conf).map(|()| None),
        Command::Check => {
            conf.requires("CHECK", "0.4.0")?;
            (kind.check)(environment, &conf).map(|()| None)
        }
        Command::Gc => {
            conf.requires("GC", "1.1.0")?;
            (kind.gc)(&conf).map(|()| None)
        }
        Command::Status => {
            conf.requires("STATUS", "1.1.0")?;
            (kind.status)(&conf).map(|()| None)
        }
        Command::Version => Ok(None),
    }
}

fn version(input: &str) -> Result<Value, CniError> {
    if !input.trim().is_empty() {
        serde_json::from_str::<Value>(input)
            .map_err(|error| CniError::new(Code::Decode, format!("failed to decode the version request: {error}")))?;
    }
    Ok(json!({"cniVersion": conf::version_of(input), "supportedVersions": SUPPORTED_VERSIONS}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(command: &str) -> Result<Environment, CniError> {
        Environment::new(|name| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn version_lists_what_is_supported_and_echoes_the_asked_one() {
        let out = run(&environment("VERSION"), r#"{"cniVersion":"1.0.0"}"#).unwrap().unwrap();
        assert_eq!(out["cniVersion"], "1.0.0");
        assert_eq!(out["supportedVersions"][4], "1.1.0");
    }

    #[test]
    fn malformed_requests_get_the_specified_codes() {
        let good = r#"{"cniVersion":"1.0.0","name":"rk","type":"rk-cni","subnets":["10.1.0.0/24"]}"#;
        for (command, input, code) in [
            ("FROB", good, 4),
            ("ADD", good, 4),
            ("DEL", good, 4),
            ("ADD", "{", 6),
            ("ADD", r#"{"cniVersion":"9.9.9","name":"rk","type":"rk-cni"}"#, 1),
            ("ADD", r#"{"cniVersion":"1.0.0","type":"rk-cni"}"#, 7),
            ("ADD", r#"{"cniVersion":"1.0.0","name":"../x","type":"rk-cni"}"#, 7),
            ("CHECK", r#"{"cniVersion":"0.3.1","name":"rk","type":"rk-cni"}"#, 4),
            ("GC", good, 1),
            ("STATUS", good, 1),
            ("STATUS", r#"{"cniVersion":"1.1.0","name":"rk","type":"rk-cni"}"#, 7),
            ("VERSION", "nonsense", 6),
        ] {
            let error = run(&environment(command), input).unwrap_err();
            assert_eq!(error.code as u32, code, "{command} {input}: {error:?}");
        }
    }
}
