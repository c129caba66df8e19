"""Why something can't be used in a sandbox, and what can: one sentence for each reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

NETWORK = "a sandbox has no network; get the data before the call and pass it as an argument"
PROCESSES = (
    "a sandbox is one process and can't start another; call Python functions instead, "
    "or spread the work over cars with .map()"
)
THREADS = (
    "a sandbox has one thread; call the function directly, use ThreadPoolExecutor (it does the work at once) or asyncio, "
    "or spread the work over cars with .map()"
)
SIGNALS = "no signal reaches a sandbox; limit time with timeout= of the function or asyncio.timeout()"
NATIVE = "it is native code, and a sandbox runs pure Python only"
ARRAYS = f'{NATIVE}; use lists and the standard library, or a function with runtime="jax" for work on arrays'
TERMINAL = "there is no terminal; print() goes to the logs of the call"
USERS = "a sandbox has neither users nor groups"
UTC = "the clock of a sandbox shows UTC; use zoneinfo for other time zones"
FILES = "the files of a sandbox are a plain tree in memory, without links, owners or devices"
LIBRARY = "the C library behind it isn't part of the sandbox; zlib, gzip, zipfile and sqlite3 work"
OPENSSL = "it needs OpenSSL, which isn't part of the sandbox; pbkdf2_hmac works"
INSTALLERS = "nothing can be installed in a sandbox; name what you need in packages=[...]"
WINDOWS = "it is part of Python on Windows alone"
PACKAGE = "it is neither yours nor of the standard library; name it in packages=[...] if it is pure Python"
REMOVED = "a sandbox runs Python 3.14, which doesn't have it any more"
LACKING = "this part of the standard library needs what a sandbox doesn't have"

_MODULES = {
    NETWORK: "ssl _ssl requests httpx aiohttp urllib3 httpcore websockets websocket paramiko boto3 botocore psycopg psycopg2 "
    "pymysql redis pymongo kafka pika grpc nats selenium playwright",
    ARRAYS: "numpy scipy pandas torch tensorflow sklearn xgboost lightgbm cv2 jax jaxlib numba polars pyarrow cupy keras "
    "transformers matplotlib",
    NATIVE: "ctypes _ctypes cffi",
    PROCESSES: "multiprocessing.shared_memory multiprocessing.resource_tracker pty _posixsubprocess psutil",
    LIBRARY: "bz2 _bz2 lzma _lzma compression.zstd compression.bz2 compression.lzma _zstd dbm.gnu dbm.ndbm _gdbm _dbm",
    INSTALLERS: "pip setuptools ensurepip venv uv",
    WINDOWS: "msvcrt nt winreg winsound winloop win32api",
    FILES: "mmap fcntl resource",
    TERMINAL: "tkinter turtle curses readline termios tty turtledemo idlelib syslog _curses _tkinter",
    USERS: "pwd grp",
    REMOVED: "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib "
    "ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib",
    THREADS: "concurrent.interpreters _interpreters",
}
_REASONS = {name: reason for reason, names in _MODULES.items() for name in names.split()}

_owns: Callable[[str], bool] = set[str]().__contains__
_package_owns: Callable[[str], bool] = set[str]().__contains__
"""Whether a package of the function has a top-level module of that name."""
_is_native: Callable[[str], bool] = set[str]().__contains__
"""Whether a package of the function had that module (dotted) as native code."""


def sentence(name: str) -> str:
    """Why module ``name`` can't be used, and what can."""
    top = name.partition(".")[0]
    if top == "fleet":
        return f"{name} isn't available on a car: code that runs there can't reach the platform"
    if _is_native(name):
        return f"{name} isn't available on a car: {NATIVE}; the rest of the package does without it"
    if reason := _REASONS.get(name) or _REASONS.get(top):
        return f"{name if name in _REASONS else top} isn't available on a car: {reason}"
    if top in sys.stdlib_module_names and top in sys.modules:
        return f"{name} isn't available on a car: the standard library has no such module"
    return f"{top} isn't available on a car: {LACKING if top in sys.stdlib_module_names else PACKAGE}"


def is_here(name: str) -> bool:
    """Whether the code that ``name`` should be part of is here: then Python's own words say best what is wrong."""
    top = name.partition(".")[0]
    return _owns(top) or (_package_owns(top) and not _is_native(name))


def set_owner(owner: Callable[[str], bool]) -> None:
    """``owner`` tells the top-level names of the developer's own modules: those are here."""
    global _owns
    _owns = owner


def know_packages(owns: Callable[[str], bool], is_native: Callable[[str], bool]) -> None:
    """What the function's packages have (top-level names), and what they had as native code (dotted names)."""
    global _package_owns, _is_native
    _package_owns, _is_native = owns, is_native


def explain(error: BaseException) -> None:
    """Put our sentence into a stock ModuleNotFoundError about a module that isn't the developer's own."""
    if isinstance(error, ModuleNotFoundError) and error.name and not is_here(error.name):
        name = error.name
        if str(error).startswith("No module named"):
            error.msg = sentence(name)
            error.args = (error.msg,)


def install() -> None:
    """Say it where the import fails, for those who look at the error themselves."""
    # Python asks for this function by name, each time a module isn't loaded yet, and hides frames of this file name.
    import _frozen_importlib as machinery

    really = machinery._find_and_load  # type: ignore[attr-defined]
    names: dict[str, Any] = {"really": really, "explain": explain}
    exec(compile(_FIND_AND_LOAD, "<frozen importlib._bootstrap>", "exec"), names)
    machinery._find_and_load = names["find_and_load"]  # type: ignore[attr-defined]


_FIND_AND_LOAD = """
def find_and_load(name, import_):
    try:
        return really(name, import_)
    except ModuleNotFoundError as error:
        if error.name == name:
            explain(error)
        raise
"""
