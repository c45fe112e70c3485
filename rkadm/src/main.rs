//! rkadm

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    component::install_crypto();
    let cli = rkadm::cli::Cli::parse_from(component::flags::normalize(std::env::args_os()));
    component::logging::init(cli.verbosity);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match runtime.block_on(rkadm::cli::run(cli)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
