//! The rk-ingress binary.

use clap::Parser;

fn main() {
    component::memory::no_huge_pages();
    let options = rk_ingress::options::Options::parse_from(component::flags::normalize(std::env::args_os()));
    if options.version {
        println!("rk-ingress {}", component::version::current());
        return;
    }
    if let Err(error) = rk_ingress::run::main(&options) {
        eprintln!("Error: {error:#}");
        std::process::exit(1);
    }
}
