//! `rk-test-node`: what tests of a node need beside pods: a CSI driver, the gRPC health protocol, an image registry with a password.

mod csi;
mod health;
mod registry;

use clap::{Parser, Subcommand};

/// Servers for tests of the kubelet.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A CSI driver whose volumes are directories; says every call on its standard output.
    Csi(csi::Arguments),
    /// Answers `grpc.health.v1.Health/Check`.
    Health(health::Arguments),
    /// A registry with one image under every name, for those who know the password.
    Registry(registry::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let work = async {
        match Arguments::parse().what {
            What::Csi(arguments) => csi::run(arguments).await,
            What::Health(arguments) => health::run(arguments).await,
            What::Registry(arguments) => registry::run(arguments).await,
        }
    };
    // As a pod's first process nothing ends us but what we ask for.
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = term.recv() => Ok(()),
    }
}
