#!/usr/bin/env python3
"""Compares what strait and its stand-ins declare of CUDA and cuFile with NVIDIA's own headers.

    tests/cuda_headers/check.py DIRECTORY...        each has the headers of one version, cuda.h or cufile.h

Functions are compared by the names that the library asks for, numbers by those in `names.py`, structs by their sizes and the
places of their members. This script only writes the questions: a C++ compiler answers them. Pointers are equal if what they
point to is as long, numbers if they are passed alike.
"""

import pathlib
import re
import subprocess
import sys

from names import CODES, CONSTANTS, FUNCTION_TYPES, STRUCTS

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTIONS = {
    "cuda.h": ["src/device/cuda/driver.rs", *(f"tests/fakecuda/src/{file}.rs" for file in ("driver", "copies", "streams", "capture", "kernels"))],
    "cufile.h": ["src/storage/cufile/library.rs", *(f"tests/fakecufile/src/{file}.rs" for file in ("calls", "batches"))],
}
# Rust's types as C++ has them. Handles of files are numbers in a stand-in.
TYPES = {
    "c_int": "int", "i32": "int", "c_uint": "unsigned", "u32": "unsigned", "u64": "uint64_t", "i64": "int64_t", "usize": "size_t",
    "isize": "ssize_t", "c_char": "char", "c_void": "void", "Handle": "void *", "libc::timespec": "timespec", "()": "void", "": "void",
}
COMPARE = r"""
template <typename T, typename = void> struct Size { static constexpr size_t value = 0; }; // of what nobody looks into
template <typename T> struct Size<T, std::enable_if_t<std::is_object_v<T> && sizeof(T) != 0>> { static constexpr size_t value = sizeof(T); };
template <typename A, typename B> constexpr bool same() {
    if constexpr (std::is_void_v<A> || std::is_void_v<B>) return std::is_same_v<A, B>;
    else if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
        constexpr size_t a = Size<std::remove_pointer_t<A>>::value, b = Size<std::remove_pointer_t<B>>::value;
        return a == 0 || b == 0 || a == b;
    } else if constexpr (std::is_integral_v<A> && std::is_integral_v<B>)
        return sizeof(A) == sizeof(B) && std::is_signed_v<A> == std::is_signed_v<B>;
    else if constexpr (std::is_class_v<A> || std::is_class_v<B>)
        return std::is_class_v<A> && std::is_class_v<B> && sizeof(A) == sizeof(B);
    else
        return sizeof(A) == sizeof(B); // enums are ints; handles are pointers, or numbers as long
}
template <typename Theirs, typename Ours> struct Call;
template <typename R, typename... As, typename S, typename... Bs> struct Call<R (*)(As...), S (*)(Bs...)> {
    static constexpr bool value() {
        if constexpr (sizeof...(As) != sizeof...(Bs)) return false;
        else return (same<R, S>() && ... && same<As, Bs>());
    }
};
"""


def c_type(rust, known):
    rust = rust.strip()
    if pointer := re.match(r"\*(?:mut|const) (.*)", rust):
        return c_type(pointer[1], known) + " *"
    return TYPES.get(rust) or known.get(rust) or re.fullmatch(r"CU\w+", rust)[0]  # cudarc's, by NVIDIA's names


def split(text):
    return [one.strip() for one in text.split(",") if one.strip()]


def pointer_to(result, arguments, known):
    arguments = [c_type(one.rsplit(": ", 1)[-1], known) for one in arguments]
    return f"{c_type(result or '', known)} (*)({', '.join(arguments)})"


def functions(path, known):
    text = re.sub(r"//.*", "", (ROOT / path).read_text())
    result = "i32" if "cuda" in path else None
    for name, arguments, gives in re.findall(r'\w+ = "(cu\w+)" \(([^)]*)\)(?: -> ([^;]+))?;', text):
        yield name, pointer_to(gives or result, split(arguments), known)
    for name, arguments, gives in re.findall(r'pub (?:unsafe )?extern "C" fn (cu\w+)\(([^)]*)\)(?: -> (\w+))?', text):
        yield name, pointer_to(gives, split(arguments), known)
    for alias, name in FUNCTION_TYPES.get(path, {}).items():
        found = re.search(rf'{alias}\W+unsafe extern "C" fn\(([^)]*)\)(?: -> (\w+))?', text)
        yield name, pointer_to(found[2], split(found[1]), known)


