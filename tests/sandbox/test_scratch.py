"""The files that a function can have: in memory, in ``/tmp``, and nowhere else."""

from __future__ import annotations

import pytest

from fleet.protocol import limits
from tests.sandbox.wasm_bench import MIB, Bench


def test_files_work_as_they_do_elsewhere(bench: Bench) -> None:
    source = """
import csv, errno, glob, gzip, io, os, pathlib, shutil, tempfile, zipfile, json, logging, codecs
def f():
    with open("/tmp/x.txt", "w") as file: file.write("one\\ntwo\\n")
    with open("x.txt", "a") as file: assert file.tell() == 8; print("three", file=file)
    assert open("/tmp/x.txt").read().split() == ["one", "two", "three"]
    with open("x.txt", "r+b") as file:
        file.seek(4); file.write(b"TWO"); file.seek(0); assert file.readline() == b"one\\n" and file.readline() == b"TWO\\n"
        file.truncate(8)
    assert os.stat("x.txt").st_size == 8 and os.path.getsize("/tmp/../tmp/x.txt") == 8
    with gzip.open("/tmp/a.gz", "wt") as file: file.write("packed" * 1000)
    assert gzip.open("/tmp/a.gz", "rt").read(6) == "packed"
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "n.json").write_text(json.dumps({"a": "é"}))
    assert json.loads((folder / "deep/er/n.json").read_bytes()) == {"a": "é"}
    assert [p.name for p in folder.rglob("*")] == ["deep", "er", "n.json"]
    assert glob.glob(f"{folder}/**/*.json", recursive=True) == [f"{folder}/deep/er/n.json"]
    assert [(len(d), n) for _, d, n in os.walk(folder)] == [(1, []), (1, []), (0, ["n.json"])]
    shutil.copytree(folder, "/tmp/copy"); shutil.move("/tmp/copy", "/tmp/moved"); shutil.rmtree(folder)
    assert not folder.exists() and os.listdir("/tmp/moved") == ["deep"]
    shutil.make_archive("/tmp/packed", "zip", "/tmp/moved")
    assert "deep/er/n.json" in zipfile.ZipFile("/tmp/packed.zip").namelist()
    with tempfile.TemporaryDirectory() as t, tempfile.NamedTemporaryFile("w+", dir=t) as named, \\
            tempfile.TemporaryFile() as nameless, tempfile.SpooledTemporaryFile(10) as spooled:
        named.write("x"); named.flush(); nameless.write(b"y" * 99); spooled.write(b"z" * 99)
        assert os.path.exists(named.name) and nameless.seek(0) == 0 and nameless.read() == b"y" * 99
    assert not os.path.exists(t)
    fd = os.open("/tmp/low", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    assert os.write(fd, b"abc") == 3 and os.lseek(fd, 0, 0) == 0 and os.read(fd, 9) == b"abc" and os.pread(fd, 1, 1) == b"b"
    assert os.fstat(fd).st_size == 3
    with os.fdopen(fd, "rb") as file: assert file.seek(0) == 0 and file.read() == b"abc"
    os.replace("/tmp/low", "/tmp/high"); os.utime("/tmp/high", (5, 7))
    assert os.stat("/tmp/high").st_mtime == 7 and not os.path.lexists("/tmp/low")
    handler = logging.FileHandler("/tmp/log.txt"); handler.emit(logging.makeLogRecord({"msg": "said"})); handler.close()
    assert open("/tmp/log.txt").read() == "said\\n" and codecs.open("/tmp/log.txt", encoding="utf-8").read() == "said\\n"
    with open("/tmp/t.csv", "w", newline="") as file: csv.writer(file).writerows([[1, 2], [3, 4]])
    assert [*csv.reader(open("/tmp/t.csv"))] == [["1", "2"], ["3", "4"]]
    print("gone", file=open(os.devnull, "w"))
    with open("/tmp/held", "wb+") as held:
        held.write(b"kept"); os.unlink("/tmp/held"); held.seek(0); assert held.read() == b"kept"
    return os.getcwd(), os.path.realpath("moved"), sorted(os.listdir("/")), tempfile.gettempdir(), os.path.isdir("/tmp")
"""
    assert bench.eval(source) == ("/tmp", "/tmp/moved", ["dev", "tmp"], "/tmp", True)


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("open('/etc/passwd')", "FileNotFoundError", "'/etc/passwd'"),
        ("open('../etc/passwd')", "FileNotFoundError", "'../etc/passwd'"),
        ("open('/data.txt', 'w')", "PermissionError", "'/data.txt'"),
        ("open('/tmp/no/x', 'w')", "FileNotFoundError", "'/tmp/no/x'"),
        ("open('/tmp')", "IsADirectoryError", ""),
        ("open('/tmp/a', 'w').read()", "io.UnsupportedOperation", ""),
        ("open('/tmp/a', 'rw')", "ValueError", "exactly one"),
        ("open('/tmp/a', 'x'); open('/tmp/a', 'x')", "FileExistsError", ""),
        ("os.mkdir('/tmp')", "FileExistsError", ""),
        ("os.mkdir('/tmp/a'); open('/tmp/a/b', 'w'); os.rmdir('/tmp/a')", "OSError", "not empty"),
        ("os.mkdir('/tmp/a'); os.rename('/tmp/a', '/tmp/a/b')", "OSError", "Invalid"),
        ("os.listdir('/tmp/none')", "FileNotFoundError", ""),
        ("os.rename('/tmp', '/tmp2')", "PermissionError", ""),
        ("os.close(4711)", "OSError", "descriptor"),
        ("os.symlink('/etc', '/tmp/e')", "PermissionError", ""),
        ("sqlite3.connect('/data.db')", "sqlite3.OperationalError", "unable to open"),
        ("sqlite3.connect('file:/tmp/none.db?mode=ro', uri=True)", "sqlite3.OperationalError", "unable to open"),
    ],
)
def test_errors_are_those_of_python(bench: Bench, line: str, kind: str, words: str) -> None:
    error = bench.error(f"import os, sqlite3\ndef f(): {line}")
    assert error.type_name == kind and words in error.message, error
    assert error.traceback.count('File "') == 1, error.traceback


