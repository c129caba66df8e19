"""Functions that carry variables of the functions around them."""

from tests.conformance.case import case, made


@made("a closure over a number", 5)
def over_number():
    base = 37

    def add(n):
        return base + n

    return add


@made("a closure over a list that it changes", 4)
def over_list():
    kept = [1, 2, 3]

    def append(n):
        kept.append(n)
        return list(kept)

    return append


@made("a closure over a loop variable: the last value counts")
def late_binding():
    makers = []
    for n in range(3):

        def get():
            return n

        makers.append(get)

    def all_of_them():
        return [make() for make in makers]

    return all_of_them


@made("a loop variable bound by a default: each value counts")
def early_binding():
    makers = [lambda n=n: n for n in range(3)]

    def all_of_them():
        return [make() for make in makers]

    return all_of_them


@made("nonlocal: a counter")
def counter():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    def three():
        return step(), step(), step()

    return three


@made("two closures share one variable")
def shared_cell():
    total = 0

    def add(n):
        nonlocal total
        total += n

    def get():
        return total

    def run():
        add(2)
        add(3)
        return get()

    return run


@made("three levels of nested functions", 1)
def levels():
    def outer(a):
        def middle(b):
            def inner(c):
                return a, b, c

            return inner

        return middle

    make = outer(10)(20)

    def call(c):
        return make(c)

    return call


@made("a closure that refers to itself", 10)
def recursive():
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    return fibonacci


@made("two closures that refer to each other", 7)
def mutual():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    return even


@made("a variable that never got a value", raises=NameError)
def empty_cell():
    def get():
        return missing

    if len(__name__) == 0:
        missing = 1
    return get


@made("a variable deleted after the closure was made", raises=NameError)
def deleted_cell():
    gone = 1

    def get():
        return gone

    del gone
    return get


@made("a closure over a function of the script", 3)
def over_function():
    helper = _helper

    def call(n):
        return helper(n)

    return call


def _helper(n):
    return n * 11


@made("a closure over a module")
def over_module():
    import math

    def call():
        return math.gcd(12, 18)

    return call


@made("a closure over a class of its own")
def over_class():
    class Point:
        def __init__(self, x):
            self.x = x

    def call():
        return Point(4).x

    return call


@made("a closure over an instance and over its class")
def over_instance():
    class Point:
        def __init__(self, x):
            self.x = x

    point = Point(9)

    def call():
        return isinstance(point, Point), point.x

    return call


@made("a closure over the arguments of its maker", "b")
def over_arguments():
    def maker(*args, **kwargs):
        def get(key):
            return args, kwargs[key]

        return get

    return maker(1, 2, b=3)


@made("a closure inside a comprehension")
def in_comprehension():
    functions = [(lambda x: lambda y: x * y)(x) for x in (1, 2, 3)]

    def call():
        return [function(10) for function in functions]

    return call


@made("a closure over a hundred variables")
def many_cells():
    space = {}
    names = [f"v{n}" for n in range(100)]
    values = dict.fromkeys(names, 1)

    def call():
        space.update(values)
        return sum(space[name] for name in names)

    return call


@made("the same list through two closures stays one list")
def shared_object():
    shared = []

    def put():
        shared.append("x")

    def get():
        return shared

    def call():
        put()
        return get() is shared, shared

    return call


@made("a default that holds what the closure holds as well")
def default_and_cell():
    shared = {"n": 0}

    def call(default=shared):
        default["n"] += 1
        return shared["n"], default is shared

    return call


@made("a variable of a class body is no variable of its methods")
def class_scope():
    level = "function"

    class Thing:
        level = "class"

        def get(self):
            return level

    def call():
        return Thing().get(), Thing.level

    return call


@made("a closure over bytes of a megabyte")
def over_bytes():
    data = bytes(1_000_000)

    def call():
        return len(data), data[:4]

    return call


@made("nonlocal through two levels")
def deep_nonlocal():
    value = "before"

    def outer():
        def inner():
            nonlocal value
            value = "after"

        inner()

    def call():
        outer()
        return value

    return call


@made("locals() of a closure")
def sees_locals():
    kept, other = 1, 2

    def call(third=3):
        first = kept
        return sorted(locals()), first, other

    return call


@made("cells of a closure, looked at on the car")
def looks_at_cells():
    kept = "cell"

    def inner():
        return kept

    def call():
        return [cell.cell_contents for cell in inner.__closure__], inner.__code__.co_freevars

    return call


@case("a closure made on the car and called there", 4)
def made_there(n):
    def adder(m):
        return n + m

    return adder(5)
