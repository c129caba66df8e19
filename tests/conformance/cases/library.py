"""The standard library's daily tools, and that their results are the same on a car."""

import array
import base64
import bisect
import calendar
import collections.abc
import configparser
import csv
import datetime as dt
import decimal
import difflib
import email.message
import fnmatch
import fractions
import graphlib
import gzip
import hashlib
import heapq
import hmac
import html
import io
import ipaddress
import json
import logging
import numbers
import os.path
import pathlib
import pprint
import queue
import random
import secrets
import shlex
import sqlite3
import statistics
import struct
import time
import types
import urllib.parse
import uuid
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
import zoneinfo

from tests.conformance.case import case


@case("json: numbers, texts, order, own encoder", {"b": [1, 2.5, None, True], "a": "é"})
def json_texts(value):
    class Sets(json.JSONEncoder):
        def default(self, value):
            return sorted(value)

    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text, json.loads(text) == value, json.dumps({1: {2}}, cls=Sets), json.loads("[1e2]", parse_float=str)


@case("datetime: arithmetic and zones")
def datetimes():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    summer = dt.datetime(2026, 7, 1, 12, tzinfo=berlin)
    return (
        summer.astimezone(dt.UTC).isoformat(),
        (dt.date(2026, 3, 1) - dt.date(2026, 2, 1)).days,
        dt.datetime.fromisoformat("2026-11-22T10:00:00+01:00").utcoffset(),
        summer.strftime("%a %d %b"),
        dt.timedelta(hours=25) / 2,
        tuple(map(int, calendar.monthrange(2028, 2))),
    )


@case("decimal: contexts and rounding")
def decimals():
    with decimal.localcontext() as context:
        context.prec = 6
        third = decimal.Decimal(1) / 3
    return third, decimal.Decimal("2.675").quantize(decimal.Decimal("0.01")), decimal.Decimal("0.1") * 3


@case("decimal: a trap that fires", raises=decimal.DivisionByZero, wording="its argument is a class, which is no data")
def decimal_trap():
    return decimal.Decimal(1) / 0


@case("fractions and numbers")
def ratios():
    third = fractions.Fraction(1, 3)
    return (
        third + fractions.Fraction("0.25"),
        third.limit_denominator(2),
        isinstance(third, numbers.Rational),
        float(third),
    )


@case("statistics")
def stats():
    values = [1, 2, 2, 3, 10]
    return (
        statistics.mean(values),
        statistics.median(values),
        statistics.mode(values),
        round(statistics.stdev(values), 6),
    )


@case("random with a seed gives the same numbers")
def seeded():
    rng = random.Random(42)
    return rng.random(), rng.randint(1, 100), rng.sample(range(50), 3), rng.choice("abc"), round(rng.gauss(0, 1), 9)


@case("uuid, secrets and the clock differ, but have their form")
def forms():
    return uuid.uuid4().version, len(secrets.token_hex(4)), time.time() > 1.7e9, uuid.uuid5(uuid.NAMESPACE_DNS, "a.b")


@case("hashlib, hmac, base64, zlib and gzip", b"data" * 100)
def digests(data):
    return (
        hashlib.sha256(data).hexdigest(),
        hashlib.md5(data, usedforsecurity=False).hexdigest(),
        hashlib.blake2b(data, digest_size=8).hexdigest(),
        hmac.new(b"key", data, "sha256").hexdigest(),
        base64.b64encode(data[:5]),
        zlib.decompress(zlib.compress(data)) == data,
        gzip.decompress(gzip.compress(data)) == data,
        zlib.crc32(data),
    )


@case("struct and array")
def packed():
    numbers_ = array.array("i", [1, -2])
    return struct.pack("<IhB?", 1, -2, 255, True), struct.unpack(">d", bytes(8)), numbers_.tolist(), numbers_.itemsize


@case("heapq and bisect", [5, 1, 4])
def heaps(values):
    heapq.heapify(values)
    heapq.heappush(values, 0)
    ordered = [heapq.heappop(values) for _ in range(4)]
    bisect.insort(ordered, 3)
    return ordered, heapq.nlargest(2, ordered), bisect.bisect_left(ordered, 4), list(heapq.merge([1, 4], [2]))


@case("csv: reading and writing")
def csv_rows():
    out = io.StringIO()
    writer = csv.DictWriter(out, ["a", "b"], lineterminator="\n")
    writer.writeheader()
    writer.writerow({"a": 'x,"y"', "b": 1})
    return out.getvalue(), list(csv.reader(io.StringIO(out.getvalue()), delimiter=","))


