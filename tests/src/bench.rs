//! What `make bench` measures, beside upstream's figures. Ratios and CPU per operation count; rates drift with the machine.

pub mod api;
pub mod cluster;
pub mod load;
pub mod network;
pub mod process;
pub mod scale;
pub mod scheduling;
pub mod server;

/// Prints one row: the measure, our figure, upstream's.
pub fn row(what: &str, ours: String, upstream: &str) {
    println!("{what:<46} {ours:>34}   {upstream}");
}
