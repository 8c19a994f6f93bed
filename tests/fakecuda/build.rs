//! Names the library as cudarc first asks for it, so that a test which has loaded it by its path is what cudarc's own
//! `dlopen` finds: no environment variable, and no real driver in its place where there is one.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo::rerun-if-changed=build.rs");
}