@case("sqlite3 in memory")
def database():
    with sqlite3.connect(":memory:") as base:
        base.execute("create table t (id integer primary key, name text)")
        base.executemany("insert into t (name) values (?)", [("a",), ("b",)])
        base.create_function("twice", 1, lambda text: text * 2)
        return base.execute("select id, twice(name) from t order by id desc").fetchall()


@case("an IntegrityError of sqlite3", raises=sqlite3.IntegrityError)
def database_error():
    base = sqlite3.connect(":memory:")
    base.execute("create table t (id integer primary key)")
    base.execute("insert into t values (1)")
    base.execute("insert into t values (1)")


@case("pathlib and os.path without touching a disk")
def paths():
    path = pathlib.PurePosixPath("/a/b/../c.tar.gz")
    return (
        path.suffixes,
        path.stem,
        str(path.with_suffix(".zip")),
        path.parts,
        os.path.normpath("a//b/./../c"),
        path.match("*.gz"),
    )


@case("urllib.parse and html", "a b&c=ü")
def urls(text):
    parts = urllib.parse.urlsplit("https://u:p@host.example:8080/path;x?q=1&q=2#f")
    return (
        urllib.parse.quote(text),
        urllib.parse.parse_qs(parts.query),
        parts.port,
        parts.hostname,
        html.escape("<a href='x'>"),
    )


@case("xml.etree")
def xml():
    root = ElementTree.fromstring("<r><i n='1'>a</i><i n='2'/></r>")
    return [(one.get("n"), one.text) for one in root.iter("i")], ElementTree.tostring(root)


@case("a syntax error of XML", raises=ElementTree.ParseError)
def xml_error():
    ElementTree.fromstring("<r>")


@case("configparser and shlex")
def configuration():
    parser = configparser.ConfigParser()
    parser.read_string("[a]\nx = 1\ny = %(x)s2\n[b]\n")
    return parser["a"].getint("y"), parser.sections(), shlex.split("a 'b c' \\ d"), shlex.quote("it's")


@case("zipfile in memory")
def archives():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a/b.txt", "text")
    with zipfile.ZipFile(data) as archive:
        return archive.namelist(), archive.read("a/b.txt")


@case("logging into a stream")
def logs():
    out = io.StringIO()
    logger = logging.getLogger("conformance")
    logger.propagate = False
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
    logger.addHandler(handler)
    logger.warning("seen %d", 5)
    logger.debug("not seen")
    return out.getvalue()


@case("difflib, fnmatch and pprint")
def texts():
    return (
        list(difflib.unified_diff(["a"], ["b"], lineterm="")),
        difflib.get_close_matches("appel", ["ape", "apple"]),
        fnmatch.filter(["a.py", "b.txt"], "*.py"),
        pprint.pformat({"k": list(range(30))}, width=40),
    )


@case("ipaddress")
def addresses():
    network = ipaddress.ip_network("10.0.0.0/30")
    return [str(host) for host in network.hosts()], ipaddress.ip_address("::1").is_loopback, network.num_addresses


@case("graphlib and queue")
def graphs():
    waiting = queue.PriorityQueue()
    for item in (3, 1, 2):
        waiting.put(item)
    order = graphlib.TopologicalSorter({"c": {"b"}, "b": {"a"}}).static_order()
    return list(order), [waiting.get() for _ in range(3)]


@case("a cycle that graphlib finds", raises=graphlib.CycleError)
def graph_cycle():
    list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


@case("email messages")
def messages():
    message = email.message.EmailMessage()
    message["Subject"], message["To"] = "Grüße", "a@b.example"
    message.set_content("text\n")
    return str(message["Subject"]), message.get_content(), message.get_content_type()


@case("collections.abc of builtins and of the script's classes")
def abstract_bases():
    class Bag(collections.abc.Set):
        def __init__(self, *items):
            self.items = items

        def __contains__(self, item):
            return item in self.items

        def __iter__(self):
            return iter(self.items)

        def __len__(self):
            return len(self.items)

    return Bag(1, 2) & Bag(2, 3) == {2}, isinstance({}, collections.abc.Mapping), Bag(1) <= Bag(1, 2)


@case("types: mapping proxy, simple namespace, dynamic class")
def kinds():
    proxy = types.MappingProxyType({"a": 1})
    made = types.new_class("Made", (), {}, lambda space: space.update(x=5))
    return proxy["a"], types.SimpleNamespace(a=1) == types.SimpleNamespace(a=1), made.x


@case("a mapping proxy that is written to", raises=TypeError)
def proxy_written():
    types.MappingProxyType({})["a"] = 1
