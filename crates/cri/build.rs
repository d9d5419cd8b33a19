//! Compiles the interface descriptions without protoc.

#[allow(clippy::disallowed_macros, reason = "how a build script talks to cargo")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["runtime.v1.proto", "sampan.v1.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // A verb that a runtime does not carry answers Unimplemented.
        .generate_default_stubs(true)
        // Ordered maps: what is written to disk and compared in tests has one form.
        .btree_map(".")
        // Its Debug is written by hand and shows no secret.
        .skip_debug(["runtime.v1.AuthConfig", "sampan.v1.PullRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
