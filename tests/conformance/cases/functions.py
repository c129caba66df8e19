"""Parameters, defaults, arguments, recursion, and what a function knows of itself."""

import typing

from tests.conformance.case import case, made


@case("positional-only parameters", 7, 3)
def positional_only(a, b, /):
    return a - b


@case("keyword-only parameters", kwargs={"width": 3, "height": 4})
def keyword_only(*, width, height):
    return width * height


@case("a variable number of positional arguments", 1, 2, 3)
def variable(*numbers):
    return len(numbers), sum(numbers), type(numbers).__name__


@case("keyword arguments in the order they were given", kwargs={"z": 1, "a": 2})
def keywords(**options):
    return list(options.items())


@case("every kind of parameter in one signature", 1, 2, 3, 4, kwargs={"e": 5, "f": 6})
def every_kind(a, /, b, *c, d=10, e, **f):
    return a, b, c, d, e, f


@case("keyword passed to a name that **kwargs holds as well", 1, kwargs={"a": 2})
def same_name(a, /, **rest):
    return a, rest


@case("defaults of positional parameters", "x")
def with_defaults(first, second="y", third=None):
    return [first, second, third]


def _remember(item, seen=[]):
    seen.append(item)
    return list(seen)


@case("a mutable default is shared by the calls of one function")
def mutable_default():
    return _remember(1), _remember(2), _remember(3)


DEFAULT = "as it was"


def _frozen_default(value=DEFAULT):
    return value


DEFAULT = "as it is"


@case("a default keeps the value of the time of definition")
def early_bound():
    return _frozen_default(), DEFAULT


@case("defaults of keyword-only parameters")
def keyword_defaults(*, low=0, high=9):
    return range(low, high)


@case("star-arguments at the place of the call")
def spread():
    first, options = [1, 2], {"e": 5}
    return every_kind(*first, *[3], **options, **{"g": 7})


@case("the same keyword twice", raises=TypeError)
def keyword_twice():
    return with_defaults(**{"first": 1}, **{"first": 2})


@case("an argument that is missing, in a call on the car", raises=TypeError)
def missing():
    return keyword_only(width=1)


@case("an argument too many, in a call on the car", raises=TypeError)
def too_many():
    return positional_only(1, 2, 3)


@case("a function that calls itself", 12)
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def _is_odd(n):
    return n != 0 and is_even(n - 1)


@case("two functions that call each other", 11)
def is_even(n):
    return n == 0 or _is_odd(n - 1)


@case("recursion that never ends", raises=RecursionError, wording="the limit stands in the message of newer versions")
def bottomless():
    return bottomless()


@case("a recursion error that the function catches itself")
def catches_recursion():
    try:
        return bottomless()
    except RecursionError as error:
        return type(error).__name__


def _counter():
    _counter.count += 1
    return _counter.count


_counter.count = 40


@case("attributes of a function")
def function_attributes():
    _counter()
    return _counter(), vars(_counter)


@case("the docstring of a function")
def documented():
    """What it says of itself."""
    return documented.__doc__


@case("names of a function and of one inside it")
def names():
    def inner():
        return None

    return names.__name__, names.__qualname__, inner.__qualname__, inner.__module__


@case("annotations evaluated on the car")
def annotated():
    def inner(a: int, b: "str" = "", *c: list[int], **d: dict[str, int]) -> tuple[int, ...]: ...

    return sorted(typing.get_type_hints(inner)), inner.__annotations__["return"] == tuple[int, ...]


@case("a function without a return statement")
def nothing():
    pass


@case("code behind a return that never runs")
def unreachable():
    return "first"
    return "second"


@case("a function defined in a branch", True)
def conditional(loud):
    if loud:

        def say(text):
            return text.upper()
    else:

        def say(text):
            return text

    return say("hello")


def _twice(x):
    return "overwritten"


def _twice(x):
    return x * 2


@case("the last definition of a name wins", 21)
def redefined(x):
    return _twice(x)


@case("functions as values of a dict", "sub")
def dispatched(name):
    table = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b}
    return table[name](9, 4)


@case("a function as an argument of the call", len)
def takes_builtin(function):
    return [function(word) for word in ("a", "bcd")]


@case("a function of the script as an argument", _twice)
def takes_function(function):
    return function(5)


@case("a class as an argument of the call", dict)
def takes_class(kind):
    return kind(a=1)


@case("nested tuples unpacked from an argument", (1, (2, [3, 4])))
def unpacks(pair):
    a, (b, [c, d]) = pair
    return a + b + c + d


@case("a parameter that shadows a builtin", 3)
def shadows(list):
    return [list] * list


@case("names beyond ASCII")
def größe(weiß=2):
    π = 3
    return π * weiß


@case("two hundred parameters of one function")
def wide():
    names = [f"a{n}" for n in range(200)]
    space = {}
    exec(f"def made({', '.join(names)}): return {' + '.join(names)}", space)
    return space["made"](*range(200))


@case("code made by eval and compile on the car")
def evaluated():
    code = compile("a * b", "<made>", "eval")
    return eval(code, {"a": 6, "b": 7}), code.co_names


@made("a function that another one returned", 5)
def maker():
    def power(base, exponent=2):
        return base**exponent

    return power


@made("a method of a builtin value", "a,b,c", ",")
def builtin_method():
    def split(text, by):
        return str.split(text, by)

    return split


@made("a parameter's default that is a function", 4)
def default_function():
    def apply(value, change=lambda n: n * n):
        return change(value)

    return apply


@made("a function with a name given later")
def renamed():
    def original():
        return "renamed"

    original.__name__ = original.__qualname__ = "another"
    return original
