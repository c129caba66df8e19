"""Packages from the real index on cars: resolved, packed, proved and uploaded for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

import fleet
from fleet.testing import LocalFleet
from tests.integration import package_functions as fn

pytestmark = pytest.mark.usefixtures("shared_fleet")


def test_packages_for_text_work() -> None:
    assert fn.slugs.remote(["Übung macht den Meister!", "影師嗎", "C++ & C#"]) == [
        "ubung-macht-den-meister",
        "ying-shi-ma",
        "c-c",
    ]
    rows = [{"name": "tea", "price": 2.5}, {"name": "<milk>", "price": 1}]
    assert fn.page.remote("A & B", rows) == "<h1>A &amp; B</h1><li>TEA: 2.50</li><li>&lt;MILK&gt;: 1.00</li>"
    lines = fn.table.remote([("apples", 3), ("pears", 14)]).splitlines()
    assert [line.split() for line in lines[1:6:2]] == [
        ["┃", "name", "┃", "count", "┃"],
        ["│", "apples", "│", "3", "│"],
        [lines[5].split()[0]],
    ]
    assert fn.plain.remote(Text("hello")) == "rich.text: hello"


def test_packages_for_markup_work_without_their_native_parts() -> None:
    html = "<ul><li><a href='/a'>First</a><li><b><a href='/b'>no</a></b></li><li><a href='/c'>Third &amp; last</a></ul>"
    assert fn.links.remote(html) == [("/a", "First"), ("/c", "Third & last")]
    text = "car: {seats: 5, doors: [front, rear]}\nspeed: 1.5e+2\nowner: null\n"
    loaded = {"car": {"seats": 5, "doors": ["front", "rear"]}, "speed": 150.0, "owner": None}
    dumped = "car:\n  doors:\n  - front\n  - rear\n  seats: 5\nowner: null\nspeed: 150.0\n"
    assert fn.settings.remote(text) == (loaded, False, dumped)
    with pytest.raises(ModuleNotFoundError, match=r"yaml\._yaml isn't available on a car: it is native code"):
        fn.native.remote()


def test_packages_for_maths_work() -> None:
    assert fn.derivative.remote("sin(x)**2 + x**3") == ("3*x**2 + 2*sin(x)*cos(x)", "1.202056903159594285399738")
    roads = [("a", "b", 7.0), ("b", "d", 15.0), ("a", "c", 14.0), ("c", "d", 2.0), ("b", "c", 10.0)]
    assert fn.route.remote(roads, "a", "d") == (["a", "c", "d"], 16.0)


def test_packages_for_dates_and_digits_work() -> None:
    assert fn.visits.remote("31 Jan 2026 12:00", 3) == ["2026-01-31", "2026-02-28", "2026-03-31", "1:00:00"]
    assert fn.digits.remote(50) == "3.1415926535897932384626433832795028841971693993751"


def test_a_program_can_ask_about_its_packages() -> None:
    found = fn.looked_up.remote()
    assert found["version"] == "8.0.4" and found["requires"][0].startswith("MarkupSafe")
    assert found["missing"] is False and "slugify" in found["scripts"]
    assert found["modules"] == ["_identifier", "async_utils", "bccache"]
    for what in ("resource", "data", "source", "listed"):
        assert found[what] is True, what
    assert found["written"] == "PermissionError"


def test_errors_show_the_lines_of_packages() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        fn.fails.remote()
    told = "\n".join(caught.value.__notes__)
    assert 'File "/packages/jinja2/environment.py", line ' in told and "self.environment.handle_exception()" in told


def test_a_package_that_was_not_named_is_pointed_out() -> None:
    with pytest.raises(
        ModuleNotFoundError,
        match=r"whenever isn't available on a car: it is neither yours.*name it in packages=\[\.\.\.\]",
    ):
        fn.unnamed.remote()
    with pytest.raises(fleet.WrongArguments, match=r"argument 0 is a rich.Text, which the sandbox doesn't have"):
        fn.links.remote(Text("hello"))


def test_functions_share_packages_by_digest(shared_fleet: LocalFleet) -> None:
    from fleet import _client

    client = _client.current()
    slugs, page = client.bound(fn.slugs).manifest, client.bound(fn.page).manifest
    assert slugs is not None and page is not None
    assert [one.name for one in slugs.program.packages].count("python-slugify") == 1
    assert any(name.startswith("python_slugify-8.0.4-") for name in slugs.wheels), "locked to files of the index"
    assert len(slugs.wheels) == len(slugs.program.packages)
    assert slugs.program.packages == page.program.packages
    other = client.bound(fn.slugs.with_options(packages=["python-slugify==8.0.4"])).manifest
    assert other is not None
    assert {one.digest for one in other.program.packages} < {one.digest for one in slugs.program.packages}


def test_each_call_may_have_a_fresh_sandbox() -> None:
    fresh = fn.slugs.with_options(isolation="call")
    assert [fresh.remote(["A b"]) for _ in range(3)] == [["a-b"]] * 3
    assert list(fresh.map([["A"], ["B"]])) == [["a"], ["b"]]


APP = """
import fleet

@fleet.function(packages={packages})
def slug(text: str) -> str:
    from slugify import slugify
    return slugify(text)

@fleet.function
def plain(text: str) -> str:
    return text

if __name__ == "__main__":
    print(slug.remote("From a Script"))
"""


def _python(*arguments: str, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "FLEET_URL": url, **environment},
    )  # fmt: skip


def test_deploy_shows_what_was_locked(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    app = tmp_path / "locked.py"
    app.write_text(APP.format(packages=["python-slugify==8.0.4"]))
    done = _python("-m", "fleet.cli.main", "deploy", str(app), url=shared_fleet.url)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "python-slugify==8.0.4, text-unidecode==1.3" in rows["locked.slug"]
    assert "==" not in rows["locked.plain"]
    again = json.loads(_python("-m", "fleet.cli.main", "deploy", str(app), "--json", url=shared_fleet.url).stdout)
    assert again["unchanged"] and again["packages"]["slug"] == ["python-slugify==8.0.4", "text-unidecode==1.3"]
    assert fleet.Function.from_name("locked", "slug").remote("By Name") == "by-name"


def test_deploy_refuses_native_packages_in_a_sentence(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    app = tmp_path / "refused.py"
    app.write_text(APP.format(packages=["numpy"]))
    done = _python("-m", "fleet.cli.main", "deploy", str(app), url=shared_fleet.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2] == "error: numpy can't run in a car's sandbox: it is native code"
    assert done.stderr.splitlines()[-1].startswith("hint: numeric work belongs to the jax lane")
    assert "refused" not in _python("-m", "fleet.cli.main", "list", url=shared_fleet.url).stdout


def test_a_script_is_quiet_once_its_packages_are_known(shared_fleet: LocalFleet, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(APP.format(packages=["python-slugify==8.0.4"]))
    assert fn.slugs.with_options(packages=["python-slugify==8.0.4"]).remote(["x"]) == ["x"]
    unreachable = {"UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple", "UV_OFFLINE": "1"}
    done = _python(str(script), url=shared_fleet.url, **unreachable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "from-a-script\n", "")
