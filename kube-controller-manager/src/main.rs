//! The kube-controller-manager binary: parse, validate, run.

use clap::Parser;
use kube_controller_manager::config::Config;
use kube_controller_manager::manager;
use kube_controller_manager::options::Options;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    component::memory::no_huge_pages();
    let options = Options::parse_from(component::flags::normalize(std::env::args_os()));
    if options.version.is_some() {
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), "Kubernetes {}", component::version::current());
        return std::process::ExitCode::SUCCESS;
    }
    component::logging::init_format(u8::try_from(options.v.clamp(0, 10)).unwrap_or(0), &options.logging_format);
    component::install_crypto();
    let result = Config::new(options).map_err(anyhow::Error::from).and_then(manager::run);
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(err = format!("{error:#}"), "kube-controller-manager failed");
            std::process::ExitCode::FAILURE
        }
    }
}
