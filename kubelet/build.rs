//! Generates the clients of the runtime and of plugins (and the servers that tests fake them with) from `proto/`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/api.proto",
        "proto/csi.proto",
        "proto/pluginregistration.proto",
        "proto/deviceplugin.proto",
        "proto/podresources.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
        tonic_prost_build::configure().disable_comments(["."]).compile_protos(&[file], &["proto"])?;
    }
    Ok(())
}
