"""Where names live: globals of the script, local scopes, class scopes, builtins."""

import builtins
import contextlib
import math as mathematics
import os.path
from collections import Counter as Tally

from tests.conformance.case import case

NUMBER = 12
TABLE = {"a": 1}
COMPUTED = [n * n for n in range(4)]
_state = 0
total = 0


@case("a constant of the module")
def constant():
    return NUMBER


@case("a table of the module that the function changes", "b")
def changes_table(key):
    TABLE[key] = 2
    return TABLE


@case("a value that the module computed when it was loaded")
def computed():
    return COMPUTED


@case("global: a function binds a name of the module")
def binds_global():
    global _state
    _state += 5
    return _state


def _add(n):
    global total
    total += n


def _get():
    return total


@case("two functions share a global name")
def shared_global():
    _add(3)
    _add(4)
    return _get(), total


@case("a module imported under another name")
def renamed_module():
    return mathematics.isqrt(50), mathematics.__name__


@case("a submodule of an imported package")
def submodule():
    return os.path.join("a", "b")


@case("a name imported from a module under another name")
def renamed_name():
    return Tally("abca").most_common(1)


@case("an import inside the function")
def local_import():
    import json
    from string import ascii_lowercase as letters

    return json.dumps({"a": letters[:3]})


@case("a star import inside exec")
def star_import():
    space = {}
    exec("from math import *", space)
    return space["floor"](2.7)


@case("a local name that hides a global one")
def hides():
    NUMBER = "local"
    return NUMBER


@case("a name used before it has a value", raises=UnboundLocalError)
def unbound():
    value = later
    later = 1
    return value, later


@case("a name that nobody defined", raises=NameError)
def undefined():
    return no_such_name


@case("del of a global name")
def deletes_global():
    global _temporary
    _temporary = 1
    del _temporary
    return "_temporary" in globals()


@case("globals() holds what the function uses")
def sees_globals():
    return NUMBER == globals()["NUMBER"], globals()["__name__"]


@case("the variable of a comprehension stays inside it")
def comprehension_scope():
    n = "outer"
    made = [n for n in range(3)]
    return n, made


@case("an assignment expression leaves its comprehension")
def walrus_scope():
    made = [last := n for n in range(3)]
    return last, made


@case("the variable of except is gone behind it", raises=UnboundLocalError)
def except_scope():
    try:
        raise ValueError("x")
    except ValueError as error:
        str(error)
    return error


@case("the names of a class body are no names of its functions")
def class_names():
    class Thing:
        inner = "class"

        def get(self):
            try:
                return inner
            except NameError as error:
                return str(error)

    return Thing().get()


@case("a class body reads the names around it")
def class_reads():
    outside = 2

    class Thing:
        doubled = outside * 2
        tripled = [outside * n for n in (3,)]

    return Thing.doubled, Thing.tripled


@case("private names of a class are mangled")
def mangled():
    class Base:
        def __init__(self):
            self.__secret = "base"

        def get(self):
            return self.__secret

    class Derived(Base):
        def __init__(self):
            super().__init__()
            self.__secret = "derived"

    return Derived().get(), sorted(vars(Derived()))


@case("a builtin that the script replaces for one function")
def shadowed_builtin():
    def len(values):
        return "mine"

    return len([]), builtins.len([])


def max(*values):
    return "the script's own"


@case("a function of the script with a builtin's name")
def script_builtin():
    return max(1, 2), builtins.max(1, 2)


@case("locals of a function as a dict")
def takes_locals(a=1):
    b = 2
    return dict(locals())


@case("exec with a namespace of its own")
def exec_namespace():
    space = {"a": 1}
    exec("b = a + 1\ndef f(): return b * 10", space)
    return space["f"]()


@case("nested functions with the same names as outer ones")
def same_names():
    def helper():
        def helper():
            return "inner"

        return "outer", helper()

    return helper()


@case("__name__ of the script's functions and module")
def main_name():
    return __name__, main_name.__module__


@case("a global name that only a nested function uses")
def used_below():
    def inner():
        def innermost():
            return NUMBER + len_of(TABLE)

        return innermost()

    return inner() > 0


def len_of(table):
    return builtins.len(table)


@case("a global name that only a class body uses")
def used_in_class():
    class Thing:
        level = NUMBER

        def get(self):
            return self.level + NUMBER

    return Thing().get()


@case("a global name that only a default of an inner function uses")
def used_in_default():
    def inner(value=NUMBER):
        return value

    return inner()


@case("a global name that only a comprehension uses")
def used_in_comprehension():
    return [n + NUMBER for n in range(2)], {NUMBER: n for n in range(1)}


@case("a name bound by a for loop of the module")
def bound_by_loop():
    return letter


for letter in "xyz":
    pass

with contextlib.nullcontext("bound") as held:
    pass


@case("a name bound by a with statement of the module")
def bound_by_with():
    return held


if NUMBER > 10:

    def chosen():
        return "large"
else:

    def chosen():
        return "small"


@case("a function of the script that a branch defined")
def defined_by_branch():
    return chosen()


MISSING = object()


def _or_missing(value=MISSING):
    return "missing" if value is MISSING else value


@case("an object of the module that stands for nothing given")
def sentinel():
    return _or_missing(), _or_missing(MISSING), _or_missing(None)


try:
    import no_such_module
except ImportError:
    no_such_module = None


@case("an optional import that failed")
def optional_import():
    return no_such_module is None
