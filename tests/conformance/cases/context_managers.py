"""The with statement and contextlib."""

import contextlib
import io

from tests.conformance.case import case


class Noted:
    def __init__(self, name, seen, swallow=False):
        self.name, self.seen, self.swallow = name, seen, swallow

    def __enter__(self):
        self.seen.append(f"enter {self.name}")
        return self.name

    def __exit__(self, kind, error, trace):
        self.seen.append(f"exit {self.name} {kind.__name__ if kind else None}")
        return self.swallow


@case("a context manager of the script")
def plain():
    seen = []
    with Noted("a", seen) as name:
        seen.append(name)
    return seen


@case("a context manager that swallows", 1)
def swallows(n):
    seen = []
    with Noted("a", seen, swallow=True):
        raise ValueError(n)
    return seen


@case("a context manager that lets an exception pass", raises=LookupError)
def passes():
    with Noted("a", []):
        raise LookupError("through")


@case("several managers leave in the reverse order")
def several():
    seen = []
    with Noted("a", seen), Noted("b", seen):
        seen.append("body")
    return seen


@case("managers in brackets over several lines")
def in_brackets():
    seen = []
    with (
        Noted("a", seen) as a,
        Noted("b", seen) as b,
    ):
        seen.append(a + b)
    return seen


@case("a manager whose __exit__ raises something else", raises=OSError)
def exit_raises():
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *about):
            raise OSError("on the way out")

    with Broken():
        raise ValueError("first")


@case("a return through a with statement")
def returns():
    seen = []

    def inner():
        with Noted("a", seen):
            return "value"

    return inner(), seen


@case("contextlib.contextmanager with an exception inside")
def generator_manager():
    seen = []

    @contextlib.contextmanager
    def guarded():
        try:
            yield "given"
        except KeyError as error:
            seen.append(repr(error))

    with guarded() as value:
        raise KeyError(value)
    return seen


@case("contextlib.suppress")
def suppressed():
    with contextlib.suppress(ZeroDivisionError, KeyError):
        return {}["x"]
    return "suppressed"


@case("contextlib.ExitStack with callbacks")
def exit_stack():
    seen = []
    with contextlib.ExitStack() as stack:
        for name in "ab":
            stack.enter_context(Noted(name, seen))
        stack.callback(seen.append, "callback")
        kept = stack.pop_all()
    seen.append("left")
    kept.close()
    return seen


@case("contextlib.closing and nullcontext")
def closing():
    class Door:
        closed = False

        def close(self):
            self.closed = True

    door = Door()
    with contextlib.closing(door), contextlib.nullcontext(5) as five:
        pass
    return door.closed, five


@case("contextlib.redirect_stdout")
def redirected():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print("caught", 1, sep="-", end="!")
    return out.getvalue()


@case("contextlib.ContextDecorator of the script")
def decorator_manager():
    seen = []

    class Timed(contextlib.ContextDecorator):
        def __enter__(self):
            seen.append("start")

        def __exit__(self, *about):
            seen.append("stop")

    @Timed()
    def work():
        seen.append("work")

    work()
    return seen


@case("a manager without __exit__", raises=TypeError, wording="newer versions say more")
def no_exit():
    class Half:
        def __enter__(self):
            return self

    with Half():
        pass
