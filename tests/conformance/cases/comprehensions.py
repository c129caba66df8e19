"""Comprehensions, generator expressions, and the scopes they have (inlined from CPython 3.12 on)."""

from tests.conformance.case import case, made

FACTOR = 3


@case("a list comprehension", [1, 2, 3])
def list_of(values):
    return [value * value for value in values]


@case("a set comprehension", ["a", "B", "A"])
def set_of(words):
    return {word.lower() for word in words}


@case("a dict comprehension", "hello")
def dict_of(text):
    return {letter: index for index, letter in enumerate(text)}


@case("a generator expression", 5)
def generated(n):
    return sum(i for i in range(n)), type(i for i in ()).__name__


@case("conditions of a comprehension", 12)
def conditions(n):
    return [i for i in range(n) if i % 2 == 0 if i % 3 == 0]


@case("two loops of one comprehension", "ab")
def two_loops(letters):
    return [a + b for a in letters for b in letters if a != b]


@case("a comprehension inside a comprehension", 3)
def nested(n):
    return [[row * column for column in range(n)] for row in range(n)]


@case("a second loop that depends on the first", [[1, 2], [], [3]])
def flattened(rows):
    return [cell for row in rows for cell in row]


@case("unpacking in the target of a comprehension", {"a": 1, "b": 2})
def unpacked(table):
    return [f"{key}{value}" for key, value in table.items()], [c for a, (b, c) in [(1, (2, 3))]]


@case("a comprehension that uses a global name", [1, 2])
def uses_global(values):
    return [value * FACTOR for value in values]


@case("a comprehension that calls a function of the script", [1, 2])
def uses_function(values):
    return {_negative(value) for value in values}


def _negative(value):
    return -value


@case("a lambda inside a comprehension", 3)
def with_lambda(n):
    return [f() for f in [lambda i=i: i * 10 for i in range(n)]]


@case("a comprehension in a lambda in a comprehension", 2)
def deep_lambda(n):
    return [f(3) for f in [lambda m, i=i: [i * j for j in range(m)] for i in range(n)]]


@made("a comprehension over a variable of the function around", 2)
def over_cell():
    weights = [1, 2, 3]

    def call(n):
        return [weight * n for weight in weights if weight != n]

    return call


@case("a conditional expression inside a comprehension", [1, 2, 3])
def conditional(values):
    return ["even" if value % 2 == 0 else "odd" for value in values]


@case("an assignment expression in a condition", ["1", "x", "22"])
def walrus(words):
    return [number for word in words if (number := int(word) if word.isdigit() else 0)]


@case("a comprehension in a class body")
def class_body():
    class Table:
        size = 3
        rows = [n for n in range(size)]  # the first iterable is read in the class's own scope

    return Table.rows


@case("names like those of the function around")
def same_names(x=1):
    y = [x for x in range(3)]
    return x, y, [x for x in [x for x in "ab"]]


@case("a generator expression that is read only in part")
def lazy():
    seen = []

    def say(n):
        seen.append(n)
        return n

    values = (say(n) for n in range(10))
    return next(values), next(values), seen


@case("the first iterable of a generator expression is taken at once", raises=ZeroDivisionError, wording="CPython 3.14")
def first_iterable():
    (n for n in range(1 // 0))


@case("a generator expression as the only argument")
def only_argument():
    return ",".join(str(n) for n in range(3)), any(n > 1 for n in range(3)), all(n for n in range(3))


@case("an asynchronous comprehension")
async def asynchronous():
    async def numbers():
        for n in range(4):
            yield n

    return [n * n async for n in numbers() if n % 2], {n async for n in numbers()}


@case("await inside a comprehension")
async def awaited():
    async def double(n):
        return n * 2

    return [await double(n) for n in range(3)], {n: await double(n) for n in (4,)}


@case("the order of keys and values in a dict comprehension")
def key_order():
    seen = []

    def say(value):
        seen.append(value)
        return value

    made = {say(f"k{n}"): say(n) for n in range(2)}
    return seen, made


@case("later keys of a dict comprehension win")
def later_keys():
    return {n % 2: n for n in range(5)}


@case("an exception inside a comprehension", [1, "x"], raises=TypeError)
def raises(values):
    return [value + 1 for value in values]


@case("starred elements in displays")
def starred():
    a, b = [1, 2], {"x": 1}
    return [*a, 0, *a], {*a, 9}, (*a,), {**b, "y": 2, **{"x": 3}}
