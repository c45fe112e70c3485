//! Generates the CRI client (and the server that tests fake a runtime with) from the vendored `proto/api.proto`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    tonic_prost_build::configure().disable_comments(["."]).compile_protos(&["proto/api.proto"], &["proto"])?;
    Ok(())
}
