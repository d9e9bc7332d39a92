//! Generates the broker's service from `proto/` without a `protoc` on the machine; its messages are the client crate's.
//!
//! Writes the descriptor set beside the code, for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTO: &str = "tokenbroker/v1/token_broker.proto";
/// Not among the descriptors of reflection: it is not offered on a port.
const OPERATOR: &str = "tokenbroker/operator/v1/operator.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    let descriptors = compiler.open_file(PROTO)?.file_descriptor_set();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // It answers with what it holds, instead of copies in a message: see `rpc::encode`.
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .extern_path(".tokenbroker.v1", "::token_broker_client::proto::v1")
        .extern_path(".tokenbroker.v1.GetTokenResponse", "crate::rpc::encode::Reply")
        .codec_path("crate::rpc::encode::ReplyCodec")
        .compile_fds(descriptors)?;
    tonic_prost_build::configure().build_transport(false).compile_fds(protox::compile([OPERATOR], ["proto"])?)?;
    Ok(())
}
