"""Source bundles: what imports find, nothing else, and the same bytes every time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fleet
from fleet import _bundle, _deploy, _resources
from fleet._imports import Finder, imports_of, module_root
from fleet.protocol.errors import DeployError
from tests.unit import sdk_sample


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: a job, a package that it imports, and files that it doesn't."""
    for name, text in {
        "job.py": "import json, numpy_free, fleet\nfrom helpers import text\nfrom helpers.deep import *\n\n"
        "@fleet.function\ndef work(x):\n    import late\n    return text.clean(x)\n",
        "numpy_free.py": "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n",
        "late.py": "import importlib\nimportlib.import_module('by_call')\n",
        "by_call.py": "",
        "helpers/__init__.py": "from . import constants\n",
        "helpers/constants.py": "A = 1\n",
        "helpers/text.py": "from .inner import strip as clean\n",
        "helpers/inner.py": "def strip(x): return x.strip()\n",
        "helpers/unused.py": "",
        "helpers/deep/__init__.py": "from ..constants import A\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import typing_only\n",
        "typing_only.py": "",
        "unused.py": "",
        "json.py.txt": "",
        "data/words.txt": "hello",
        "data/more/numbers.csv": "1",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(bundle: _bundle.Bundle) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(bundle.data)) as archive:
        return set(archive.namelist())


@pytest.fixture
def job(project: Path, monkeypatch: pytest.MonkeyPatch) -> fleet.Function[..., object]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("job", "helpers", "numpy_free", "late", "by_call")
    ]:
        monkeypatch.delitem(sys.modules, name)
    loaded = _deploy.load_app(str(project / "job.py"))
    assert loaded.app == "job"
    (function,) = loaded.functions
    return function


WANTED = {
    "job.py", "numpy_free.py", "late.py", "by_call.py", "helpers/__init__.py", "helpers/constants.py", "helpers/text.py",
    "helpers/inner.py", "helpers/deep/__init__.py",
}  # fmt: skip


def test_imports_are_followed_and_nothing_else(job: fleet.Function[..., object]) -> None:
    bundle = _bundle.bundle_of(job)
    assert (bundle.module, bundle.qualname) == ("job", "work")
    assert names(bundle) == WANTED
    assert {"job", "helpers", "helpers.deep", "helpers.inner"} <= bundle.modules
    assert "json" not in bundle.modules
    assert bundle.classes == {}


def test_the_same_files_make_the_same_bytes(job: fleet.Function[..., object], project: Path) -> None:
    first = _bundle.bundle_of(job)
    for path in project.rglob("*.py"):
        os.utime(path, (1, 1))
    second = _bundle.bundle_of(job)
    assert first is not second, "times changed, so it was made anew"
    assert first.data == second.data
    (project / "late.py").write_text("changed = 1\n")
    assert _bundle.bundle_of(job).digest != first.digest


def test_include_and_exclude(job: fleet.Function[..., object], project: Path) -> None:
    bundle = _bundle.bundle_of(job.with_options(include=["data"], exclude=["helpers/deep/*", "*.csv", "job.py"]))
    assert names(bundle) == WANTED - {"helpers/deep/__init__.py"} | {"data/words.txt"}
    assert "helpers.deep" not in bundle.modules
    with pytest.raises(DeployError, match=r"include='\*.bin' matches no file"):
        _bundle.bundle_of(job.with_options(include=["*.bin"]))


def test_a_large_bundle_is_refused(
    job: fleet.Function[..., object], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bundle, "BUNDLE_BYTES_MAX", 1000)
    (project / "data" / "noise.bin").write_bytes(os.urandom(2000))
    with pytest.raises(fleet.PayloadTooLarge, match="exclude="):
        _bundle.bundle_of(job.with_options(include=["data"]))


def test_package_data_comes_with_code_that_reads_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in {
        "reads/__init__.py": "",
        "reads/own.py": "from importlib import resources\ndef text(): return resources.files(__package__).joinpath('a.txt')\n",
        "reads/a.txt": "a",
        "reads/.hidden": "h",
        "reads/deeper/b.bin": "b",
        "reads/native.so": "n",
        "tables/__init__.py": "",
        "tables/rows.csv": "1",
        "silent/__init__.py": "",
        "silent/big.txt": "not read by any code",
        "reader.py": "import fleet, pkgutil, silent\nfrom reads import own\n\n@fleet.function\ndef work():\n"
        "    return pkgutil.get_data('tables', 'rows.csv')\n",
    }.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (function,) = _deploy.load_app(str(project / "reader.py")).functions
    found = names(_bundle.bundle_of(function))
    assert found == {
        "reader.py", "reads/__init__.py", "reads/own.py", "reads/a.txt", "reads/deeper/b.bin", "silent/__init__.py",
        "tables/__init__.py", "tables/rows.csv",
    }  # fmt: skip
    assert "reads/a.txt" not in names(_bundle.bundle_of(function.with_options(exclude=["reads/*.txt"])))
    monkeypatch.setattr(_resources, "BUNDLE_DATA_FILES_MAX", 2)
    with pytest.raises(fleet.PayloadTooLarge, match="the packages reads, tables have 3 data files"):
        _bundle.bundle_of(function)
    _bundle.bundle_of(function.with_options(exclude=["tables/*.csv"]))


