"""Statements: loops, branches, deletion, assertion, assignment."""

from tests.conformance.case import case


@case("for with else that runs", [1, 3])
def for_else(values):
    for value in values:
        if value % 2 == 0:
            break
    else:
        return "no even one"
    return value


@case("while with break and continue", 20)
def while_loop(limit):
    found, n = [], 0
    while True:
        n += 1
        if n > limit:
            break
        if n % 3:
            continue
        found.append(n)
    else:
        found.append("never")
    return found


@case("elif chains", 15)
def fizz(n):
    if n % 15 == 0:
        return "fizzbuzz"
    elif n % 5 == 0:
        return "buzz"
    elif n % 3 == 0:
        return "fizz"
    else:
        return n


@case("nested loops left by a return")
def nested_loops():
    for a in range(1, 100):
        for b in range(a, 100):
            if a * a + b * b == 25:
                return a, b
    return None


@case("try, except, else and finally in order", False)
def order(fails):
    seen = []
    try:
        seen.append("try")
        if fails:
            raise ValueError
    except ValueError:
        seen.append("except")
    else:
        seen.append("else")
    finally:
        seen.append("finally")
    return seen


@case("finally runs when the function returns")
def finally_on_return():
    seen = []

    def inner():
        try:
            return "returned"
        finally:
            seen.append("finally")

    return inner(), seen


@case("finally runs when a loop is left")
def finally_on_break():
    seen = []
    for n in range(3):
        try:
            if n == 1:
                break
        finally:
            seen.append(n)
    return seen


@case("assert with a message", raises=AssertionError)
def asserts():
    assert 1 + 1 == 3, "arithmetic holds"


@case("chained comparison evaluates each operand once")
def chained():
    seen = []

    def value(n):
        seen.append(n)
        return n

    return value(1) < value(3) > value(2) <= value(2), seen


@case("and, or and not give operands, not truths")
def boolean_operands():
    return 0 or "a", "" and 1, not [], None or [] or {}


@case("short circuit leaves the rest alone")
def short_circuit():
    return True or undefined_name, False and undefined_name


@case("conditional expressions nested", 5)
def conditional(n):
    return "low" if n < 3 else "middle" if n < 7 else "high"


@case("assignment to several targets")
def several_targets():
    a = b = []
    a.append(1)
    return b, a is b


@case("a swap without a third name")
def swap():
    a, b = 1, 2
    a, b = b, a
    return a, b


@case("a starred target in the middle")
def starred():
    first, *middle, last = range(6)
    return first, middle, last


@case("a starred target that stays empty")
def starred_empty():
    first, *rest = "a"
    return first, rest


@case("too many values to unpack", raises=ValueError, wording="newer versions add how many there were")
def too_many():
    a, b = [1, 2, 3]
    return a, b


@case("too few values to unpack", raises=ValueError)
def too_few():
    a, *b, c = [1]
    return a, b, c


@case("the order of evaluation of assignment to a subscript")
def subscript_order():
    seen = []

    def say(value):
        seen.append(value)
        return value

    table = {}
    table[say("key")] = say("value")
    return seen, table


@case("augmented assignment to a list keeps the list")
def augmented_list():
    a = b = [1]
    a += [2]
    a *= 2
    return b, a is b


@case("augmented assignment to a tuple makes another one")
def augmented_tuple():
    a = b = (1,)
    a += (2,)
    return a, b


@case("augmented assignment to an element of a tuple fails and works", raises=TypeError)
def augmented_element():
    pair = ([1], 2)
    pair[0] += [2]


@case("slice assignment changes the length")
def slice_assignment():
    values = list(range(6))
    values[1:4] = ["x"]
    values[::2] = "abc"[: len(values[::2])]
    return values


@case("deletion of names, elements, slices and attributes")
def deletion():
    class Thing:
        pass

    thing, values, table = Thing(), [1, 2, 3, 4, 5], {"a": 1, "b": 2}
    thing.x = 1
    del thing.x, values[0], values[1:3], table["a"]
    return vars(thing), values, table


@case("a loop over a list that grows while it runs")
def growing():
    values = [1]
    for value in values:
        if len(values) < 5:
            values.append(value * 2)
    return values


@case("a dict that changes its size while it is read", raises=RuntimeError)
def changing():
    table = {1: 1}
    for key in table:
        table[key + 1] = 1


@case("pass, ellipsis and strings as statements")
def empty_statements():
    pass
    ...
    "just text"
    return None


@case("loops over several iterables at once")
def parallel():
    return [(a, b) for a, b in zip("abc", range(10))], list(zip("ab", "cd", strict=True))


@case("zip with strict and different lengths", raises=ValueError)
def strict_zip():
    return list(zip("ab", "c", strict=True))


@case("a return inside a finally clause wins")
def return_in_finally():
    def inner():
        try:
            raise ValueError("lost")
        finally:
            return "found"

    return inner()


@case("a for loop over the lines of a string")
def over_lines():
    return [line.strip() for line in "a\nb\r\n c".splitlines()]


@case("annotated assignments, with and without a value")
def annotated():
    a: int = 1
    b: str
    (c): float = 2.0
    return a, c, "b" in locals()


@case("a backslash and brackets that join lines")
def joined_lines():
    a = 1 + \
        2  # fmt: skip
    return (a
            + 3)  # fmt: skip


@case("several statements on one line")
def semicolons():
    a = 1; b = 2; return a + b  # fmt: skip


@case("code between two functions of the same name")
def twice_named():
    def f():
        return 1

    first = f()

    def f():
        return 2

    return first, f()
