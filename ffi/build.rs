//! The shared library's name for the linker, and that it stays loaded.

fn main() {
    let version = |part: &str| std::env::var(format!("CARGO_PKG_VERSION_{part}")).expect("set by cargo");
    // Before 1.0 a minor version may break the ABI, afterwards only a major one.
    let abi = match version("MAJOR").as_str() {
        "0" => format!("0.{}", version("MINOR")),
        major => major.to_owned(),
    };
    println!("cargo:rustc-env=STRAIT_SONAME=libstrait.so.{abi}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libstrait.so.{abi}");
    // Engine threads run its code: dlclose must not unmap it under them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
