//! A C program that misuses every function of `strait.h`: NULL for each pointer in turn, handles that are freed, of another
//! kind, or no handles at all. Made of the header, so a function that is added is tested too.

use std::fmt::Write;
use std::fs;

use crate::{Result, root};

/// A function as the header declares it.
struct Function {
    comment: String,
    result: String,
    name: String,
    parameters: Vec<Parameter>,
}

struct Parameter {
    kind: String,
    name: String,
}

/// What a handle of each kind is called in the fixture (`ffi/tests/fixture.h`).
const KINDS: [&str; 15] = [
    "strait_error",
    "strait_device",
    "strait_dataset_builder",
    "strait_dataset",
    "strait_loader_builder",
    "strait_loader",
    "strait_batch",
    "strait_cursor",
    "strait_stats",
    "strait_checkpoint",
    "strait_load_builder",
    "strait_load",
    "strait_tensor",
    "strait_save",
    "strait_saved",
];

/// The types of functions that C gives, each with one of that type in the fixture.
const FUNCTIONS: [&str; 3] = ["strait_log", "strait_filter", "strait_release"];

impl Parameter {
    /// The kind of handle that it is, if it is one.
    fn handle(&self) -> Option<&str> {
        let kind = self.kind.strip_suffix(" *")?.trim_start_matches("const ");
        (kind.starts_with("strait_") && !kind.contains('*') && !kind.ends_with("_vtable")).then_some(kind)
    }

    fn is_function(&self) -> bool {
        FUNCTIONS.contains(&self.kind.as_str())
    }

    fn is_error(&self) -> bool {
        self.kind == "strait_error **"
    }

    /// Where a result goes.
    fn is_output(&self) -> bool {
        self.kind.ends_with('*') && self.handle().is_none() && !self.is_input_pointer()
    }

    fn is_input_pointer(&self) -> bool {
        self.kind.starts_with("const ") && (self.kind.matches('*').count() == 1 || self.kind.contains("*const *"))
            || self.kind == "void *"
    }

    /// A value that is all right.
    fn good(&self) -> String {
        match (self.kind.as_str(), self.name.as_str()) {
            ("const char *", "field") => "\"record\"".into(),
            ("const char *", "dtype") => "\"u8\"".into(),
            ("const char *", _) => "\"x\"".into(),
            ("void *", _) => "memory".into(),
            ("const strait_device_vtable *", _) => "&table".into(),
            (kind, _) if self.is_function() => format!("fixture_{kind}"),
            (kind, _) if self.handle().is_some() => format!("live_{}", kind_name(kind)),
            (kind, _) if kind.contains("*const *") => format!("({kind}) array"),
            (kind, _) if self.is_input_pointer() => format!("({kind}) memory"),
            (_, "capacity") => "sizeof memory".into(),
            (_, "stream") => "STRAIT_STREAM_NONE".into(),
            (_, "count" | "len" | "world" | "ndim") if !self.is_output() => "1".into(),
            (kind, _) if kind.ends_with('*') => format!("({kind}) output"),
            _ => "0".into(),
        }
    }
}

fn kind_name(kind: &str) -> &str {
    kind.trim_start_matches("const ").trim_end_matches(" *")
}

pub(crate) fn program() -> Result<String> {
    let header = fs::read_to_string(root().join("ffi/include/strait.h"))?;
    let functions = functions(&header)?;
    let mut body = String::new();
    for function in &functions {
        misuse(function, &mut body)?;
    }
    let symbols = fs::read_to_string(root().join("ffi/symbols.txt"))?;
    if let Some(missing) = symbols.lines().find(|name| !functions.iter().any(|function| function.name == **name)) {
        return Err(format!("{missing} is not in strait.h as a function").into());
    }
    Ok(format!(
        "/* Made of strait.h by cargo xtask c-tests. */\n#include \"misuse_fixture.h\"\n\nint main(int argc, char \
         **argv) {{\n    fixture(argc, argv);\n{body}    return fixture_end({});\n}}\n",
        functions.len()
    ))
}

