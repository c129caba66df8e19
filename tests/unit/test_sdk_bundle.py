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
from fleet import _bundle, _deploy
from fleet._imports import Finder, module_root
from fleet.protocol.errors import DeployError
from tests.unit import sdk_sample

MAIN = """
import fleet, json, helpers.text
from helpers import numbers
if __name__ == "__main__":
    from fleet import _bundle
    module, qualname = _bundle.locate(work)
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__SLASH__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


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
    module, qualname = _bundle.locate(job)
    bundle = _bundle.bundle_of(module)
    assert (module, qualname, bundle.module) == ("job", "work", "job")
    assert names(bundle) == WANTED
    assert {"job", "helpers", "helpers.deep", "helpers.inner"} <= bundle.modules
    assert "json" not in bundle.modules


def test_the_same_files_make_the_same_bytes(job: fleet.Function[..., object], project: Path) -> None:
    first = _bundle.bundle_of("job")
    for path in project.rglob("*.py"):
        os.utime(path, (1, 1))
    second = _bundle.bundle_of("job")
    assert first is not second, "times changed, so it was made anew"
    assert first.data == second.data
    (project / "late.py").write_text("changed = 1\n")
    assert _bundle.bundle_of("job").digest != first.digest


def test_include_and_exclude(job: fleet.Function[..., object], project: Path) -> None:
    bundle = _bundle.bundle_of("job", ("data",), ("helpers/deep/*", "*.csv", "job.py"))
    assert names(bundle) == WANTED - {"helpers/deep/__init__.py"} | {"data/words.txt"}
    assert "helpers.deep" not in bundle.modules
    with pytest.raises(DeployError, match=r"include='\*.bin' matches no file"):
        _bundle.bundle_of("job", ("*.bin",), ())


def test_a_large_bundle_is_refused(
    job: fleet.Function[..., object], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bundle, "BUNDLE_BYTES_MAX", 1000)
    (project / "data" / "noise.bin").write_bytes(os.urandom(2000))
    with pytest.raises(fleet.PayloadTooLarge, match="exclude="):
        _bundle.bundle_of("job", ("data",), ())


def test_functions_that_cannot_travel_yet_say_why() -> None:
    with pytest.raises(DeployError, match="lambda"):
        _bundle.locate(sdk_sample.alias)
    with pytest.raises(DeployError, match="inside another function"):
        _bundle.locate(sdk_sample.make_nested())
    namespace: dict[str, object] = {"fleet": fleet, "__name__": "nowhere"}
    exec("@fleet.function\ndef made(x): return x", namespace)
    made = namespace["made"]
    assert isinstance(made, fleet.Function)
    with pytest.raises(DeployError, match="belongs to no module"):
        _bundle.locate(made)


def test_functions_are_found_where_they_are() -> None:
    assert _bundle.locate(sdk_sample.add) == ("tests.unit.sdk_sample", "add")
    assert _bundle.locate(sdk_sample.Tools.scale) == ("tests.unit.sdk_sample", "Tools.scale")
    assert _bundle.locate(sdk_sample.add.with_options(timeout=1)) == ("tests.unit.sdk_sample", "add")
    assert _bundle.locate(sdk_sample.wrapped_helper) == ("tests.unit.sdk_sample", "_helper")


def test_a_name_that_was_given_to_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sdk_sample.add
    monkeypatch.setattr(sdk_sample, "add", 3)
    with pytest.raises(DeployError, match="was given to something else"):
        _bundle.locate(first)


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
def work(x): return x

if __name__ == "__main__":
    try:
        module, qualname = _bundle.locate(work)
    except fleet.DeployError as error:
        print(error)
    else:
        bundle = _bundle.bundle_of(module)
        print(bundle.module, qualname, work.app_name, sorted(zipfile.ZipFile(io.BytesIO(bundle.data)).namelist()))
"""


def test_a_script_travels_as_main(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHOW)
    assert run(tmp_path, "script.py").strip() == "__main__ work script ['__main__.py']"


def test_a_module_run_with_m_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "tool.py").write_text("from . import other\n" + SHOW)
    (tmp_path / "pkg" / "other.py").write_text("")
    shown = run(tmp_path, "-m", "pkg.tool").strip()
    assert shown == "pkg.tool work tool ['__main__.py', 'pkg/__init__.py', 'pkg/other.py', 'pkg/tool.py']"


def test_code_without_a_file_says_so(tmp_path: Path) -> None:
    assert "save it to a file" in run(tmp_path, "-c", SHOW)


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