def test_databases_are_files(bench: Bench) -> None:
    source = """
import os, shelve, shutil, sqlite3, pathlib
def f():
    path = pathlib.Path("/tmp/x.db")
    with sqlite3.connect(path) as db:
        db.execute("create table t(a, b)"); db.executemany("insert into t values(?, ?)", [(n, "x" * 99) for n in range(5000)])
    db.close()
    second = sqlite3.connect("/tmp/x.db", isolation_level=None)
    assert second.execute("select count(*) from t").fetchone() == (5000,)
    assert second.execute("select a from t order by b, a desc limit 1").fetchone() == (4999,)
    assert path.stat().st_size > 500_000 and path.read_bytes()[:15] == b"SQLite format 3"
    shutil.copy(path, "/tmp/y.db")
    copy = sqlite3.connect("file:/tmp/y.db?mode=rw", uri=True, autocommit=False)
    copy.execute("delete from t"); copy.commit()
    assert [c.execute("select count(*) from t").fetchone()[0] for c in (second, copy)] == [5000, 0]
    second.close(); path.unlink()
    assert sqlite3.connect(path).execute("select count(*) from sqlite_master").fetchone() == (0,)
    with shelve.open("/tmp/shelf") as shelf: shelf["k"] = [1, 2]
    with shelve.open("/tmp/shelf") as shelf: return shelf["k"]
"""
    assert bench.eval(source) == [1, 2]


def test_bytes_and_files_are_bounded(bench: Bench) -> None:
    source = """
import errno, os
def attempt(work):
    try: work()
    except OSError as error: return error.errno == errno.ENOSPC
def fill():
    with open("/tmp/big", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 20))
def many():
    for n in range(20_000): open(f"/tmp/{n}", "w").close()
def f():
    full = attempt(fill)
    size = os.path.getsize("/tmp/big")
    again = attempt(lambda: open("/tmp/more", "wb").write(bytes(2 << 20)))
    os.unlink("/tmp/big")
    open("/tmp/more", "wb").write(bytes(1 << 20))
    return full, size, again, attempt(many), len(os.listdir("/tmp")) <= 10_000
"""
    full, size, again, many, few = bench.value(bench.load(source, memory_bytes=512 * MIB))
    assert (full, again, many, few) == (True, True, True, True)
    assert limits.SCRATCH_BYTES_MAX - MIB <= size <= limits.SCRATCH_BYTES_MAX


def test_nothing_is_seen_by_the_next(bench: Bench) -> None:
    source = "import os\ndef f():\n  open(f'/tmp/{len(os.listdir())}', 'w').close()\n  return len(os.listdir('/tmp'))"
    warm = bench.load(source)
    assert [bench.value(warm), bench.value(warm)] == [1, 2]
    assert bench.eval(source) == 1, "another function has its own"
    fresh = bench.load(source, isolation="call")
    for _ in range(3):
        bench.sandbox.load(fresh, bench.bundle)
        assert bench.value(fresh) == 1
