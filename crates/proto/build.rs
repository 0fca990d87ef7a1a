//! Compiles the protos with protox: no protoc is needed on any machine. What only a server
//! needs, and Envoy's part, is left out without the feature `server`.

use std::{env, fs, path::PathBuf};

/// The folder of the protos, which clients in other languages are generated from as well.
const PROTO: &str = "../../proto";

/// The service that Envoy calls.
const ENVOY: &str = "envoy/service/auth/v3/external_auth.proto";
/// The services and what they need; each is compiled with everything it imports.
const PROTOS: [&str; 7] = [
    "hitkeep/auth/v1/api_clients.proto",
    "hitkeep/auth/v1/audit.proto",
    "hitkeep/auth/v1/common.proto",
    "hitkeep/auth/v1/directory.proto",
    "hitkeep/auth/v1/errors.proto",
    "hitkeep/auth/v1/introspection.proto",
    "hitkeep/auth/v1/replication.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut compiler = protox::Compiler::new([PROTO])?;
    // The comments reach rustdoc, and grpcurl's describe.
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(PROTOS)?;
    let for_server = env::var_os("CARGO_FEATURE_SERVER").is_some();
    if for_server {
        compiler.open_file(ENVOY)?;
    }
    fs::write(
        out.join("descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let mut config = tonic_prost_build::configure()
        .build_server(for_server)
        // Who calls has a connection of its own.
        .build_transport(false)
        .codec_path("crate::codec::SmallBuffers")
        // These show a token, or what its reply is sealed with: their Debug is written
        // by hand.
        .skip_debug([
            ".hitkeep.auth.v1.CreateApiClientRequest",
            ".hitkeep.auth.v1.CreateApiClientResponse",
            ".hitkeep.auth.v1.RotateApiClientRequest",
            ".hitkeep.auth.v1.RotateApiClientResponse",
            ".hitkeep.auth.v1.ReportLeakRequest",
            ".hitkeep.auth.v1.ReportLeakRequest.leaked",
            ".hitkeep.auth.v1.IntrospectRequest",
            ".hitkeep.auth.v1.BatchIntrospectItem",
        ])
        // The same fields with the same numbers: one type here.
        .extern_path(
            ".hitkeep.auth.v1.IntrospectStreamRequest",
            "crate::IntrospectRequest",
        )
        .extern_path(
            ".hitkeep.auth.v1.IntrospectStreamResponse",
            "crate::IntrospectResponse",
        );
    if for_server {
        config = config
            .skip_debug([
                ".envoy.config.core.v3.HeaderValue",
                ".envoy.service.auth.v3.AttributeContext",
                ".envoy.service.auth.v3.AttributeContext.HttpRequest",
            ])
            // The same order each time.
            .btree_map(".envoy")
            .extern_path(".google.rpc", "::tonic_types::pb");
    }
    config.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
