//! rk-dns: the cluster's DNS server.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    component::memory::no_huge_pages();
    // Manifests written for CoreDNS have Go's flags: one dash.
    let args = std::env::args_os().map(|arg| match arg.to_str() {
        Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 2 => format!("-{text}").into(),
        _ => arg,
    });
    let options = rk_dns::start::Options::parse_from(component::flags::normalize(args));
    if options.version {
        println!("rk-dns {}", component::version::current());
        return;
    }
    if let Err(error) = rk_dns::start::main(&options) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}
