"""packages= with the real resolver and the real sandbox, from an index that is a folder of wheels made here."""

from __future__ import annotations

import base64
import hashlib
import os
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fleet._packages import cache as _packages_cache
from fleet._packages import locking as _packages
from fleet._packages.cache import Lock
from fleet._packages.resolving import IndexUnreachable
from fleet.protocol.errors import DeployError
from fleet.protocol.options import Options
from runtime.guest.build import GuestImage, cache_root
from runtime.guest.packing import pack, select
from runtime.sandbox.wasm import BundleDamaged
from runtime.slot_wire import SlotProgram
from tests.sandbox.wasm_bench import MIB, Bench, zipped

ELF = b"\x7fELF not for this machine"


class Index:
    """A folder of wheels, and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def add(
        self, name: str, files: dict[str, str | bytes], version: str = "1.0", needs: tuple[str, ...] = (), tag: str = ""
    ) -> None:
        tag = tag or "py3-none-any"
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        requires = "".join(f"Requires-Dist: {one}\n" for one in needs)
        content: dict[str, str | bytes] = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        rows = []
        for path, data in content.items():
            data = data.encode() if isinstance(data, str) else data
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(data)}\n")
        with zipfile.ZipFile(self.folder / f"{module}-{version}-{tag}.whl", "w") as wheel:
            for path, data in content.items():
                wheel.writestr(path, data)
            wheel.writestr(f"{info}/RECORD", "".join(rows) + f"{info}/RECORD,,\n")

    def add_native(self, name: str, files: dict[str, str | bytes], needs: tuple[str, ...] = ()) -> None:
        self.add(name, files, needs=needs, tag="cp314-cp314-manylinux_2_17_x86_64")

    def lock(self, *requirements: str) -> Lock:
        self.said.clear()
        return _packages.lock(Options().changed({"packages": requirements}).packages, self.said.append)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest_image: GuestImage) -> Index:
    assert guest_image
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "guest").symlink_to(cache_root())
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("FLEET_CACHE", str(cache))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    return Index(wheels)


def evaluate(bench: Bench, lock: Lock, source: str, *args: Any) -> Any:
    """What ``f`` of ``source`` returns with the packages of ``lock``."""
    program = SlotProgram(f"{lock}{source}", "__main__", "f", 256 * MIB)
    bench.sandbox.load(program, zipped({"__main__.py": source}), [lock.read(one.digest) for one in lock.packages])
    return bench.value(program, *args)


def test_packages_come_with_what_they_need(index: Index, bench: Bench) -> None:
    index.add(
        "Lower_Part", {"lower_part/__init__.py": "def low():\n    return __file__\n", "lower_part/words.txt": "ab"}
    )
    index.add(
        "upper",
        {"upper.py": "import lower_part, importlib.resources\nWHERE = lower_part.low()\n"},
        needs=("lower-part>=1",),
    )
    lock = index.lock("upper")
    assert str(lock) == "lower-part==1.0, upper==1.0" and lock.tops == {"lower_part", "upper"}
    assert index.said == ["resolving 1 package", "fetching 2 packages", "importing them in the sandbox"]
    source = """
import upper, importlib.metadata, importlib.resources, os, pkgutil, sys
def f():
    words = importlib.resources.files("lower_part").joinpath("words.txt").read_text()
    names = sorted(one.name for one in pkgutil.iter_modules(["/packages"]))
    return upper.WHERE, words, importlib.metadata.version("lower.part"), names, os.listdir("/packages/lower_part")