def test_imports_by_call_relative_to_the_package(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from importlib import import_module\nimport_module('.one', __package__)\nimport_module('..two', package='p.q')\n"
        "__import__('three')\nimport_module(name)\nimport_module('.four')\n"
    )
    found = set(imports_of(str(tmp_path / "a.py"), "p.q"))
    assert {"p.q.one", "p.two", "three"} <= found
    assert not any("four" in name for name in found)


def test_functions_are_found_where_they_are() -> None:
    assert _bundle.locate(sdk_sample.add) == ("tests.unit.sdk_sample", "add")
    assert _bundle.locate(sdk_sample.Tools.scale) == ("tests.unit.sdk_sample", "Tools.scale")
    assert _bundle.locate(sdk_sample.add.with_options(timeout=1)) == ("tests.unit.sdk_sample", "add")
    assert _bundle.locate(sdk_sample.wrapped_helper) == ("tests.unit.sdk_sample", "_helper")
    assert _bundle.locate(sdk_sample.alias) == ("tests.unit.sdk_sample", "alias")


def test_functions_without_a_name_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = sdk_sample.make_nested()
    assert _bundle.locate(nested) == ("", "make_nested.<locals>.nested")
    bundle = _bundle.bundle_of(nested)
    assert bundle.module == ""
    assert {"__fleet__/function.pickle", "tests/unit/sdk_sample.py"} <= names(bundle), "its globals are its module's"
    first = sdk_sample.add
    monkeypatch.setattr(sdk_sample, "add", 3)
    assert _bundle.locate(first) == ("", "add"), "the name was given to something else"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOW = """
import fleet, io, zipfile
from fleet import _bundle

@fleet.function
def work(x): return x, other.VALUE

twice = fleet.function(lambda x: 2 * x)

if __name__ == "__main__":
    bundle = _bundle.bundle_of(work)
    print(repr(bundle.module), bundle.qualname, work.app_name, sorted(zipfile.ZipFile(io.BytesIO(bundle.data)).namelist()))
    print(twice.name, bundle.digest)
"""


def test_a_script_travels_by_value_with_the_modules_it_refers_to(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import other, unused\n" + SHOW)
    (tmp_path / "other.py").write_text("VALUE = 1\nfrom deep import thing\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "deep.py").write_text("thing = 1")
    shown, second = run(tmp_path, "script.py").splitlines()
    assert shown == "'' work script ['__fleet__/function.pickle', 'deep.py', 'other.py']"
    name, digest = second.split()
    assert name == "twice", "a lambda is called what its module calls it"
    (tmp_path / "elsewhere").mkdir()
    again = run(tmp_path / "elsewhere", str(tmp_path / "script.py")).split()[-1]
    assert again == digest, "neither the folder nor the hash seed is in the bytes"
    assert run(tmp_path, "-c", "import other\n" + SHOW).startswith(
        "'' work main ['__fleet__/function.pickle', 'deep.py'"
    )


def test_a_module_run_with_m_imports_relative_to_its_package(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "tool.py").write_text("from . import other\n" + SHOW)
    (tmp_path / "pkg" / "other.py").write_text("VALUE = 2")
    shown = run(tmp_path, "-m", "pkg.tool").splitlines()[0]
    assert shown == "'' work tool ['__fleet__/function.pickle', 'pkg/__init__.py', 'pkg/other.py']"


def test_installed_packages_and_the_sdk_are_not_the_developers(tmp_path: Path) -> None:
    finder = Finder(str(tmp_path))
    for name in ("pydantic", "nats.aio.client", "json", "fleet", "fleet.protocol.errors", "missing"):
        assert finder.find(name) == [], name
    (tmp_path / "json.py").write_text("")
    assert Finder(str(tmp_path)).find("json") == [], "the standard library's is loaded already"


@pytest.mark.parametrize(
    ("module", "file", "root"),
    [
        ("a", "/p/a.py", "/p"),
        ("a.b", "/p/a/b.py", "/p"),
        ("a.b", "/p/a/b/__init__.py", "/p"),
        ("__main__", "/p/x.py", "/p"),
    ],
)
def test_roots(module: str, file: str, root: str) -> None:
    assert module_root(module, file) == root
