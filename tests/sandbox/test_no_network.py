"""What needs a network, native code or another machine: an error that says why, and what to do instead."""

from __future__ import annotations

import pytest

from tests.sandbox.wasm_bench import Bench

NETWORK = "a sandbox has no network; get the data before the call and pass it as an argument"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("socket.socket()", "PermissionError"),
        ("socket.create_connection(('example.com', 80))", "PermissionError"),
        ("socket.getaddrinfo('example.com', 80)", "PermissionError"),
        ("http.client.HTTPConnection('example.com').request('GET', '/')", "PermissionError"),
        ("http.client.HTTPSConnection('example.com', timeout=3).request('GET', '/')", "PermissionError"),
        ("urllib.request.urlopen('http://example.com')", "urllib.error.URLError"),
        ("urllib.request.urlopen('https://example.com', timeout=3)", "urllib.error.URLError"),
        ("smtplib.SMTP('example.com')", "PermissionError"),
        ("ftplib.FTP('example.com')", "PermissionError"),
        ("xmlrpc.client.ServerProxy('http://example.com').f()", "PermissionError"),
        ("http.server.HTTPServer(('', 0), None)", "PermissionError"),
        ("import ssl", "ModuleNotFoundError"),
        ("import requests", "ModuleNotFoundError"),
    ],
)
def test_the_network_is_refused_in_one_sentence(bench: Bench, body: str, kind: str) -> None:
    imports = "import ftplib, http.client, http.server, smtplib, socket, urllib.request, xmlrpc.client"
    error = bench.error(f"{imports}\ndef f():\n    {body}")
    assert error.type_name == kind and NETWORK in error.message, error


def test_who_looks_at_an_import_error_reads_why(bench: Bench) -> None:
    source = """
import importlib
def f():
    said = {}
    for name in ("numpy", "numpy.linalg", "ctypes", "bz2", "imghdr", "tkinter.ttk", "attrs", "_no_such"):
        try: importlib.import_module(name)
        except ModuleNotFoundError as error: said[name] = (str(error), error.name)
    try: from numpy import array
    except ImportError as error: said["from"] = (error.msg, error.name)
    try: import json.nothing
    except ImportError as error: said["json"] = (str(error), error.name)
    return said
"""
    said = bench.eval(source)
    assert 'runtime="jax"' in said["numpy"][0] and said["numpy"][1] == "numpy" and said["from"] == said["numpy"]
    assert said["numpy.linalg"] == said["numpy"]
    assert (
        "native code" in said["ctypes"][0] and "zlib, gzip" in said["bz2"][0] and "terminal" in said["tkinter.ttk"][0]
    )
    assert "doesn't have it any more" in said["imghdr"][0]
    assert "packages=[...]" in said["attrs"][0] and said["_no_such"][1] == "_no_such"
    assert said["json"] == (
        "json.nothing isn't available on a car: the standard library has no such module",
        "json.nothing",
    )


def test_tracebacks_show_the_import_alone(bench: Bench) -> None:
    source = """
import traceback
def f():
    try:
        import numpy
    except ImportError:
        return traceback.format_exc()
"""
    shown = bench.eval(source)
    assert shown.count('File "') == 1 and "import numpy" in shown, shown


def test_errors_have_the_numbers_of_linux(bench: Bench) -> None:
    source = """
import errno, os
def caught(work):
    try: work()
    except OSError as error: return type(error).__name__, error.errno, str(error)
def literal(): raise OSError(17, "mine")
def f():
    return (caught(lambda: open("/tmp/none")), caught(lambda: os.mkdir("/tmp")), caught(literal),
            errno.ENOENT, errno.EACCES, errno.errorcode[39], os.strerror(39), os.strerror(4711))
"""
    assert bench.eval(source) == (
        ("FileNotFoundError", 2, "[Errno 2] No such file or directory: '/tmp/none'"),
        ("FileExistsError", 17, "[Errno 17] File exists: '/tmp'"),
        ("FileExistsError", 17, "[Errno 17] mine"),
        2,
        13,
        "ENOTEMPTY",
        "Directory not empty",
        "Unknown error 4711",
    )
