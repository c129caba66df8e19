"""Exceptions that leave a function: types, arguments, causes, contexts, notes, groups."""

import errno
import json
import re

from tests.conformance.case import case, made


class ShopError(Exception):
    """Base of the script's own errors."""


class OutOfStock(ShopError):
    def __init__(self, item, left=0):
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


class WithStr(Exception):
    def __str__(self):
        return f"<{self.args[0]}>"


class Coded(ValueError):
    code = 42


@case("an exception of the script", raises=ShopError)
def own():
    raise ShopError("closed", 7)


@case("an exception with attributes of its own", "pen", raises=OutOfStock)
def with_attributes(item):
    raise OutOfStock(item, left=2)


@case("an exception with a __str__ of its own", raises=WithStr)
def own_str():
    raise WithStr("inside")


@case("an exception class that is a builtin's child", raises=Coded)
def child_of_builtin():
    raise Coded("coded")


@made("an exception class of a function's own scope")
def local_class():
    def call():
        class Local(Exception):
            pass

        try:
            raise Local("local")
        except Local as error:
            return type(error).__name__, error.args

    return call


@case("an exception without arguments", raises=LookupError)
def bare():
    raise LookupError


@case("an exception with several arguments", raises=ValueError)
def several_arguments():
    raise ValueError("text", 2, [3.5], {"k": None})


@case("raise from another exception", raises=RuntimeError)
def chained():
    try:
        raise KeyError("key")
    except KeyError as error:
        raise RuntimeError("wrapped") from error


@case("an exception raised while another was handled", raises=TypeError)
def while_handling():
    try:
        raise KeyError("first")
    except KeyError:
        raise TypeError("second")


@case("raise from None", raises=RuntimeError)
def from_none():
    try:
        raise KeyError("hidden")
    except KeyError:
        raise RuntimeError("alone") from None


@case("a chain of three causes", raises=ShopError)
def long_chain():
    try:
        try:
            raise ValueError(1)
        except ValueError as error:
            raise KeyError(2) from error
    except KeyError as error:
        raise ShopError(3) from error


@case("notes on an exception", raises=ValueError)
def with_notes():
    error = ValueError("noted")
    error.add_note("first note")
    error.add_note("second\nnote")
    raise error


@case("an exception group", raises=ExceptionGroup)
def group():
    raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])


@case("a nested exception group", raises=ExceptionGroup)
def nested_group():
    raise ExceptionGroup("outer", [ExceptionGroup("inner", [OSError("x")]), TypeError("y")])


@case("except* takes a group apart")
def except_star():
    seen = []
    try:
        raise ExceptionGroup("g", [ValueError(1), TypeError(2), ValueError(3)])
    except* ValueError as matched:
        seen.append([error.args for error in matched.exceptions])
    except* TypeError as matched:
        seen.append(str(matched))
    return seen


@case("the rest of a group that except* left over", raises=ExceptionGroup)
def left_over():
    try:
        raise ExceptionGroup("g", [ValueError(1), OSError(2)])
    except* ValueError:
        pass


@case("split and subgroup of a group")
def split_group():
    both = ExceptionGroup("g", [ValueError(1), OSError(2)])
    match, rest = both.split(OSError)
    return [e.args for e in match.exceptions], [e.args for e in rest.exceptions], both.subgroup(KeyError)


@case("an exception group of the script's own class")
def own_group():
    class Failures(ExceptionGroup):
        def derive(self, errors):
            return Failures(self.message, errors)

    found = Failures("f", [ValueError(1), KeyError(2)]).subgroup(KeyError)
    return type(found).__name__, len(found.exceptions)


@case("a KeyError shows its key's repr", raises=KeyError)
def key_error():
    return {"a": 1}["missing key"]


@case("an IndexError of a list", raises=IndexError)
def index_error():
    return [1, 2][5]


@case("an AttributeError of an instance", raises=AttributeError)
def attribute_error():
    return ShopError("x").nothing_like_that


