"""Collecting an app from a file or a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fleet import _deploy
from fleet.protocol.errors import DeployError

HEAD = "import fleet\n"
ONE = "@fleet.function\ndef {name}(x): return x\n"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)


def load(tmp_path: Path, text: str, app: str | None = None, name: str = "jobs.py") -> _deploy.LoadedApp:
    (tmp_path / name).write_text(text)
    return _deploy.load_app(str(tmp_path / name), app)


def test_functions_in_their_order(tmp_path: Path) -> None:
    loaded = load(tmp_path, HEAD + ONE.format(name="zebra") + ONE.format(name="ant"))
    assert loaded.app == "jobs"
    assert [function.name for function in loaded.functions] == ["zebra", "ant"]
    assert load(tmp_path, HEAD + ONE.format(name="a"), "other").app == "other"


def test_a_module_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "cart.py").write_text(HEAD + ONE.format(name="total"))
    assert _deploy.load_app("shop.cart").app == "cart"
    by_file = _deploy.load_app("shop/cart.py")
    assert by_file.functions[0].__module__ == "shop.cart"


def test_functions_of_an_app_object_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "common.py").write_text("import fleet\napp = fleet.App('big')\n")
    (tmp_path / "part.py").write_text("from common import app\n@app.function\ndef inner(x): return x\n")
    loaded = load(tmp_path, "from common import app\nimport part\n@app.function\ndef outer(x): return x\n")
    assert loaded.app == "big"
    assert {function.name for function in loaded.functions} == {"inner", "outer"}


def test_imported_functions_of_others_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "lib.py").write_text(HEAD + ONE.format(name="helper"))
    loaded = load(tmp_path, HEAD + "import lib\n" + ONE.format(name="mine"))
    assert [function.name for function in loaded.functions] == ["mine"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "defines no function"),
        (HEAD + ONE.format(name="same") + ONE.format(name="same"), "two functions of the name 'same'"),
        (
            HEAD + "@fleet.function(name='b')\ndef a(x): return x\n" + ONE.format(name="b"),
            "two functions of the name 'b'",
        ),
        ("import nothing_of_that_name\n", "can't be imported: No module named"),
        ("def broken(:\n", "can't be imported: SyntaxError"),
        ("1/0\n", "can't be imported: ZeroDivisionError"),
        (
            HEAD + "a, b = fleet.App('a'), fleet.App('b')\n@a.function\ndef f(): ...\n@b.function\ndef g(): ...\n",
            "several apps: a, b",
        ),
    ],
)
def test_files_that_are_no_app(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DeployError, match=says):
        load(tmp_path, text)


def test_an_option_that_is_refused_is_told_with_its_line_and_its_own_hint(tmp_path: Path) -> None:
    text = HEAD + "@fleet.function(\n    timeout=5,\n    on=[fleet.every('5 parsecs')],\n)\ndef f(): ...\n"
    with pytest.raises(DeployError, match=r"bad\.py, line 4: every='5 parsecs' is no duration") as refused:
        load(tmp_path, text, name="bad.py")
    assert "python FILE" not in refused.value.hint


def test_files_that_are_not_there() -> None:
    with pytest.raises(DeployError, match=r"there is no file nowhere\.py"):
        _deploy.load_app("nowhere.py")
    with pytest.raises(DeployError, match=r"no file and no module 'nowhere\.at\.all'"):
        _deploy.load_app("nowhere.at.all")


def test_a_copy_with_options_counts_when_it_has_a_name(tmp_path: Path) -> None:
    text = HEAD + ONE.format(name="a") + "slow = a.with_options(name='slow', timeout=600)\n"
    assert [function.name for function in load(tmp_path, text).functions] == ["a", "slow"]


def test_a_deploy_imports_each_module_once_and_runs_no_function(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("print('pkg')\n")
    (tmp_path / "pkg" / "part.py").write_text("print('part')\ndef helper(): raise SystemExit('ran')\n")
    (tmp_path / "pkg" / "lazy.py").write_text("print('lazy is imported by a function alone')\n")
    (tmp_path / "pkg" / "app.py").write_text(
        "print('app')\nimport fleet\nfrom . import part\n\n@fleet.function\ndef one(): from . import lazy; part.helper()\n\n"
        "two = fleet.function(lambda: part.helper())\n\ndef make():\n    @fleet.function\n    def three(): part.helper()\n"
        "    return three\n\nthree = make()\n"
    )
    script = (
        "from fleet import _deploy, _register\nloaded = _deploy.load_app('pkg/app.py')\n"
        "for one in loaded.functions:\n    manifest, bundle, _ = _register.describe(one, loaded.app)\n"
        "    print(manifest.function, repr(manifest.program.module), sorted(bundle.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    modules = ["pkg", "pkg.app", "pkg.lazy", "pkg.part"]
    assert done.stdout.splitlines() == [
        "pkg", "app", "part",
        f"one 'pkg.app' {modules}", f"two 'pkg.app' {modules}", f"make-locals-three-ebf06d1e 'pkg.app' {modules}",
    ]  # fmt: skip
