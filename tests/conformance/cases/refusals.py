"""What can't travel, refused in one sentence before anything is sent."""

import socket
import sqlite3
import threading

from tests.conformance.case import refused

LOCK = threading.Lock()
STREAM = open(__file__)
BASE = sqlite3.connect(":memory:")
LOCAL = threading.local()
SOCKET = socket.socket()
RUNNING = (n for n in range(3))


@refused("a global lock", error="DeployError", words=("LOCK", "lock"))
def uses_lock():
    with LOCK:
        return 1


@refused("a global open file", error="DeployError", words=("STREAM", "TextIOWrapper"))
def uses_stream():
    return STREAM.read()


@refused("a global database connection", error="DeployError", words=("BASE", "Connection"))
def uses_base():
    return BASE.execute("select 1").fetchone()


@refused("a global socket", error="DeployError", words=("SOCKET", "socket"))
def uses_socket():
    return SOCKET.fileno()


@refused("a global generator that runs", error="DeployError", words=("RUNNING", "generator"))
def uses_generator():
    return next(RUNNING)


@refused("a global of thread-local values", error="DeployError", words=("LOCAL", "_thread._local"))
def uses_local():
    return LOCAL


@refused(
    "a lock deep inside an argument", {"a": [threading.Lock()]}, error="WrongArguments", words=("argument 0['a'][0]",)
)
def takes_lock(value):
    return value


@refused("an open file as an argument", STREAM, error="WrongArguments", words=("argument 0", "TextIOWrapper"))
def takes_stream(value):
    return value


@refused("a generator as an argument", (n for n in "ab"), error="WrongArguments", words=("argument 0", "generator"))
def takes_generator(value):
    return value


@refused("arguments that the signature does not take", 1, 2, error="WrongArguments", words=("takes", "2 were given"))
def takes_one(value):
    return value


_space = {"__name__": "__main__"}
exec("def without_source():\n    return 1\n", _space)


refused("a function whose source Python does not keep", error="DeployError", words=("without_source", "source"))(
    _space["without_source"]
)