@case("an AttributeError of a builtin value", raises=AttributeError)
def builtin_attribute_error():
    return "text".no_method()


@case("a TypeError of operands", raises=TypeError)
def operands():
    return 1 + "a"


@case("a ValueError of int()", raises=ValueError)
def bad_int():
    return int("12x")


@case("an OverflowError", raises=OverflowError, wording="number and text come from the C library")
def overflow():
    return 10.0**400


@case("an OSError keeps errno and file name", raises=FileNotFoundError)
def os_error():
    raise FileNotFoundError(errno.ENOENT, "No such file", "missing.txt")


@case("a file that is not there, by open()", raises=FileNotFoundError, wording="errno of wasi are other numbers")
def open_missing():
    return open("no/such/file.txt")


@case("a PermissionError by its errno", raises=PermissionError)
def by_errno():
    raise OSError(errno.EACCES, "no entry") if errno.EACCES == 13 else PermissionError(13, "no entry")


@case("a UnicodeEncodeError with its five arguments", raises=UnicodeEncodeError)
def unicode_error():
    return "aé".encode("ascii")


@case("a StopIteration that leaves a function", raises=StopIteration)
def stop_iteration():
    raise StopIteration("value")


@case("a NotImplementedError of an abstract idea", raises=NotImplementedError)
def not_implemented():
    raise NotImplementedError("later")


@case("a JSONDecodeError of the standard library", raises=json.JSONDecodeError)
def json_error():
    return json.loads('{"a": }')


@case("a MemoryError raised by hand", raises=MemoryError)
def memory_error():
    raise MemoryError("no room")


@case("a SyntaxError of compile", raises=SyntaxError, wording="newer versions word it better")
def syntax_error():
    return compile("1 +", "<made>", "eval")


@case("exceptions as values of a result")
def as_values():
    return [ValueError("a", 1), KeyError("k")], {"error": OutOfStock("pen", 3)}


@case("raising inside except and finally", raises=KeyError)
def in_finally():
    try:
        raise ValueError("try")
    finally:
        raise KeyError("finally")


@case("a bare raise raises the same again", raises=ZeroDivisionError, wording="CPython 3.14 words it differently")
def reraised():
    try:
        return 1 / 0
    except ArithmeticError:
        raise


@case("raising a class makes an instance", raises=OutOfStock)
def raise_class():
    raise OutOfStock("pin")


@case("raising what is no exception", raises=TypeError)
def raise_text():
    raise "text"


@case("catching a tuple of types, by the order of clauses", "k")
def order_of_clauses(kind):
    errors = {"k": KeyError("k"), "v": ValueError("v")}
    try:
        raise errors[kind]
    except (TypeError, ValueError):
        return "second"
    except LookupError as error:
        return "first", error.args


@case("the traceback of an exception that was caught")
def traceback_lines():
    import traceback

    def inner():
        raise ValueError("deep")

    try:
        inner()
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
        return [frame.name for frame in frames], [frame.line for frame in frames]


@case("sys.exc_info and the exception that is handled")
def exc_info():
    import sys

    try:
        raise ShopError("now")
    except ShopError as error:
        return sys.exc_info()[1] is error, sys.exc_info()[0].__name__, sys.exc_info()[2] is error.__traceback__


@case("an exception that is kept and raised later", raises=ShopError)
def kept():
    saved = ShopError("saved")
    try:
        raise saved
    except ShopError as error:
        again = error
    raise again


@case("an exception made with keywords only", raises=ImportError)
def import_error():
    raise ImportError("no module", name="thing", path="/nowhere")


@case("a module that does not exist", raises=ModuleNotFoundError, wording="a car says what to do instead")
def no_module():
    import module_that_nobody_wrote


@case("a warning turned into an exception", raises=DeprecationWarning)
def warning_as_error():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("old", DeprecationWarning, stacklevel=1)


@case("a broken pattern of the re module", raises=re.error)
def pattern_error():
    return re.compile("a{2,1}")
