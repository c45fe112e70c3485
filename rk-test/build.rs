//! Generates the servers of the node's test programs. The protocols between kubelet and plugins are the kubelet's files.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kubelet = "../kubelet/proto";
    for (file, dir) in [
        ("proto/health.proto".to_owned(), "proto"),
        (format!("{kubelet}/csi.proto"), kubelet),
        (format!("{kubelet}/pluginregistration.proto"), kubelet),
    ] {
        println!("cargo:rerun-if-changed={file}");
        tonic_prost_build::configure().disable_comments(["."]).build_client(false).compile_protos(&[file.as_str()], &[dir])?;
    }
    Ok(())
}
