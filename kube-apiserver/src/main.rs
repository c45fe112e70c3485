//! kube-apiserver: the binary.

use std::process::ExitCode;
use std::time::Duration;

use component::tasks::Tasks;
use kube_apiserver::config::Config;
use kube_apiserver::options::{self, Refused};
use kube_apiserver::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    component::memory::no_huge_pages();
    let options = match options::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(Refused::Clap(error)) => error.exit(),
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.version.is_some() {
        println!("Kubernetes {}", component::version::current());
        return ExitCode::SUCCESS;
    }
    component::install_crypto();
    component::logging::init_format(options.verbosity, &options.logging_format);
    for flag in options::without_effect(std::env::args_os()) {
        tracing::warn!("{flag} has no effect");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: options::Options) -> anyhow::Result<()> {
    let config = Config::try_from(options)?;
    tracing::debug!(?config, "Resolved the configuration");
    let delay = config.shutdown_delay;
    let tasks = Tasks::new();
    let running = server::start(config, &tasks).await?;
    tasks.until_signal().await;
    tokio::time::sleep(delay).await;
    kube_apiserver::bootstrap::leave(&running.server).await;
    tasks.stop_and_wait(Duration::from_secs(10)).await;
    Ok(())
}
