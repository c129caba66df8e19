"""Try the standard library in a sandbox: every module, and the calls that programs make most.

``SOURCE`` is the function that runs in there; ``probe`` runs it and returns what it saw. ``stdlib_page`` makes the page of
the documentation from that.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.sandbox.wasm_bench import Bench

TRIED: dict[str, str] = {
    "Network": """
import socket; socket.socket()
import socket; socket.create_connection(("example.com", 80))
import socket; socket.getaddrinfo("example.com", 80)
import urllib.request; urllib.request.urlopen("https://example.com")
import http.client; http.client.HTTPSConnection("example.com").request("GET", "/")
import http.server; http.server.HTTPServer(("", 8000), None)
import smtplib; smtplib.SMTP("example.com")
import ftplib; ftplib.FTP("example.com")
import xmlrpc.client; xmlrpc.client.ServerProxy("http://example.com").f()
import urllib.parse; urllib.parse.urlsplit("https://example.com/a?b=c")
import urllib.request; urllib.request.urlopen("data:,text").read()
import ipaddress; ipaddress.ip_network("10.0.0.0/8")
import email.message; email.message.EmailMessage().as_string()
import http.cookies; http.cookies.SimpleCookie("a=b")
""",
    "Processes and signals": """
import subprocess; subprocess.run(["ls"])
import os; os.popen("ls")
import os; os.system("ls")
import os; os.fork()
import os; os.execv("/bin/ls", ["ls"])
import os; os.kill(1, 9)
import os; os.pipe()
import multiprocessing; multiprocessing.Process(target=print).start()
import multiprocessing; multiprocessing.Pool(2)
import multiprocessing; multiprocessing.Queue()
import multiprocessing; multiprocessing.cpu_count()
import multiprocessing; multiprocessing.Lock().acquire()
import concurrent.futures; concurrent.futures.ProcessPoolExecutor()
import signal; signal.alarm(1)
import signal; signal.setitimer(signal.ITIMER_REAL, 1)
import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)
""",
    "Threads": """
import threading; threading.Thread(target=print).start()
import threading; threading.Timer(1, print).start()
import threading; threading.Event().wait()
import threading; threading.Event().wait(0.001)
import threading; threading.Lock().acquire()
import queue; queue.Queue().get()
import queue; queue.Queue().put(1)
import concurrent.futures; concurrent.futures.ThreadPoolExecutor().submit(pow, 2, 3).result()
import concurrent.futures; [*concurrent.futures.ThreadPoolExecutor().map(abs, [-1, -2])]
from multiprocessing.pool import ThreadPool; ThreadPool(2)
""",
    "asyncio": """
import asyncio; asyncio.run(asyncio.sleep(0.001))
import asyncio; asyncio.run(asyncio.wait_for(asyncio.sleep(0.001), 1))
import asyncio; asyncio.run(asyncio.to_thread(len, "abc"))
import asyncio; asyncio.run(asyncio.Event().wait())
import asyncio; asyncio.run(asyncio.open_connection("example.com", 80))
import asyncio; asyncio.run(asyncio.create_subprocess_exec("ls"))
import asyncio; asyncio.new_event_loop().add_signal_handler(2, print)
""",
    "Files": """
open("/tmp/a.txt", "w").write("text")
open("a.txt").read()
open("/etc/passwd")
open("/data.txt", "w")
import tempfile; tempfile.NamedTemporaryFile().close()
import tempfile; tempfile.TemporaryDirectory().cleanup()
import pathlib, shutil; pathlib.Path("/tmp/d").mkdir(); shutil.rmtree("/tmp/d")
import os; os.symlink("/tmp/a.txt", "/tmp/b.txt")
import os; os.chown("/tmp/a.txt", 1, 1)
import shutil; shutil.disk_usage("/tmp")
import pathlib; pathlib.Path("/tmp/a.txt").owner()
import zipfile; zipfile.ZipFile("/tmp/a.zip", "w").close()
import tarfile; tarfile.open("/tmp/a.tar.gz", "w:gz").close()
import tarfile; tarfile.open("/tmp/a.tar.xz", "w:xz")
import gzip; gzip.compress(b"a")
import zipfile; zipfile.ZipFile("/tmp/b.zip", "w", zipfile.ZIP_BZIP2)
import sqlite3; sqlite3.connect("/tmp/a.db").execute("create table t(a)")
import sqlite3; sqlite3.connect(":memory:").execute("select json_extract('[1, 2]', '$[1]')")
import sqlite3; sqlite3.connect(":memory:").execute("create virtual table t using fts5(a)")
import sqlite3; sqlite3.connect(":memory:").execute("attach '/tmp/other.db' as other")
import dbm; dbm.open("/tmp/a.dbm", "c").close()
import shelve; shelve.open("/tmp/a.shelf").close()
""",
    "Chance and digests": """
