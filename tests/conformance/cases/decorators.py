"""Functions that others wrapped, partials, and methods without their class's file."""

import contextlib
import functools
import operator

from tests.conformance.case import case, made


def loud(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return str(function(*args, **kwargs)).upper()

    return wrapper


def repeated(times):
    def decorator(function):
        @functools.wraps(function)
        def wrapper(*args):
            return [function(*args) for _ in range(times)]

        return wrapper

    return decorator


@case("a decorator that keeps the name (functools.wraps)", "abc")
@loud
def wrapped(text):
    return text + "!"


@case("a decorator with arguments", 5)
@repeated(3)
def with_arguments(n):
    return n * n


@case("two decorators on each other", "ab")
@loud
@repeated(2)
def stacked(text):
    return text


def bare(function):
    def inner(n):
        return function(n) + 1

    return inner


@case("a decorator that does not keep the name", 1)
@bare
def nameless(n):
    return n * 10


@case("__wrapped__ leads to the function itself", "abc")
@loud
def unwraps(text):
    return unwraps.__wrapped__ is not unwraps and unwraps.__name__


class Counting:
    """A decorator that is a class."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.calls, self.function(*args)


@Counting
def _counted(n):
    return -n


@case("a decorator that is a class")
def decorated_by_class():
    return _counted(1), _counted(2), _counted.calls


REGISTRY = {}


def registered(name):
    def decorator(function):
        REGISTRY[name] = function
        return function

    return decorator


@registered("plus")
def _plus(a, b):
    return a + b


@registered("times")
def _times(a, b):
    return a * b


@case("a decorator that fills a registry of the module", "times")
def through_registry(name):
    return sorted(REGISTRY), REGISTRY[name](6, 7)


@made("a partial of a function of the script", 4)
def partial():
    return functools.partial(_plus, 10)


@made("a partial with keywords", 4)
def partial_keywords():
    return functools.partial(_named, right=3)


def _named(left, *, right):
    return left, right


@made("a partial of a partial", 3)
def partial_of_partial():
    return functools.partial(functools.partial(_three, 1), 2)


def _three(a, b, c):
    return [a, b, c]


@made("a partial of a builtin", ["b", "a"])
def partial_of_builtin():
    backwards = functools.partial(sorted, reverse=True)

    def call(values):
        return backwards(values)

    return call


@made("a bound method of an instance", 5)
def bound_method():
    return Account(100).withdraw


class Account:
    rate = 2

    def __init__(self, balance):
        self.balance = balance

    def withdraw(self, amount):
        self.balance -= amount
        return self.balance

    @classmethod
    def with_rate(cls, n):
        return cls(n * cls.rate).balance

    @staticmethod
    def fee(n):
        return n // 10


@made("a class method", 21)
def class_method():
    return Account.with_rate


@made("a static method", 95)
def static_method():
    return Account.fee


@made("a function taken out of its class", 3)
def plain_method():
    def call(amount):
        return Account.withdraw(Account(10), amount)

    return call


@functools.lru_cache(maxsize=None)
def _cached(n):
    return n if n < 2 else _cached(n - 1) + _cached(n - 2)


@case("functools.lru_cache on a recursive function", 80)
def uses_lru_cache(n):
    return _cached(n), _cached.cache_info().misses > 0


@functools.cache
def _kept(key):
    return [key]


@case("functools.cache gives the same object again", "k")
def uses_cache(key):
    return _kept(key) is _kept(key)


@case("a cached function, called itself", 30)
@functools.lru_cache(maxsize=8)
def itself_cached(n):
    return n if n < 2 else itself_cached(n - 1) + itself_cached(n - 2)


@functools.singledispatch
def describe(value):
    return "something"


@describe.register
def _(value: int):
    return "int"


@describe.register(list)
def _(value):
    return "list of " + ", ".join(describe(one) for one in value)


@case("functools.singledispatch", [1, "a", [2.0]])
def dispatches(value):
    return describe(value)


class Formatter:
    @functools.singledispatchmethod
    def format(self, value):
        return "?"

    @format.register
    def _(self, value: int):
        return f"i{value}"

    @format.register
    def _(self, value: str):
        return f"s{value}"


@case("functools.singledispatchmethod")
def dispatches_methods():
    here = Formatter()
    return here.format(1), here.format("a"), here.format(None)


class Cell:
    def __init__(self):
        self.alive = False

    def set_state(self, state):
        self.alive = state

    set_alive = functools.partialmethod(set_state, True)


@case("functools.partialmethod")
def partial_methods():
    cell = Cell()
    cell.set_alive()
    return cell.alive


@functools.total_ordering
class Version:
    def __init__(self, *parts):
        self.parts = parts

    def __eq__(self, other):
        return self.parts == other.parts

    def __lt__(self, other):
        return self.parts < other.parts


@case("functools.total_ordering")
def ordered():
    return Version(1, 2) <= Version(1, 10), Version(2) > Version(1, 9), Version(1) >= Version(1)


class Report:
    made = 0

    @functools.cached_property
    def total(self):
        Report.made += 1
        return 42


@case("functools.cached_property is computed once")
def cached_property():
    report = Report()
    return report.total, report.total, Report.made, vars(report)


@case("functools.cmp_to_key", ["bb", "a", "ccc"])
def compared(words):
    return sorted(words, key=functools.cmp_to_key(lambda a, b: len(b) - len(a)))


@case("functools.reduce with a start", [1, 2, 3])
def reduced(numbers):
    return functools.reduce(operator.mul, numbers, 10)


@contextlib.contextmanager
def _tag(name, out):
    out.append(f"<{name}>")
    yield name.upper()
    out.append(f"</{name}>")


@case("a function made a context manager")
def manager():
    out = []
    with _tag("a", out) as outer, _tag("b", out) as inner:
        out.append(outer + inner)
    return out


@contextlib.contextmanager
def _doubling():
    yield


@_doubling()
def _inside():
    return "inside"


@case("a context manager as a decorator")
def manager_as_decorator():
    return _inside(), _inside()


def _checked(**types):
    def decorator(function):
        names = function.__code__.co_varnames[: function.__code__.co_argcount]

        @functools.wraps(function)
        def wrapper(*args):
            for name, value in zip(names, args, strict=True):
                if not isinstance(value, types.get(name, object)):
                    raise TypeError(f"{name} is no {types[name].__name__}")
            return function(*args)

        return wrapper

    return decorator


@case("a decorator that reads the names of parameters", 1, "2", raises=TypeError)
@_checked(a=int, b=int)
def checked(a, b):
    return a + b


def _class_decorator(kind):
    kind.added = lambda self: type(self).__name__ + "!"
    return kind


@_class_decorator
class Decorated:
    pass


@case("a decorator of a class")
def class_decorated():
    return Decorated().added()


@case("a decorator that is an attribute of an instance")
def decorator_of_instance():
    seen = []

    class App:
        def route(self, path):
            def decorator(function):
                seen.append((path, function.__name__))
                return function

            return decorator

    app = App()

    @app.route("/home")
    def home():
        return "home"

    return home(), seen


@made("a decorator that is a lambda", 3)
def lambda_decorator():
    decorate = lambda function: lambda n: function(n) * 2

    @decorate
    def tripled(n):
        return n * 3

    return tripled


@made("a retry decorator with state", 2)
def retrying():
    def retry(times):
        def decorator(function):
            tries = 0

            @functools.wraps(function)
            def wrapper(*args):
                nonlocal tries
                while True:
                    tries += 1
                    try:
                        return function(tries, *args)
                    except ValueError:
                        if tries >= times:
                            raise

            return wrapper

        return decorator

    @retry(5)
    def flaky(tries, needed):
        if tries <= needed:
            raise ValueError(f"try {tries}")
        return tries

    return flaky
