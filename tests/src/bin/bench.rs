//! `make bench`: what rk costs on this machine, beside upstream's figures (shared/facts/upstream-baseline.md).
//! `bench [SECTION…]` runs only those sections; without a name, all of them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::bench::{api, cluster, network, row, scale, scheduling};

/// The sections, in order: add a file in `tests/src/bench/` and a line here and in `main`.
const SECTIONS: [&str; 5] = ["api", "scale", "scheduling", "network", "cluster"];

#[tokio::main]
async fn main() -> Result<()> {
    let bins = PathBuf::from(std::env::var_os("RK_BIN").context("RK_BIN is not set: use `make bench`")?);
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == [network::INSIDE] {
        return network::run_inside(&bins).await;
    }
    for name in &wanted {
        ensure!(SECTIONS.contains(&name.as_str()), "no section {name}: there are {}", SECTIONS.join(", "));
    }
    row("measure", "rk".to_owned(), "upstream");
    for section in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == section) {
            continue;
        }
        match section {
            "api" => api::run(&bins).await?,
            "scale" => scale::run(&bins).await?,
            "scheduling" => scheduling::run(&bins).await?,
            "network" => network::run()?,
            _ => cluster::run()?,
        }
    }
    Ok(())
}
