//! kubelet: makes one node run its pods.

use std::process::ExitCode;
use std::time::Duration;

use component::tasks::Tasks;
use kubelet::config::Config;
use kubelet::flags::{self, Flags};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    component::memory::no_huge_pages();
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(why) => return fail(&why),
    };
    if flags.help {
        print!("{}", flags::usage());
        return ExitCode::SUCCESS;
    }
    if flags.version {
        println!("Kubernetes {}", component::version::current());
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(error) => return fail(&component::chain(&error)),
    };
    component::logging::init_format(config.kubelet.logging.verbosity, &config.kubelet.logging.format);
    component::install_crypto();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // More threads than this have nothing to do here, and each has its stack and its part of the heap.
    const MOST_THREADS: usize = 4;
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(MOST_THREADS);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    runtime.block_on(async {
        let tasks = Tasks::new();
        tracing::info!(node = config.node_name, version = component::version::current(), "Starting kubelet");
        let started = tokio::select! {
            started = kubelet::run::start(config, &tasks) => started,
            () = tasks.until_signal() => return ExitCode::SUCCESS,
        };
        match started {
            Ok(_kubelet) => {
                tasks.until_signal().await;
                // Pods go on; only the kubelet ends.
                tasks.stop_and_wait(Duration::from_secs(2)).await;
                ExitCode::SUCCESS
            }
            Err(error) => fail(&format!("{error:#}")),
        }
    })
}

fn fail(why: &str) -> ExitCode {
    eprintln!("Error: failed to run Kubelet: {why}");
    ExitCode::FAILURE
}
