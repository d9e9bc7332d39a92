//! Generates the messages and the client from `proto/` without a `protoc` on the machine.

use std::{env, error::Error, fs, path::PathBuf};

const PROTO: &str = "tokenbroker/v1/token_broker.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let descriptors = protox::compile([PROTO], ["../proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        // It holds the secret: `proto.rs` writes a `Debug` that doesn't show it.
        .skip_debug(["tokenbroker.v1.Token"])
        .compile_fds(descriptors.clone())?;
    // The server's side is the broker's own (its build.rs); this one is for brokers of tests, and nothing else includes it.
    let server = PathBuf::from(env::var("OUT_DIR")?).join("server");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .extern_path(".tokenbroker.v1", "crate::proto::v1")
        .out_dir(server)
        .compile_fds(descriptors)?;
    Ok(())
}
