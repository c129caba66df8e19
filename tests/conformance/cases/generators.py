"""Generators: suspended functions, what is sent into them, and how they end."""

import contextlib
import inspect

from tests.conformance.case import case, made


def _numbers(n):
    for i in range(n):
        yield i


@case("a generator of the script read inside the call", 4)
def reads(n):
    return list(_numbers(n)), sum(_numbers(n))


@case("yield from with a result")
def delegated():
    def inner():
        yield 1
        yield 2
        return "result"

    def outer():
        got = yield from inner()
        yield got

    return list(outer())


@case("send into a generator", [1, 2, 3])
def sends(values):
    def average():
        total = count = 0
        mean = None
        while True:
            value = yield mean
            total += value
            count += 1
            mean = total / count

    running = average()
    next(running)
    return [running.send(value) for value in values]


@case("throw into a generator")
def throws():
    def catching():
        try:
            yield 1
        except ValueError as error:
            yield f"caught {error}"

    running = catching()
    return next(running), running.throw(ValueError("thrown"))


@case("close runs the finally clause")
def closes():
    seen = []

    def running():
        try:
            yield 1
        finally:
            seen.append("closed")

    one = running()
    next(one)
    one.close()
    return seen


@case("the value of StopIteration")
def return_value():
    def running():
        yield 1
        return "done"

    one = running()
    next(one)
    try:
        next(one)
    except StopIteration as error:
        return error.value


@case("StopIteration inside a generator", raises=RuntimeError)
def stop_inside():
    def running():
        yield next(iter([]))

    return list(running())


@case("a generator that never ends, read in part")
def endless():
    def primes():
        found = []
        n = 2
        while True:
            if all(n % p for p in found):
                found.append(n)
                yield n
            n += 1

    return [p for p, _ in zip(primes(), range(8))]


@case("a pipeline of generators", ["1", "x", "3"])
def pipeline(words):
    numbers = (int(word) for word in words if word.isdigit())
    doubled = (n * 2 for n in numbers)
    return list(doubled)


@case("a recursive generator", [1, [2, [3, []], 4]])
def recursive(tree):
    def walk(node):
        if isinstance(node, list):
            for one in node:
                yield from walk(one)
        else:
            yield node

    return list(walk(tree))


@case("states of a generator")
def states():
    running = _numbers(1)
    found = [inspect.getgeneratorstate(running)]
    next(running)
    found.append(inspect.getgeneratorstate(running))
    list(running)
    return [*found, inspect.getgeneratorstate(running)]


@case("yield as an expression in odd places")
def expressions():
    def running():
        table = {(yield "key"): (yield "value")}
        yield table

    one = running()
    return next(one), one.send("k"), one.send("v")


@case("a generator method of a class")
def methods():
    class Tree:
        def __init__(self, value, *children):
            self.value, self.children = value, children

        def __iter__(self):
            yield self.value
            for child in self.children:
                yield from child

    return list(Tree(1, Tree(2, Tree(3)), Tree(4)))


@case("a generator that already runs", raises=ValueError)
def reentered():
    def running():
        yield next(one)

    one = running()
    return next(one)


@case("a context manager inside a generator")
def manager_inside():
    seen = []

    @contextlib.contextmanager
    def noted():
        seen.append("enter")
        try:
            yield
        finally:
            seen.append("exit")

    def running():
        with noted():
            yield 1
            yield 2

    for value in running():
        seen.append(value)
    return seen


@case("exceptions that pass through yield from")
def through_yield_from():
    def inner():
        try:
            yield 1
        except KeyError:
            yield "inner caught"

    def outer():
        yield from inner()

    one = outer()
    next(one)
    return one.throw(KeyError("k"))


@made("a closure that keeps a generator's place", 3)
def kept_place():
    def call(n):
        running = _numbers(100)

        def take():
            return next(running)

        return [take() for _ in range(n)]

    return call


@case("a generator that cleans up when it is dropped")
def dropped():
    seen = []

    def running():
        try:
            yield 1
        finally:
            seen.append("gone")

    one = running()
    next(one)
    del one
    return seen
