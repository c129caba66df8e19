"""Functions of an imported module: they travel as the files of their package."""

import importlib

import tests.conformance.package.tools as tools
from tests.conformance.case import case
from tests.conformance.package import CONSTANT, shapes
from tests.conformance.package.shapes import Circle, Kind
from tests.conformance.package.tools import double as twice

STATE = {"calls": 0}


@case("a module's constant, taken from a package")
def constant():
    return CONSTANT, shapes.__name__


@case("a function of another module under another name", 4)
def other_module(n):
    return twice(n), tools.double(n)


@case("a class of another module, as a value of the result")
def other_class():
    return [Circle(2.0), Kind.ROUND], Circle(1.0).area()


@case("an instance of a module's class as an argument", Circle(3.0))
def class_argument(circle):
    return circle.area(), type(circle) is Circle, circle.kind is Kind.ROUND


@case("a function of a module as an argument", tools.double)
def function_argument(function):
    return function(21), function is tools.double


@case("state of a module within one call")
def module_state():
    STATE["calls"] += 1
    return STATE["calls"] >= 1, tools.count(), tools.count()


@case("relative imports inside the package")
def relative():
    return shapes.from_sibling(5), tools.from_parent()


@case("an import inside a function of the package")
def late_import():
    return tools.late()


@case("importlib.import_module of a constant name")
def dynamic():
    return importlib.import_module("tests.conformance.package.late").NAME


@case("a file of the package read by importlib.resources")
def resource():
    return tools.read_data()


@case("__file__, __package__ and __spec__ of a module")
def about():
    return tools.__name__, tools.__package__, tools.__spec__.name, tools.__file__.replace("\\", "/").rpartition("/")[2]


@case("an exception class of another module", raises=tools.ToolError)
def module_error():
    raise tools.ToolError("broken", 5)


@case("an exception raised two modules further", raises=tools.ToolError)
def deep_error():
    shapes.fail()


@case("a cycle of imports between two modules")
def import_cycle():
    from tests.conformance.package import ring_a

    return ring_a.name(), ring_a.other()


@case("a module with __getattr__")
def module_getattr():
    return tools.made_up, tools.__dir__()[:1]


@case("a dataclass of another module as the return annotation says")
def annotated() -> "list[shapes.Circle]":
    return [shapes.Circle(1.5)]


@case("a nested function of a module that is imported")
def nested():
    def inner(n):
        return tools.double(n) + CONSTANT

    return inner(1)