/// Calls with one thing wrong each.
fn misuse(function: &Function, body: &mut String) -> Result {
    let call = |wrong: usize, value: &str| {
        let arguments = function.parameters.iter().enumerate().map(|(i, parameter)| match i {
            i if i == wrong => format!("({}) {value}", parameter.kind),
            _ if parameter.is_error() => "&error".into(),
            _ => parameter.good(),
        });
        format!("{}({})", function.name, arguments.collect::<Vec<_>>().join(", "))
    };
    let has_status = function.result == "strait_status";
    let frees = function.name.ends_with("_free");
    if function.parameters.is_empty() {
        writeln!(body, "    (void)!{}();", function.name)?;
    }
    for (i, parameter) in function.parameters.iter().enumerate() {
        let name = &parameter.name;
        if let Some(kind) = parameter.handle() {
            if !KINDS.contains(&kind) {
                return Err(format!("{kind} is not in the fixture").into());
            }
            let other = if kind == "strait_device" { "strait_dataset" } else { "strait_device" };
            for value in [format!("freed_{kind}"), format!("live_{other}"), "0x10".into(), "&output".into()] {
                match has_status && function.name != "strait_error_status" {
                    true => writeln!(body, "    expect(BAD_HANDLE, \"{name}\", {});", call(i, &value))?,
                    false => writeln!(body, "    (void)!!{};", call(i, &value))?,
                }
            }
            match (has_status && function.name != "strait_error_status", frees) {
                (true, true) => writeln!(body, "    expect(OK, \"\", {});", call(i, "NULL"))?,
                (true, false) => writeln!(body, "    expect(NULL_ARGUMENT, \"{name}\", {});", call(i, "NULL"))?,
                (false, _) => writeln!(body, "    (void)!!{};", call(i, "NULL"))?,
            }
        } else if (parameter.kind.ends_with('*') || parameter.is_function()) && !parameter.is_error() && has_status {
            // What is passed on to the caller's own functions may be NULL; some outputs and functions may be, and say so.
            let free = parameter.kind == "void *" && ["device", "context", "owner"].contains(&name.as_str());
            let own = parameter.is_output() || parameter.is_function();
            let optional = own && function.comment.contains("may be NULL");
            match free || optional {
                true => writeln!(body, "    any({});", call(i, "NULL"))?,
                false => writeln!(body, "    expect(NULL_ARGUMENT, \"{name}\", {});", call(i, "NULL"))?,
            }
        }
    }
    Ok(())
}

/// What the header declares behind `extern "C" {`.
fn functions(header: &str) -> Result<Vec<Function>> {
    let mut rest = header.split_once("extern \"C\" {").ok_or("the header has no functions")?.1;
    let mut functions = Vec::new();
    while let Some(start) = rest.find("/**") {
        let (comment, behind) = rest[start..].split_once("*/").ok_or("a comment without an end")?;
        let (declaration, behind) = behind.split_once(");").ok_or("a comment without a function")?;
        let (head, parameters) = declaration.split_once('(').ok_or("a declaration without parameters")?;
        let (result, name) = split(&words(head));
        let parameters = words(parameters);
        let parameters = match parameters.as_str() {
            "void" => Vec::new(),
            list => list.split(',').map(split).map(|(kind, name)| Parameter { kind, name }).collect(),
        };
        functions.push(Function { comment: comment.to_owned(), result, name, parameters });
        rest = behind;
    }
    Ok(functions)
}

/// `"const char *name"` is of the type `"const char *"` and called `"name"`.
fn split(declaration: &str) -> (String, String) {
    let declaration = declaration.trim();
    let at = declaration.rfind([' ', '*']).map_or(0, |at| at + 1);
    (declaration[..at].trim().to_owned(), declaration[at..].to_owned())
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