"""
    assert evaluate(bench, lock, source) == (
        "/packages/lower_part/__init__.py", "ab", "1.0", ["lower_part", "upper"], ["__init__.py", "words.txt"]
    )  # fmt: skip


def test_native_parts_are_left_out_where_the_package_does_without(index: Index, bench: Bench) -> None:
    slow = "try:\n    from ._speed import add\nexcept ImportError:\n    def add(a, b): return a + b\n"
    index.add_native("quick", {"quick/__init__.py": slow, "quick/_speed.cpython-314-x86_64-linux-gnu.so": ELF})
    lock = index.lock("quick")
    assert evaluate(bench, lock, "import quick\ndef f(): return quick.add(1, 2)") == 3
    names = zipfile.ZipFile(
        Path(index.folder.parent / "cache/packages/zips") / f"{lock.packages[0].digest}.zip"
    ).namelist()
    assert names == ["quick-1.0.dist-info/METADATA", "quick/__init__.py", "quick/__init__.pyc", "__fleet__/index"]


def test_a_pure_wheel_is_preferred(index: Index) -> None:
    index.add("both", {"both.py": "X = 1\n"})
    index.add_native("both", {"both.cpython-314-x86_64-linux-gnu.so": ELF})
    assert index.lock("both").packages[0].wheel == "both-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("files", "module"),
    [
        ({"core/__init__.py": "from ._core import f\n", "core/_core.abi3.so": ELF}, "core._core"),
        ({"core/__init__.py": "", "core/etree.cpython-314-x86_64-linux-gnu.so": ELF}, "core.etree"),
        ({"core/__init__.py": "", "core/use.py": "import core._c\n", "core/_c.so": ELF}, "core._c"),
        ({"core.abi3.so": ELF}, "core"),
    ],
)
def test_native_packages_are_refused_by_name(index: Index, files: dict[str, str | bytes], module: str) -> None:
    index.add_native("core", files)
    index.add(
        "front", {"front.py": "import core\n" if "core.abi3.so" in files else "import core._core\n"}, needs=("core",)
    )
    with pytest.raises(DeployError, match=rf"^core can't run in a car's sandbox: {module} is native code") as caught:
        index.lock("core")
    assert caught.value.hint == "use a package that is written in Python alone"
    if module in ("core", "core._core"):
        with pytest.raises(DeployError, match=r"^core, which front needs, can't run in a car's sandbox"):
            index.lock("front")


def test_a_package_is_not_accepted_because_another_one_does_without_it(index: Index) -> None:
    index.add_native("parser", {"parser/__init__.py": "", "parser/tree.abi3.so": ELF})
    index.add("soup", {"soup.py": "try:\n    import parser.tree\nexcept ImportError:\n    pass\n"}, needs=("parser",))
    with pytest.raises(DeployError, match=r"^parser can't run in a car's sandbox: parser\.tree is native"):
        index.lock("parser", "soup")
    lock = index.lock("soup")
    assert [one.name for one in lock.packages] == ["soup"] and lock.left_out == ("parser",), "nobody asked for it"
    assert index.said[-1] == "left out, being native code that the other packages do without: parser"


def test_what_fails_in_the_sandbox_is_told(index: Index) -> None:
    index.add("server", {"server.py": "import socket\nsocket.create_connection(('localhost', 80))\n"})
    with pytest.raises(DeployError, match=r"^server can't be imported in a car's sandbox: \w+: "):
        index.lock("server")


def test_missing_parts_of_the_standard_library_fail_when_they_are_used(index: Index, bench: Bench) -> None:
    index.add("packs", {"packs/__init__.py": "import bz2\ndef squeeze(data): return bz2.compress(data)\n"})
    careful = "try:\n    from . import small\nexcept ImportError:\n    small = None\n"
    index.add("careful", {"careful/__init__.py": careful, "careful/small.py": "import lzma\n"})
    lock = index.lock("packs", "careful")
    source = """
try:
    import packs
except ImportError:
    packs = None
import careful
def f():
    try:
        packs.squeeze(b"x")
    except ModuleNotFoundError as error:
        return str(error), careful.small
