//! Names the library as strait asks for it, so that a test which has loaded it by its path is what `dlopen` finds.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcufile.so.0");
    println!("cargo::rerun-if-changed=build.rs");
}
