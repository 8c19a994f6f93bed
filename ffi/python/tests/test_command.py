"""The command that the wheel brings."""

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig

import pytest

import strait

SCRIPT = os.path.join(sysconfig.get_path("scripts"), "strait")
WAYS = {"script": [SCRIPT], "module": [sys.executable, "-m", "strait"]}


@pytest.fixture(params=WAYS)
def command(request):
    """Runs the command, both ways."""

    def run(*arguments, **options):
        return subprocess.run([*WAYS[request.param], *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)

    return run


def test_it_is_installed_as_a_program():
    [file] = [file for file in importlib.metadata.files("strait") if file.name == "strait"]
    assert os.path.samefile(file.locate(), SCRIPT) and os.access(SCRIPT, os.X_OK)


def test_it_is_of_the_same_version(command):
    assert command("--version").stdout == f"strait {strait.version()}\n"


def test_it_reads_what_the_package_reads(command, rows):
    found = json.loads(command("inspect", rows[0], "--json").stdout)
    assert found["samples"] == len(strait.Dataset(rows[0])) == 1000


def test_its_exit_code_is_passed_on(command, tmp_path):
    missing = command("inspect", tmp_path / "nothing.tar")
    assert missing.returncode == 1 and "check the path" in missing.stderr
    assert command("bnch").returncode == 2


def test_a_package_without_it_says_so(tmp_path):
    program = "import runpy, sys; sys.argv = ['strait']; import importlib.metadata as m; m.files = lambda name: []; " \
              "runpy.run_module('strait', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "cargo install" in done.stderr
