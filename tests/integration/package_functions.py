"""Functions with packages from the real index, each doing something real with its own. Imported by test_packages."""

from __future__ import annotations

import fleet

TEXT = ["python-slugify==8.0.4", "jinja2", "rich>=14"]
MARKUP = ["beautifulsoup4", "pyyaml"]
MATHS = ["sympy", "networkx"]


@fleet.function(packages=TEXT)
def slugs(texts: list[str]) -> list[str]:
    """python-slugify."""
    from slugify import slugify

    return [slugify(text) for text in texts]


@fleet.function(packages=TEXT)
def page(title: str, rows: list[dict[str, object]]) -> str:
    """jinja2, with MarkupSafe, whose accelerator is native."""
    import jinja2

    row = "<li>{{ row.name|upper }}: {{ '%.2f'|format(row.price) }}</li>"
    template = "<h1>{{ title }}</h1>{% for row in rows %}" + row + "{% endfor %}"
    return jinja2.Environment(autoescape=True).from_string(template).render(title=title, rows=rows)


@fleet.function(packages=TEXT)
def table(rows: list[tuple[str, int]]) -> str:
    """rich."""
    import io

    from rich.console import Console
    from rich.table import Table

    shown = Table("name", "count")
    for name, count in rows:
        shown.add_row(name, str(count))
    out = io.StringIO()
    Console(file=out, width=40, no_color=True).print(shown)
    return out.getvalue()


@fleet.function(packages=TEXT)
def plain(text: object) -> str:
    """An argument whose class belongs to a package."""
    return f"{type(text).__module__}: {text}"


@fleet.function(packages=MARKUP)
def links(html: str) -> list[tuple[str, str]]:
    """beautifulsoup4."""
    from bs4 import BeautifulSoup

    return [(str(link["href"]), link.get_text()) for link in BeautifulSoup(html, "html.parser").select("li > a[href]")]


@fleet.function(packages=MARKUP)
def settings(text: str) -> object:
    """PyYAML, whose accelerator is native."""
    import yaml

    loaded = yaml.safe_load(text)
    return loaded, yaml.__with_libyaml__, yaml.safe_dump(loaded, sort_keys=True)


@fleet.function(packages=MATHS, memory="512MiB")
def derivative(expression: str) -> tuple[str, str]:
    """sympy, and mpmath below it."""
    import mpmath
    import sympy

    x = sympy.Symbol("x")
    with mpmath.workdps(30):
        return str(sympy.diff(sympy.sympify(expression), x)), mpmath.nstr(mpmath.zeta(3), 25)


@fleet.function(packages=MATHS, memory="512MiB")
def route(roads: list[tuple[str, str, float]], start: str, end: str) -> tuple[list[str], float]:
    """networkx."""
    import networkx

    graph = networkx.Graph()
    graph.add_weighted_edges_from(roads)
    return networkx.dijkstra_path(graph, start, end), networkx.dijkstra_path_length(graph, start, end)


@fleet.function(packages=["attrs", "python-dateutil", "mpmath==1.3.0"])
def visits(first: str, count: int) -> list[str]:
    """attrs and python-dateutil."""
    import attrs
    from dateutil import parser, relativedelta, tz

    @attrs.define(order=True)
    class Visit:
        when: object = attrs.field(validator=attrs.validators.instance_of(object))
        number: int = attrs.field(default=0, converter=int)

    begun = parser.parse(first)
    made = [Visit(begun + relativedelta.relativedelta(months=n), str(n)) for n in range(count)]
    assert attrs.asdict(made[0])["number"] == 0 and made[0] < made[1]
    offset = begun.replace(tzinfo=tz.gettz("Europe/Oslo")).utcoffset()
    return [*(f"{one.when:%Y-%m-%d}" for one in made), str(offset)]


@fleet.function(packages=["attrs", "python-dateutil", "mpmath==1.3.0"])
def digits(count: int) -> str:
    """mpmath."""
    import mpmath

    with mpmath.workdps(count):
        return mpmath.nstr(mpmath.pi, count)


@fleet.function(packages=TEXT)
def looked_up() -> dict[str, object]:
    """What a program can ask about its packages."""
    import importlib.metadata
    import importlib.resources
    import inspect
    import os
    import pkgutil

    import jinja2
    import slugify

    folder = os.path.dirname(slugify.__file__)
    with open(os.path.join(folder, "__init__.py")) as file:
        opened = file.read()
    try:
        open(os.path.join(folder, "new.py"), "w").close()
    except OSError as error:
        written = type(error).__name__
    return {
        "version": importlib.metadata.version("python-slugify"),
        "requires": importlib.metadata.requires("Jinja2") or [],
        "missing": "requests" in {one.name for one in importlib.metadata.distributions()},
        "scripts": sorted(one.name for one in importlib.metadata.entry_points(group="console_scripts")),
        "resource": importlib.resources.files("slugify").joinpath("py.typed").is_file(),
        "data": len(pkgutil.get_data("slugify", "__init__.py") or b"") == len(opened),
        "modules": sorted(one.name for one in pkgutil.iter_modules(jinja2.__path__))[:3],
        "source": inspect.getsource(slugify.slugify).startswith("def slugify("),
        "written": written,
        "listed": "slugify.py" in os.listdir(folder),
    }


@fleet.function(packages=TEXT)
def fails() -> None:
    """An error inside a package."""
    import jinja2

    jinja2.Environment().from_string("{{ 1 / 0 }}").render()


@fleet.function(packages=MARKUP)
def native() -> None:
    """What was left out."""
    import yaml._yaml  # noqa: F401


@fleet.function
def unnamed() -> None:
    """A package that wasn't named."""
    import whenever  # noqa: F401