def member(rust, known, place):
    """A member of a struct of ours, as C++ declares it."""
    if array := re.match(r"\[(.*); (\d+)\]", rust):
        return f"{c_type(array[1], known)} m{place}[{array[2]}];"
    return f"{c_type(rust, known)} m{place};"


def questions(header, names):
    """What the compiler is asked of one header; `names` are those that it has."""
    for path, ours, theirs, members in STRUCTS[header]:
        if theirs not in names:
            continue
        text = re.sub(r"//.*", "", (ROOT / path).read_text())
        body = re.search(rf"struct {ours} \{{(.*?)\n\}}", text, re.S)[1]
        kinds = [line.split(":", 1)[1].strip() for line in split(body)]
        mirror = f"{ours}_{path.split('/')[0]}"
        known = {"File": "void *"}
        yield f"struct {mirror} {{ " + " ".join(member(kind, known, at) for at, kind in enumerate(kinds)) + " };"
        for at, (kind, name) in enumerate(zip(kinds, members, strict=False)):
            same = f"offsetof({mirror}, m{at}) == offsetof({theirs}, {name})"
            if not kind.startswith("["):  # an array stands for several of theirs
                same += f" && sizeof({mirror}::m{at}) == sizeof((({theirs} *)0)->{name})"
            yield f'static_assert({same}, "{ours}: {name}");'
        longer = ">=" if len(kinds) > len(members) else "=="
        yield f'static_assert(sizeof({mirror}) {longer} sizeof({theirs}), "{ours}");'
    known = {ours: theirs for _, ours, theirs, _ in STRUCTS[header] if theirs in names}
    for path in FUNCTIONS[header] + [path for path in FUNCTION_TYPES if header == "cuda.h" and path not in FUNCTIONS[header]]:
        for name, ours in functions(path, {"CUmemcpyAttributes": "char", "Attributes": "char", **known}):
            if name in names:
                theirs = name if name.startswith("PFN_") else f"decltype(&{name})"
                yield f'static_assert(Call<{theirs}, {ours}>::value(), "{path}: {name}");'
            elif "BatchAsync" not in name:
                yield f'static_assert(false, "{path}: {header} has no {name}");'
    for path, numbers in CONSTANTS[header].items():
        found = dict(re.findall(r"const (\w+): \w+ = ([^;]+);", (ROOT / path).read_text()))
        for ours, theirs in numbers.items():
            if re.sub(r"^1 << ", "", theirs) in names:
                yield f'static_assert({found[ours]} == ({theirs}), "{path}: {ours}");'
    if header not in CODES:
        return
    prefix, path, codes = CODES[header]
    told = remedies((ROOT / path).read_text())
    assert told == set(codes), f"{path}: codes of remedies {told ^ set(codes)} are not those of names.py"
    yield from (f'static_assert({code} == {prefix}{name}, "{code}");' for code, name in codes.items() if prefix + name in names)


def remedies(text):
    """The numbers at the heads of match arms, ranges by both ends."""
    arms = re.findall(r"^ +(\d[\d |.=]*)(?: if .*)? =>", text, re.M)
    return {int(number) for arm in arms for number in re.findall(r"\d+", arm)}


def check(directory, header):
    path = next(directory.rglob(header), None)
    if path is None:
        return
    headers = [header] + ["cudaTypedefs.h"] * (header == "cuda.h")
    names = set(re.findall(r"\w+", "".join((path.parent / one).read_text() for one in headers)))
    lines = ["#define __CUDA_API_VERSION_INTERNAL", "#include <cstddef>", "#include <cstdint>", "#include <ctime>", "#include <type_traits>"]
    lines += ["#include <sys/types.h>", *(f"#include <{one}>" for one in headers), COMPARE, *questions(header, names)]
    command = ["g++", "-std=c++17", "-fsyntax-only", "-w", "-x", "c++", "-", *(f"-I{place.parent}" for place in directory.rglob("cuda.h"))]
    done = subprocess.run([*command, f"-I{path.parent}"], input="\n".join(lines), text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{path}: strait or a stand-in declares something else:\n{done.stderr}")
    asserts = sum("static_assert" in line for line in lines)
    version = re.search(r"#define CUDA_VERSION (\d+)", path.read_text())
    print(f"{header} {int(version[1]) // 1000}.{int(version[1]) % 1000 // 10}: " if version else f"{header}: ", f"{asserts} comparisons hold", sep="")


for directory in map(pathlib.Path, sys.argv[1:]):
    for header in FUNCTIONS:
        check(directory, header)