"""
    said, small = evaluate(bench, lock, source)
    assert said.startswith("bz2 isn't available on a car") and small is None


def test_what_the_resolver_refuses_is_one_sentence(index: Index) -> None:
    index.add("a", {"a.py": ""}, needs=("b<2",))
    index.add("b", {"b.py": ""}, version="1.0")
    index.add("b", {"b.py": ""}, version="2.0")
    for requirements, says in [
        (("nosuch",), "there is no package nosuch in the index"),
        (("b==3",), "there is no version b==3 in the index"),
        (("b>2",), "there is no version b>2 in the index"),
        (("a", "b>=2"), "the packages contradict each other: "),
    ]:
        with pytest.raises(DeployError) as caught:
            index.lock(*requirements)
        assert caught.value.message.startswith(says), caught.value.message
        assert caught.value.hint and "\n" not in caught.value.message


def test_exact_versions_are_resolved_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add("thing", {"thing.py": "X = 1\n"})
    first = index.lock("thing==1.0")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(_packages, "_make", None)  # Nothing is made any more.
    monkeypatch.setattr(_packages_cache, "time", types.SimpleNamespace(time=lambda: 4e9))
    assert index.lock("Thing == 1.0") == first and index.said == []


def test_other_versions_are_resolved_again_when_the_index_can_be_reached(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("thing", {"thing.py": "X = 1\n"})
    first = index.lock("thing")
    index.add("thing", {"thing.py": "X = 2\n"}, version="1.1")
    assert index.lock("thing") == first, "for an hour"
    monkeypatch.setattr(_packages, "LOCK_S_MAX", -1.0)
    (index.folder.parent / "cache/packages/locks").rename(index.folder.parent / "gone")
    assert str(index.lock("thing")) == "thing==1.1"
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert str(index.lock("thing")) == "thing==1.1"
    assert index.said[-1] == "the package index can't be reached: the packages stay as they were locked before"
    with pytest.raises(IndexUnreachable, match="the package index can't be reached"):
        index.lock("other")


def test_damage_in_the_cache_is_noticed(index: Index) -> None:
    index.add("thing", {"thing.py": "X = 1\n"})
    packed = index.lock("thing==1.0").packages[0]
    path = index.folder.parent / f"cache/packages/zips/{packed.digest}.zip"
    path.write_bytes(b"x" * packed.size_bytes)
    with pytest.raises(DeployError, match="was damaged"):
        index.lock("thing==1.0").read(packed.digest)
    again = index.lock("thing==1.0")
    assert again.packages == (packed,) and len(again.read(packed.digest)) == packed.size_bytes


def test_what_nobody_uses_goes(index: Index) -> None:
    index.add("old", {"old.py": ""})
    index.add("new", {"new.py": ""})
    kept, gone = index.lock("new==1.0").packages[0], index.lock("old==1.0").packages[0]
    cache = _packages_cache.Cache()
    for packed_one in (kept, gone):
        os.utime(cache.zip_of(packed_one.digest), (1e9, 1e9))
    left = cache.root / "work-of-one-that-was-killed"
    left.mkdir()
    assert index.lock("new==1.0").packages == (kept,), "using it notes that it is used"
    index.add("third", {"third.py": ""})
    index.lock("third==1.0")
    assert cache.zip_of(kept.digest).exists() and not cache.zip_of(gone.digest).exists() and not left.exists()
    assert index.lock("old==1.0").packages == (gone,)


def test_nothing_kept_names_an_index(index: Index) -> None:
    index.add("thing", {"thing.py": "X = 1\n"})
    index.lock("thing")
    kept = [path for path in (index.folder.parent / "cache/packages").rglob("*") if path.is_file()]
    assert len(kept) == 4
    for path in kept:
        assert str(index.folder).encode() not in path.read_bytes(), path


# --- the finder alone ---


def packed(files: dict[str, str | bytes], code: dict[str, bytes] | None = None) -> bytes:
    content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    content["made-1.dist-info/METADATA"] = b"Metadata-Version: 2.1\nName: made\nVersion: 1\n"
    return pack(select("made", "1", "made-1.dist-info", content), code or {})


def run(bench: Bench, packages: list[bytes], files: dict[str, str | bytes] | str) -> Any:
    program = SlotProgram(f"{files}", "__main__", "f", 256 * MIB)
    bundle = zipped(files if isinstance(files, dict) else {"__main__.py": files})
    bench.sandbox.load(program, bundle, packages)
    return bench.value(program)


def test_bytecode_of_another_python_is_left_aside(bench: Bench) -> None:
    data = packed({"old.py": "X = 'source'\n"}, {"old.py": b"\x6f\x0d\r\n" + bytes(12) + b"not of this Python"})
    assert run(bench, [data], "import old\ndef f(): return old.X") == "source"


def test_the_bundle_comes_first_and_packages_last(bench: Bench) -> None:
    data = packed({"mine.py": "X = 'package'\n", "json.py": "X = 1\n", "tzdata/__init__.py": "X = 'package'\n"})
    files: dict[str, str | bytes] = {
        "mine.py": "X = 'bundle'\n",
        "__main__.py": "import mine, json, tzdata\ndef f(): return mine.X, json.dumps([]), tzdata.X",
    }
    assert run(bench, [data], files) == ("bundle", "[]", "package")


def test_a_namespace_is_shared_by_packages(bench: Bench) -> None:
    first, second = packed({"space/one/__init__.py": "X = 1\n"}), packed({"space/two.py": "X = 2\n"})
    source = "import space.one, space.two, pkgutil\ndef f(): return space.one.X + space.two.X, list(space.__path__)"
    assert run(bench, [first, second], source) == (3, ["/packages/space"])


def test_files_of_packages_can_be_read_and_not_written(bench: Bench) -> None:
    data = packed({"pack/__init__.py": "", "pack/data/a.bin": bytes(range(256)) * 40, "pack/data/b.txt": "å"})
    source = """
import os, pathlib, shutil, pack
def f():
    folder = pathlib.Path(pack.__file__).parent / "data"
    errors = []
    for attempt in (
        lambda: (folder / "a.bin").write_bytes(b""),
        lambda: open(folder / "b.txt", "a"),
        lambda: (folder / "new").touch(),
        lambda: os.remove(folder / "a.bin"),
        lambda: os.rename(folder / "a.bin", "/tmp/a"),
        lambda: os.rmdir("/packages"),
        lambda: os.truncate(folder / "a.bin", 0),
    ):
        try:
            attempt()
        except PermissionError:
            errors.append(None)
    shutil.copy(folder / "b.txt", "/tmp/b.txt")
    with open(folder / "a.bin", "rb") as file:
        file.seek(256)
        part = file.read(3)
    sizes = sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))
    return len(errors), part, open("/tmp/b.txt", encoding="utf-8").read(), sizes
"""
    sizes = [("/packages/pack/data/a.bin", 10240), ("/packages/pack/data/b.txt", 2)]
    assert run(bench, [data], source) == (7, b"\0\1\2", "å", sizes)


def test_a_damaged_package_is_said_to_be_one(bench: Bench) -> None:
    data = packed({"x.py": ""})
    for damaged in (data[:-1], data[: len(data) // 2], b"", b"PK" * 100):
        program = SlotProgram(f"damaged-{len(damaged)}", "__main__", "f", 256 * MIB)
        with pytest.raises(BundleDamaged, match="can't be read"):
            bench.sandbox.load(program, zipped({"__main__.py": "def f(): pass"}), [damaged])
