"""What type checkers and people see of the package."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import strait

PROGRAM = pathlib.Path(__file__).with_name("typed_program.py")


def mypy(program, *arguments):
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--no-incremental", *arguments, str(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_a_typed_program_passes_and_its_mistakes_are_found(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = mypy(PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr
    text, mistakes = PROGRAM.read_text(), 0
    for right, wrong in (
        ("batch_size=256", "batch_sise=256"), ("seed=17", 'seed="17"'), (".torch()", ".torsh()"), ('ring="pread"', "ring=3"),
        ("load_file(path,", "load_file(path, start=1,"), (".shape[0]", ".shape[0].x"),
    ):
        assert text.count(right) == 1, right
        (tmp_path / f"wrong{mistakes}.py").write_text(text.replace(right, wrong))
        mistakes += 1
    done = mypy(tmp_path)
    found = {line.partition(":")[0] for line in done.stdout.splitlines() if ": error: " in line}
    assert {pathlib.Path(name).name for name in found} == {f"wrong{number}.py" for number in range(mistakes)}, done.stdout


def test_options_are_shown():
    parameters = inspect.signature(strait.Loader).parameters
    assert {"batch_size", "shuffle", "mixture", "deadline_ms", "verify", "budget"} <= parameters.keys()
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def test_every_option_of_the_loader_can_be_given():
    from strait._functions import FUNCTIONS

    prefix = "strait_loader_builder_"
    options = {name[len(prefix):] for name in FUNCTIONS if name.startswith(prefix)} - {"new", "free", "build", "device"}
    named = {"shuffle_blocks": "shuffle", "bad_samples_skip": "bad_samples", "bad_samples_raise": "bad_samples",
             "bad_samples_replace": "bad_samples", "widen": "dtype"}
    wanted = {named.get(name, name) for name in options}
    given = inspect.signature(strait.Loader).parameters.keys() - {"dataset", "device", "world", "mixture_positions"}
    assert wanted == given


def test_an_unknown_option_is_named(rows):
    with pytest.raises(TypeError, match="batch_sise"):
        strait.Loader(rows[0], batch_sise=3)
