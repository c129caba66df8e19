"""Functions without a name, which Python gives no source of their own."""

from functools import reduce

from tests.conformance.case import made


@made("a lambda", 20)
def plain():
    return lambda n: n + 22


@made("the second of three lambdas on one line", 6)
def second_of_three():
    first, second, third = lambda n: n + 1, lambda n: n * 2, lambda n: n - 1
    return second


@made("two lambdas of the same parameters on one line", 5)
def same_parameters():
    return [lambda n: n + 1, lambda n: n + 2][1]


@made("a lambda inside a lambda", 3)
def nested():
    return (lambda a: lambda b: (a, b))("outer")


@made("a lambda over several lines", 4)
def long():
    return lambda n: [
        n,
        n
        + 1,
    ]  # fmt: skip


@made("a lambda with every kind of parameter", 1, 2, kwargs={"c": 3, "d": 4})
def parameters():
    return lambda a, /, *b, c=0, **d: (a, b, c, d)


@made("a lambda as a default argument", 2)
def as_default():
    def call(n, function=lambda n: n * 100):
        return function(n)

    return call


@made("a lambda in a dict display", 7)
def in_dict():
    table = {"half": lambda n: n / 2, "double": lambda n: n * 2}
    return table["half"]


@made("a lambda in an argument of a call", [3, 1, 2])
def in_argument():
    return _kept(lambda values: sorted(values, key=lambda n: -n))


def _kept(function):
    return function


@made("a lambda that a comprehension made", 1)
def in_comprehension():
    return [lambda x, n=n: x + n for n in (10, 20, 30)][1]


@made("a lambda with a conditional expression", -4)
def conditional():
    return lambda n: "negative" if n < 0 else "positive"


@made("a lambda with an assignment expression", 3)
def walrus():
    return lambda n: (m := n + 1) * m


@made("a lambda that makes a generator inside", 4)
def generator_inside():
    return lambda n: sum(i * i for i in range(n))


@made("a lambda with a formatted string", 3.14159)
def f_string():
    return lambda x: f"{x:.2f} {x!r}"


@made("a lambda that unpacks its arguments", (1, 2, 3))
def unpacking():
    return lambda values: [*values, *values[:1]]


@made("a lambda behind a semicolon", 1)
def semicolon():
    first = 1; function = lambda n: n + first  # fmt: skip
    return function


@made("a lambda that a decorator wrapped", 2)
def wrapped():
    def twice(function):
        return lambda n: function(function(n))

    return twice(lambda n: n * 3)


@made("a lambda that calls itself by its name", 5)
def recursive():
    factorial = lambda n: 1 if n < 2 else n * factorial(n - 1)
    return factorial


@made("the fixed point of lambdas", 6)
def fixed_point():
    fix = lambda f: (lambda x: x(x))(lambda x: f(lambda *args: x(x)(*args)))
    return fix(lambda again: lambda n: 1 if n == 0 else n * again(n - 1))


@made("a lambda composed of others by reduce", 1)
def composed():
    steps = [lambda n: n + 1, lambda n: n * 10, str]
    return reduce(lambda f, g: lambda n: g(f(n)), steps)


@made("a lambda that raises", raises=ZeroDivisionError, wording="CPython 3.14 words it differently")
def raising():
    return lambda: 1 / 0


@made("a lambda of a class body", 4)
def in_class():
    class Rules:
        square = staticmethod(lambda n: n * n)

    return Rules.square


@made("a lambda in a subscript", 1)
def in_subscript():
    return {"key": [lambda n: -n]}["key"][0]


@made("a lambda in the return of a lambda's argument", 10)
def argument_of_lambda():
    return (lambda f, g: lambda n: f(g(n)))(lambda n: n + 1, lambda n: n * 2)
