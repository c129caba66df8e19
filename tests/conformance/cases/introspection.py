"""Functions that look at themselves, at others, at their frame."""

import ast
import dis
import inspect
import sys
import types

from tests.conformance.case import case, made


def sample(a, /, b=2, *c, d: int = 4, **e) -> str:
    """A sample."""
    return f"{a}{b}"


class Sample:
    """A sample class."""

    x: int = 1

    def method(self, n):
        return n


@case("inspect.signature of a function of the script")
def signature():
    found = inspect.signature(sample)
    return (
        list(found.parameters),
        found.parameters["d"].kind.name,
        found.parameters["b"].default,
        found.bind(1, 5).arguments,
    )


@case("inspect.getdoc and the kinds of objects")
def kinds():
    return (
        inspect.getdoc(sample),
        inspect.isfunction(sample),
        inspect.isclass(Sample),
        inspect.ismethod(Sample().method),
    )


@case("attributes of a code object")
def code_object():
    code = sample.__code__
    return (
        code.co_name,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_posonlyargcount,
        code.co_varnames,
        code.co_flags & 12,
    )


@case("the frame of the running function")
def frame():
    here = sys._getframe()
    return here.f_code.co_name, "here" in here.f_locals, here.f_globals["__name__"]


@case("the caller's frame")
def caller():
    def callee():
        return sys._getframe(1).f_code.co_name

    return callee()


@case("a function's source by inspect.getsource")
def source():
    return inspect.getsource(sample).splitlines()[0]


@case("a function's source that is parsed and run anew")
def parsed():
    tree = ast.parse(inspect.getsource(_simple))
    tree.body[0].body[0].value.right.value = 100
    space = {}
    exec(compile(ast.fix_missing_locations(tree), "<changed>", "exec"), space)
    return space["_simple"](1), ast.unparse(tree)


def _simple(n):
    return n + 1


@case("ast.literal_eval and a visitor of the script", "{'a': [1, 2.5, None]}")
def literals(text):
    class Names(ast.NodeVisitor):
        def __init__(self):
            self.found = []

        def visit_Name(self, node):
            self.found.append(node.id)

    names = Names()
    names.visit(ast.parse("x + y * f(z)"))
    return ast.literal_eval(text), names.found


@case("a function made of another's code")
def made_of_code():
    made = types.FunctionType(sample.__code__, {}, "other", (7,))
    return made(1, d=0), made.__name__, made.__defaults__


@case("__defaults__ and __kwdefaults__ changed")
def changed_defaults():
    def local(a, b=1, *, c=2):
        return a, b, c

    local.__defaults__ = (10, 20)
    local.__kwdefaults__ = {"c": 30}
    return local()


@case("vars, dir and type of an instance")
def members():
    one = Sample()
    one.y = 2
    return vars(one), "method" in dir(one), type(one).__name__, Sample.__annotations__ == {"x": int}


@case("inspect.getmembers of a class")
def get_members():
    class Plain:
        def one(self): ...

        def two(self): ...

        three = 3

    return [name for name, _ in inspect.getmembers(Plain, inspect.isfunction)]


@case("callable, id, hash and isinstance of functions")
def of_functions():
    return callable(sample), sample == sample, isinstance(sample, types.FunctionType), {sample: 1}[sample]


@case("bytecode of a function is the guest's own")
def bytecode():
    return any(one.opname.startswith("RETURN") for one in dis.get_instructions(sample)), len(
        sample.__code__.co_code
    ) > 0


@case("line numbers of a function")
def line_numbers():
    def inner():
        return sys._getframe().f_lineno

    return (
        inner() - inner.__code__.co_firstlineno,
        inner.__code__.co_firstlineno == line_numbers.__code__.co_firstlineno + 2,
    )


@made("line numbers of a lambda in a traceback")
def lambda_lines():
    def call():
        import traceback

        fails = [
            lambda: 1,
            lambda: [][1],
        ]
        try:
            fails[1]()
        except IndexError as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return last.name, last.line, last.lineno - call.__code__.co_firstlineno

    return call


@case("the version and the platform tell the truth")
def platform():
    return sys.version_info >= (3, 11), sys.implementation.name, sys.byteorder, sys.maxsize > 0


@case("modules made by hand")
def made_module():
    module = types.ModuleType("made", "its docs")
    exec("x = 5\ndef get(): return x", module.__dict__)
    return module.get(), module.__doc__, module.__name__


@case("inspect.getclosurevars of a closure")
def closure_vars():
    kept = 3

    def inner():
        return kept + len([]) + _simple(1)

    found = inspect.getclosurevars(inner)
    return found.nonlocals, sorted(found.globals), sorted(found.builtins)


@case("a decorated function's signature")
def followed():
    import functools

    @functools.wraps(sample)
    def wrapper(*args, **kwargs):
        return sample(*args, **kwargs)

    return str(inspect.signature(wrapper)), str(inspect.signature(wrapper, follow_wrapped=False))
