//! Headers, libraries and `strait.pc` under a prefix, as distributions lay them out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, build, root, run};

/// What a program that links the static library needs besides; `rustc --print native-static-libs` says the same.
pub(crate) const STATIC_LIBS: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

/// Installs; the prefix, absolute.
pub(crate) fn install(prefix: &Path, release: bool) -> Result<PathBuf> {
    let built = build(release)?;
    fs::create_dir_all(prefix)?;
    let prefix = prefix.canonicalize()?;
    let (lib, include) = (prefix.join("lib"), prefix.join("include"));
    fs::create_dir_all(lib.join("pkgconfig"))?;
    fs::create_dir_all(&include)?;
    for header in ["strait.h", "strait_dlpack.h"] {
        fs::copy(root().join("ffi/include").join(header), include.join(header))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let full = format!("libstrait.so.{version}");
    replace(&built.join("libstrait_ffi.so"), &lib.join(&full))?;
    replace(&built.join("libstrait_ffi.a"), &lib.join("libstrait.a"))?;
    let soname = soname(&lib.join(&full))?;
    for (link, target) in [(soname.as_str(), full.as_str()), ("libstrait.so", soname.as_str())] {
        let link = lib.join(link);
        let _ = fs::remove_file(&link);
        symlink(target, link)?;
    }
    let pc = format!(
        "prefix={}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\nName: strait\nDescription: Streams \
         training shards and model weights from NVMe into GPU memory\nVersion: {version}\nLibs: -L${{libdir}} \
         -lstrait\nLibs.private: {STATIC_LIBS}\nCflags: -I${{includedir}}\n",
        prefix.display()
    );
    fs::write(lib.join("pkgconfig/strait.pc"), pc)?;
    println!("installed {full} ({soname}), libstrait.a, strait.h, strait.pc in {}", prefix.display());
    Ok(prefix)
}

/// Under a new inode: a program that runs keeps the old one.
fn replace(from: &Path, to: &Path) -> Result {
    let _ = fs::remove_file(to);
    fs::copy(from, to).map_err(|e| format!("{}: {e}", from.display()))?;
    Ok(())
}

fn soname(library: &Path) -> Result<String> {
    let dynamic = run(Command::new("readelf").arg("-d").arg(library))?;
    let line = dynamic.lines().find(|line| line.contains("(SONAME)"));
    let name = line.and_then(|line| line.split(['[', ']']).nth(1));
    Ok(name.ok_or_else(|| format!("{} has no SONAME", library.display()))?.to_owned())
}
