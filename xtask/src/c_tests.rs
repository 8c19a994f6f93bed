//! The C and C++ programs of `ffi/examples` and `ffi/tests`: built with every compiler that is here, run plainly, under the
//! sanitizers and under valgrind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, install, misuse, root, run};

const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"];
const SANITIZED: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// How a program is built and run.
#[derive(Clone, Copy, PartialEq)]
enum Check {
    Plain,
    Static,
    Sanitizers,
    Valgrind,
}

struct Bed {
    out: PathBuf,
    prefix: PathBuf,
}

pub(crate) fn all(quick: bool) -> Result {
    let out = root().join("target/c-tests");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(out.join("work"))?;
    shards(&out.join("shards"))?;
    let bed = Bed { prefix: install::install(&out.join("prefix"), false)?, out };
    fs::write(bed.out.join("misuse.c"), misuse::program()?)?;
    let mut programs = sources("ffi/examples")?;
    programs.extend(sources("ffi/tests")?);
    programs.push(bed.out.join("misuse.c"));
    programs.push(readme(&bed.out)?);
    let compilers: Vec<&str> = ["gcc", "clang"].into_iter().filter(|&compiler| is_here(compiler)).collect();
    if compilers.is_empty() {
        println!("SKIPPED the C programs: there is neither gcc nor clang");
        return Ok(());
    }
    for missing in ["gcc", "clang"].iter().filter(|compiler| !compilers.contains(compiler)) {
        println!("SKIPPED: {missing} is not installed");
    }
    let mut checks = vec![Check::Plain];
    if !quick {
        checks.extend([Check::Static, Check::Sanitizers, Check::Valgrind]);
    }
    for check in checks {
        // What the compiler is matters to warnings and sanitizers; valgrind and the static library see the same code.
        let one = matches!(check, Check::Static | Check::Valgrind) || quick;
        for compiler in &compilers[..if one { 1 } else { compilers.len() }] {
            if check == Check::Valgrind && !is_here("valgrind") {
                println!("SKIPPED: valgrind is not installed");
                continue;
            }
            for program in &programs {
                bed.one(compiler, program, check)?;
            }
        }
    }
    Ok(())
}

impl Bed {
    fn one(&self, compiler: &str, source: &Path, check: Check) -> Result {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let program = self.out.join(&name);
        run(&mut self.compile(compiler, source, check, &program))?;
        // What hangs is a failure, not a CI that never ends.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "120"]);
        if check == Check::Valgrind {
            command.args(["valgrind", "--quiet", "--error-exitcode=9"]);
            command.args(["--leak-check=full", "--errors-for-leak-kinds=definite"]);
        }
        command.arg(&program);
        // Examples read a directory of shards; tests write their own.
        let example = source.parent().is_some_and(|directory| directory.ends_with("examples"));
        command.arg(self.out.join(if example { "shards" } else { "work" }));
        command.env("LD_LIBRARY_PATH", self.prefix.join("lib")).env("STRAIT_TEST_SLOW", slow(check));
        let output = run(&mut command)?;
        if example && check == Check::Plain {
            self.without_data(&name, &program)?;
        }
        let how = match check {
            Check::Plain => "",
            Check::Static => ", libstrait.a",
            Check::Sanitizers => ", address and undefined sanitizers",
            Check::Valgrind => ", valgrind",
        };
        println!("{name} ({compiler}{how}): {}", output.lines().last().unwrap_or("ok"));
        Ok(())
    }

    /// What an example says where there is nothing to read: the library's own words.
    fn without_data(&self, name: &str, program: &Path) -> Result {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "120"]).arg(program).arg(self.out.join("nothing"));
        let output = command.env("LD_LIBRARY_PATH", self.prefix.join("lib")).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match said.contains("No such file or directory (errno 2)") {
            true => Ok(()),
            false => Err(format!("{name}, given a directory that is not there, says:\n{said}").into()),
        }
    }

    fn compile(&self, compiler: &str, source: &Path, check: Check, program: &Path) -> Command {
        let cpp = source.extension().is_some_and(|ending| ending == "cc");
        let mut command = Command::new(match (compiler, cpp) {
            ("gcc", true) => "g++",
            ("clang", true) => "clang++",
            _ => compiler,
        });
        command.arg(if cpp { "-std=c++17" } else { "-std=c11" }).args(STRICT);
        if check == Check::Sanitizers {
            command.args(SANITIZED);
        }
        command.arg("-I").arg(self.prefix.join("include")).arg("-I").arg(root().join("ffi/tests"));
        command.arg(source).arg("-o").arg(program);
        let lib = self.prefix.join("lib");
        match check {
            Check::Static => command.arg(lib.join("libstrait.a")).args(install::STATIC_LIBS.split(' ')),
            _ => command.arg("-L").arg(lib).args(["-lstrait", "-lpthread"]),
        };
        command
    }
}

/// The README's program.
fn readme(out: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let block = text.split_once("```c\n").and_then(|(_, rest)| rest.split_once("```"));
    let path = out.join("examples/readme.c");
    fs::create_dir_all(out.join("examples"))?;
    fs::write(&path, block.ok_or("the README has no program in C")?.0)?;
    Ok(path)
}

/// Two shards of records of 4096 bytes.
fn shards(directory: &Path) -> Result {
    fs::create_dir_all(directory)?;
    for (name, records) in [("a.bin", 60), ("b.bin", 75)] {
        let bytes: Vec<u8> = (0..records * 4096u32).map(|i| (i / 4096 + i) as u8).collect();
        fs::write(directory.join(name), bytes)?;
    }
    Ok(())
}

/// Under valgrind programs do less.
fn slow(check: Check) -> &'static str {
    if check == Check::Valgrind { "1" } else { "0" }
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The programs in a directory; what others include has names that end in `.h`.
fn sources(directory: &str) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(root().join(directory))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "c" || ending == "cc") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}
