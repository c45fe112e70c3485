//! What `make bench` measures, beside upstream's figures. Ratios and CPU per operation count; rates drift with the machine.

pub mod load;
pub mod process;
pub mod server;
