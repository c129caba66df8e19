"""The pure parts of packages=: pip's settings, uv's complaints, what goes into a zip, what counts as proof."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from fleet._packages import locking as _packages
from fleet._packages import resolving as _packages_resolve
from fleet._packages.index import from_pip, pip_settings, uv_environment
from fleet._packages.resolving import IndexUnreachable, explained
from runtime.guest.inside.packages import Archive
from runtime.guest.packing import pack, select
from runtime.guest.prove import Imports, Record, judge

# --- where packages are looked for ---


def test_pips_settings_are_handed_to_uv(tmp_path: Path) -> None:
    config = tmp_path / ".config" / "pip"
    config.mkdir(parents=True)
    (config / "pip.conf").write_text(
        "[global]\nindex-url = https://one.example/simple\nextra_index_url =\n    https://two.example\n    file:///three\n"
        "proxy = http://proxy.example:3128\n[install]\nfind-links = /a /b\ntrusted-host = one.example\n"
    )
    environ = {"PIP_INDEX_URL": "https://zero.example/simple", "PIP_CERT": "/ca.pem", "PATH": "/bin"}
    found = uv_environment(environ, tmp_path, tmp_path)
    assert found["UV_DEFAULT_INDEX"] == "https://zero.example/simple", "the environment wins over files"
    assert found["UV_INDEX"] == "https://two.example file:///three" and found["UV_FIND_LINKS"] == "/a,/b"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match" and found["UV_INSECURE_HOST"] == "one.example"
    assert found["HTTPS_PROXY"] == "http://proxy.example:3128" and found["SSL_CERT_FILE"] == "/ca.pem"
    assert found["PATH"] == "/bin"


def test_uvs_own_settings_win_over_pips(tmp_path: Path) -> None:
    environ = {"PIP_INDEX_URL": "https://pip.example/simple"}
    assert "UV_DEFAULT_INDEX" in uv_environment(environ, tmp_path, tmp_path)
    assert "UV_DEFAULT_INDEX" not in uv_environment({**environ, "UV_INDEX": "https://uv.example"}, tmp_path, tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nindex = [{ url = 'https://uv.example' }]\n")
    assert "UV_DEFAULT_INDEX" not in uv_environment(environ, tmp_path / "below", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\ndev-dependencies = []\n")
    assert "UV_DEFAULT_INDEX" in uv_environment(environ, tmp_path / "below", tmp_path)


def test_broken_or_disabled_settings_of_pip_are_none(tmp_path: Path) -> None:
    given = tmp_path / "given.conf"
    given.write_text("index-url = nowhere\n")
    plain = pip_settings({}, tmp_path)
    assert pip_settings({"PIP_CONFIG_FILE": str(given)}, tmp_path).get("index-url") == plain.get("index-url")
    assert pip_settings({"PIP_CONFIG_FILE": "/dev/null"}, tmp_path) == {"config-file": "/dev/null"}
    assert from_pip({"no-index": "no"}) == {} and from_pip({"no-index": "true"}) == {"UV_NO_INDEX": "1"}


# --- what uv says ---

_HEAD = "error: No solution found when resolving dependencies\n  cause: "


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (_HEAD + "Because nosuch was not found in the package registry and you require nosuch==1, we can conclude that your"
         " requirements are unsatisfiable.", "there is no package nosuch in the index"),
        (_HEAD + "Because there is no version of jinja2==99 and you require jinja2==99, we can conclude that x.",
         "there is no version jinja2==99 in the index"),
        (_HEAD + "Because only tiny==1.0 is available and you require tiny>2, we can conclude that your requirements are"
         " unsatisfiable.", "there is no version tiny>2 in the index"),
        (_HEAD + "Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that x.\n\nhint:"
         " Wheels are required", "docopt==0.6.2 has no wheel for Python 3.14, and source distributions are never built"),
        (_HEAD + "Because flask==3.1.0 depends on jinja2>=3.1.2 and you require flask==3.1, we can conclude that you require"
         " jinja2>=3.1.2.\n   And because you require jinja2<3, we can conclude that your requirements are unsatisfiable.",
         ("the packages contradict each other: flask==3.1.0 depends on jinja2>=3.1.2 and packages= asks for flask==3.1; "
         "packages= asks for jinja2<3")),
        (_HEAD + "Because the requested Python version (>=3.14) does not satisfy Python>=3.8,<3.12 and old==1 depends on"
         " Python>=3.8,<3.12, we can conclude that x.", "the packages don't fit Python 3.14"),
        ("error: Failed to fetch: `x`\n  cause: error sending request for url (x)\n cause: dns error",
         "the package index can't be reached"),
        ("error: something else entirely", "the packages can't be resolved: something else entirely"),
    ],
)  # fmt: skip
def test_what_the_resolver_says_is_one_sentence(said: str, means: str) -> None:
    error = explained(said)
    assert error.message.startswith(means), error.message
    assert error.hint and "\n" not in error.message
    assert isinstance(error, IndexUnreachable) == ("reached" in means)


def test_a_pure_wheel_is_chosen_before_a_native_one() -> None:
    url = "https://index.example/files/charset_normalizer-3.5.2-{}.whl"
    native = {"url": url.format("cp314-cp314-manylinux_2_17_x86_64"), "hashes": {"sha256": "b"}}
    pure = {"url": url.format("py3-none-any"), "hashes": {"sha256": "a"}}
    package = {"name": "charset-normalizer", "version": "3.5.2", "wheels": [native, pure]}
    assert _packages_resolve._chosen(package).filename == "charset_normalizer-3.5.2-py3-none-any.whl"
    chosen = _packages_resolve._chosen({**package, "wheels": [native]})
    assert (chosen.sha256, chosen.filename) == ("b", "charset_normalizer-3.5.2-cp314-cp314-manylinux_2_17_x86_64.whl")
    with pytest.raises(_packages_resolve.DeployError, match=r"has no wheel for Python 3\.14"):
        _packages_resolve._chosen({**package, "wheels": []})


def test_numeric_packages_are_refused_before_anything_is_fetched() -> None:
    with pytest.raises(_packages_resolve.DeployError, match=r"^numpy can't run in a car's sandbox.*jax lane"):
        _packages_resolve.resolve(["numpy==2.0"])
    with pytest.raises(_packages_resolve.DeployError, match=r"^torch, which chat or voice needs, can't run"):
        _packages_resolve.refuse_numeric(["idna", "torch"], ["chat", "voice"])


@pytest.mark.parametrize(
    ("requirement", "pinned"),
    [("a==1.0", True), ("a===1.0", True), ("a", False), ("a==1.*", False), ("a>=1,==1", False)],
)
def test_only_exact_versions_are_locked_for_ever(requirement: str, pinned: bool) -> None:
    assert _packages._is_pinned(requirement) is pinned


# --- what goes into a zip ---

_FILES = {
    "thing/__init__.py": b"import os\n" * 100,
    "thing/_fast.cpython-314-x86_64-linux-gnu.so": b"\x7fELF",
    "thing/twin.abi3.so": b"\x7fELF",
    "thing/twin.py": b"",
    "thing/data/words.txt": b"words\n" * 50,
    "thing/py.typed": b"",
    "thing/api.pyi": b"x: int",
    "thing/tests/test_thing.py": b"import thing",
    "thing/__pycache__/x.cpython-311.pyc": b"",
    "thing.libs/libz-8f.so.1.2": b"\x7fELF",
    "bin/thing": b"#!python",
    "share/man/man1/thing.1": b"",
    "extra.py": b"",
    "thing-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
    "thing-1.0.dist-info/RECORD": b"",
    "thing-1.0.dist-info/uv_cache.json": b"{}",
    "thing-1.0.dist-info/licenses/LICENSE": b"MIT",
}


def test_only_what_imports_can_use_goes_to_cars() -> None:
    found = select("Thing", "1.0", "thing-1.0.dist-info", _FILES)
    assert sorted(found.files) == [
        "extra.py",
        "thing-1.0.dist-info/METADATA",
        "thing-1.0.dist-info/licenses/LICENSE",
        "thing/__init__.py",
        "thing/data/words.txt",
        "thing/py.typed",
        "thing/twin.py",
    ]
    assert found.natives == ("thing._fast", "thing.twin") and found.roots == ["extra", "thing"]
    assert found.tops == ["extra", "thing"] and found.name == "thing"


def test_tests_stay_where_something_else_imports_them() -> None:
    uses = {**_FILES, "thing/run.py": b"def run():\n    from thing import tests\n"}
    assert "thing/tests/test_thing.py" in select("thing", "1.0", "thing-1.0.dist-info", uses).files


def test_namespaces_have_their_roots_below() -> None:
    files = {"google/api/__init__.py": b"", "google/api/more.py": b"", "google/deep/down.py": b""}
    found = select("x", "1", "x-1.dist-info", files)
    assert found.roots == ["google.api", "google.deep.down"] and found.tops == ["google"]


def test_the_same_files_make_the_same_zip() -> None:
    one = select("thing", "1.0", "thing-1.0.dist-info", _FILES)
    other = select("thing", "1.0", "thing-1.0.dist-info", dict(reversed(_FILES.items())))
    data = pack(one, {"thing/__init__.py": b"code"})
    assert data == pack(other, {"thing/__init__.py": b"code"})
    archive = Archive(data)
    with zipfile.ZipFile(io.BytesIO(data)) as plain:
        assert plain.testzip() is None
        assert {name: plain.read(name) for name in archive.entries} == {
            name: archive.read(name) for name in archive.entries
        }
        assert set(plain.namelist()) - set(archive.entries) == {"__fleet__/index"}
    assert archive.read("thing/__init__.pyc") == b"code" and archive.natives == {"thing._fast", "thing.twin"}


def test_a_zip_of_somebody_else_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(ValueError, match="no index"):
        Archive(out.getvalue())


# --- what counts as proof ---


def _record(name: str, roots: list[str], natives: tuple[str, ...] = ()) -> Record:
    return Record(name, "1", f"{name}.zip", "", 1, roots, roots, list(natives))


def test_what_imports_is_accepted() -> None:
    records = [_record("a", ["a", "a_cli"]), _record("b", ["b", "_b"], ("b._fast",))]
    imports = Imports({"a": None, "a_cli": "ImportError: no", "b": None, "_b": "no"}, ["b._fast"], ["b._fast"])
    verdict = judge(records, ["a", "b"], imports)
    assert (verdict.refused, verdict.left_out) == ("", [])


def test_native_code_that_is_missed_is_named_as_the_cause() -> None:
    records = [_record("web", ["web"]), _record("core", ["core"], ("core._core",))]
    failures = {"web": "ImportError: x", "core": "ModuleNotFoundError: core._core"}
    verdict = judge(records, ["web"], Imports(failures, ["core._core"], []))
    assert (verdict.refused, verdict.module, verdict.is_native) == ("core", "core._core", True)


def test_a_public_native_module_that_nobody_looks_for_is_missed() -> None:
    verdict = judge([_record("lxml", ["lxml"], ("lxml.etree",))], ["lxml"], Imports({"lxml": None}, [], []))
    assert (verdict.refused, verdict.module) == ("lxml", "lxml.etree")
    private = judge([_record("x", ["x"], ("x._testing",))], ["x"], Imports({"x": None}, [], []))
    assert private.refused == ""


def test_native_dependencies_that_nobody_misses_are_left_out() -> None:
    records = [_record("sql", ["sql"]), _record("greenlet", ["greenlet"], ("greenlet._greenlet",))]
    imports = Imports({"sql": None, "greenlet": "ImportError"}, ["greenlet._greenlet"], [])
    verdict = judge(records, ["sql"], imports)
    assert (verdict.refused, verdict.left_out) == ("", ["greenlet"])


def test_pure_packages_that_need_what_a_sandbox_lacks_are_refused_with_their_words() -> None:
    verdict = judge([_record("a", ["a"])], ["a"], Imports({"a": "OSError: no sockets"}, [], []))
    assert (verdict.refused, verdict.why, verdict.is_native) == ("a", "OSError: no sockets", False)


# --- progress ---


def test_what_is_quick_is_silent_and_what_takes_long_says_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    said = _packages.Said()
    said("resolving 1 package")
    said("fetching 1 package")
    assert capsys.readouterr().err == ""
    said.show()
    said("importing them in the sandbox")
    assert capsys.readouterr().err == "fetching 1 package\nimporting them in the sandbox\n"