import random; random.random()
import secrets; secrets.token_hex()
import uuid; (uuid.uuid1(), uuid.uuid4(), uuid.uuid7())
import hashlib; [hashlib.new(name) for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b")]
import hashlib; hashlib.new("ripemd160")
import hashlib; hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10)
import hashlib; hashlib.scrypt(b"password", salt=b"salt", n=2, r=1, p=1)
import hmac; hmac.digest(b"key", b"text", "sha256")
""",
    "Time, zones, languages": """
import time; time.sleep(0.001)
import time; time.tzset()
import datetime; datetime.datetime.now().astimezone()
import zoneinfo; zoneinfo.ZoneInfo("Europe/Oslo")
import locale; locale.setlocale(locale.LC_ALL, "")
import unicodedata; unicodedata.name("é")
"é".encode("cp1252")
""",
    "Users, terminals, tools": """
import getpass; getpass.getuser()
import os; os.getuid()
import os; os.getlogin()
import os; os.get_terminal_size()
import shutil; shutil.get_terminal_size()
input()
breakpoint()
import getpass, warnings; warnings.simplefilter("ignore"); getpass.getpass()
import logging; logging.getLogger("probe").info("unseen")
import cProfile; cProfile.Profile().runcall(len, "abc")
import timeit; timeit.timeit("1", number=9)
import tracemalloc; tracemalloc.start(); tracemalloc.stop()
import inspect, json; inspect.getsource(json.dumps)
import importlib.metadata; importlib.metadata.version("pip")
""",
}
"""What is tried, by area. A line is statements; the last one is what is tried, those before it must work."""

PARTS = ["compression.zstd", "concurrent.interpreters", "dbm.gnu", "dbm.ndbm", "multiprocessing.shared_memory"]
"""Parts of packages that depend on something of their own."""

VALUES = """
sys.version_info[:3]
sys.platform
os.name
platform.machine()
sys.maxsize
array.array("l").itemsize
os.cpu_count()
os.getcwd()
os.listdir("/")
sys.argv
sys.path
sys.executable
dict(os.environ)
socket.gethostname()
time.tzname
locale.getlocale()
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8") and locale.localeconv()["decimal_point"]
webbrowser.open("https://example.com")
sys.getrecursionlimit()
sys.getdefaultencoding()
threading.current_thread().name
""".strip().splitlines()
"""What programs ask about where they are."""

SOURCE = """
import importlib, os, sys
def attempt(line):
    *before, last = line.split("; ")
    names = {}
    try:
        exec("; ".join(before), names)
    except Exception as error:
        return "broken", repr(error)
    try:
        exec(last, names)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""
def modules(parts):
    found = {}
    for name in sorted({*sys.stdlib_module_names, *parts}):
        if not name.startswith("_") and name not in ("this", "antigravity"):
            try:
                importlib.import_module(name)
            except ImportError as error:
                found[name] = str(error)
            else:
                found[name] = ""
    return found
def f(parts, tried, values):
    import array, locale, os, platform, socket, sys, threading, time, webbrowser
    shown = {each: repr(eval(each)) for each in values}
    return modules(parts), {area: {line: attempt(line) for line in lines} for area, lines in tried.items()}, shown
"""


@dataclass(frozen=True)
class Seen:
    """What the probe saw."""

    modules: dict[str, str]
    """Name and why it can't be imported; empty if it can."""
    tried: dict[str, dict[str, tuple[str, str]]]
    """Area, line, type and message of what it raised; both empty if it worked."""
    values: dict[str, str]


def probe(bench: Bench) -> Seen:
    """Run the probe in a sandbox."""
    tried = {area: text.strip().splitlines() for area, text in TRIED.items()}
    return Seen(*bench.value(bench.load(SOURCE), PARTS, tried, VALUES))
