//! `rkadm version`.

use anyhow::bail;
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Output format; available options are 'yaml', 'json' and 'short'
    #[arg(short, long)]
    output: Option<String>,
}

pub fn run(args: VersionArgs) -> anyhow::Result<()> {
    let info = component::version::info();
    match args.output.as_deref() {
        None => println!("rkadm version: {} {}", component::version::current(), component::version::platform()),
        Some("short") => println!("{}", component::version::current()),
        Some("json") => println!("{}", serde_json::to_string_pretty(&json!({"clientVersion": info}))?),
        Some("yaml") => print!("{}", crate::config::yaml(&json!({"clientVersion": info}))?),
        Some(other) => bail!("--output {other}: yaml, json or short"),
    }
    Ok(())
}
