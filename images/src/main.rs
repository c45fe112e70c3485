//! `rk-images`: builds all images of a cluster into a directory.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use images::{archive, catalog};

/// Builds all images of a cluster as OCI archives.
#[derive(Parser)]
struct Arguments {
    /// Where our binaries are.
    #[arg(long)]
    bins: PathBuf,
    /// Where the archives go, one `<name>.tar` each.
    #[arg(long)]
    out: PathBuf,
    /// The version that our images are tagged with.
    #[arg(long, default_value = component::version::current())]
    version: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("create {}", arguments.out.display()))?;
    for (name, image) in catalog::all(&arguments.bins, &arguments.version)? {
        let output = arguments.out.join(format!("{name}.tar"));
        archive::write(&image, &output)?;
        let size = std::fs::metadata(&output)?.len();
        println!("{:<48} {:>5} MB", image.reference, size / 1_000_000);
    }
    Ok(())
}
