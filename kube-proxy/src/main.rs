//! kube-proxy: makes Services reachable from this node.

use clap::Parser;

fn main() {
    component::memory::no_huge_pages();
    let options = kube_proxy::options::Options::parse_from(component::flags::normalize(std::env::args_os()));
    if options.version.is_some() {
        println!("Kubernetes {}", component::version::current());
        return;
    }
    if let Err(error) = kube_proxy::start::main(&options) {
        eprintln!("Error: {error:#}");
        std::process::exit(1);
    }
}
