"""The iterator protocol, itertools, and the functions that take iterables."""

import itertools
import operator
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque

from tests.conformance.case import case


class Countdown:
    def __init__(self, start):
        self.start = start

    def __iter__(self):
        return CountdownIterator(self.start)


class CountdownIterator:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return self

    def __next__(self):
        if self.n <= 0:
            raise StopIteration
        self.n -= 1
        return self.n + 1


@case("an iterable and an iterator of the script", 3)
def iterates(n):
    countdown = Countdown(n)
    return list(countdown), max(countdown), 2 in countdown, [*countdown]


class OldSequence:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= 3:
            raise IndexError(index)
        return index * 10


@case("iteration by __getitem__ alone")
def old_protocol():
    return list(OldSequence()), list(reversed(OldSequence())), 20 in OldSequence()


class Backwards:
    def __reversed__(self):
        return iter("cba")


@case("__reversed__ of a class")
def reverses():
    return list(reversed(Backwards()))


class Hinted:
    def __iter__(self):
        return iter([1, 2])

    def __length_hint__(self):
        return 7


@case("__length_hint__ of a class")
def length_hint():
    return operator.length_hint(Hinted()), list(Hinted())


@case("iter with a sentinel")
def sentinel():
    values = iter([1, 2, 0, 3])
    return list(iter(lambda: next(values), 0)), list(values)


@case("next with a default")
def next_default():
    return next(iter([]), "none"), next(iter("a"))


@case("an iterator that is exhausted", raises=StopIteration)
def exhausted():
    values = iter([1])
    next(values)
    next(values)


@case("something that is not iterable", raises=TypeError)
def not_iterable():
    return list(5)


@case("unpacking an iterator of the script")
def unpack_iterator():
    a, *rest = Countdown(4)
    return a, rest


@case("enumerate with a start", "ab")
def enumerated(text):
    return list(enumerate(text, 1)), dict(enumerate(text))


@case("map over several iterables", [1, 2, 3])
def mapped(values):
    return list(map(operator.add, values, itertools.count(10)))


@case("filter with a function and with None", [0, 1, "", "a"])
def filtered(values):
    return list(filter(None, values)), list(filter(lambda value: isinstance(value, int), values))


@case("sorted by several keys, stable", [("b", 2), ("a", 2), ("c", 1)])
def sorted_by(pairs):
    return (
        sorted(pairs, key=lambda pair: pair[1]),
        sorted(pairs, key=lambda p: (-p[1], p[0])),
        sorted(pairs, reverse=True),
    )


@case("min and max with key and default", ["bb", "a", "ccc"])
def extremes(words):
    return min(words, key=len), max(words, key=len), max([], default="none"), min(3, 1, 2)


@case("sum with a start", [[1], [2]])
def summed(lists):
    return sum(lists, []), sum([0.5] * 3, 0.25)


@case("any and all stop early")
def stop_early():
    seen = []

    def say(value):
        seen.append(value)
        return value

    return any(say(n) for n in (0, 1, 2)), all(say(n) for n in (3, 0, 5)), seen


@case("zip that stops at the shortest", "abc", [1, 2])
def zipped(a, b):
    pairs = list(zip(a, b))
    return pairs, list(zip(*pairs))


@case("ranges as sequences", 10)
def ranges(n):
    values = range(1, n, 3)
    return list(values), values[-1], values.index(4), 5 in values, len(range(5, 0, -2)), list(values[::-1])


@case("itertools: infinite iterators cut short")
def infinite():
    return (
        list(itertools.islice(itertools.count(5, 2), 3)),
        list(itertools.islice(itertools.cycle("ab"), 5)),
        list(itertools.repeat("x", 2)),
    )


@case("itertools: accumulate", [1, 2, 3, 4])
def accumulated(values):
    return list(itertools.accumulate(values)), list(itertools.accumulate(values, operator.mul, initial=10))


@case("itertools: chain and from_iterable", [[1], [2, 3]])
def chained(lists):
    return list(itertools.chain(*lists)), list(itertools.chain.from_iterable(map(str, lists)))


@case("itertools: groupby needs neighbours", "aabbba")
def grouped(text):
    return [(key, len(list(group))) for key, group in itertools.groupby(text)]


@case("itertools: product, permutations, combinations", "abc")
def combinatorial(text):
    return (
        ["".join(p) for p in itertools.product(text, repeat=2)],
        list(itertools.permutations(text, 2)),
        list(itertools.combinations(text, 2)),
        len(list(itertools.combinations_with_replacement(text, 3))),
    )


@case("itertools: takewhile, dropwhile, filterfalse, compress", [1, 3, 4, 5])
def selected(values):
    return (
        list(itertools.takewhile(lambda n: n % 2, values)),
        list(itertools.dropwhile(lambda n: n % 2, values)),
        list(itertools.filterfalse(lambda n: n % 2, values)),
        list(itertools.compress("abcd", [1, 0, 1, 0])),
    )


@case("itertools: tee reads twice")
def teed():
    a, b = itertools.tee(iter(range(3)))
    return list(a), list(b)


@case("itertools: pairwise, starmap, zip_longest", [1, 4, 9])
def others(values):
    return (
        [b - a for a, b in itertools.pairwise(values)],
        list(itertools.starmap(pow, [(2, 3), (3, 2)])),
        list(itertools.zip_longest("ab", "c", fillvalue="-")),
    )


@case("deque: both ends, rotation, bounded", "abc")
def deques(text):
    ends, bounded = deque(text), deque(maxlen=2)
    ends.appendleft("z")
    ends.rotate(1)
    bounded.extend(text)
    return list(ends), ends.popleft(), list(bounded)


@case("Counter: arithmetic and most common", "abracadabra")
def counters(text):
    count = Counter(text)
    return dict(count - Counter("aaa")), count.most_common(2), count["z"], sorted((count & Counter("bbb")).elements())


@case("defaultdict of lists", ["ab", "c", "de"])
def default_dicts(words):
    by_length = defaultdict(list)
    for word in words:
        by_length[len(word)].append(word)
    return dict(by_length), by_length.get(9), len(by_length)


@case("OrderedDict: order counts")
def ordered_dicts():
    a = OrderedDict(a=1, b=2)
    a.move_to_end("a")
    return list(a), OrderedDict(a=1, b=2) == OrderedDict(b=2, a=1), a.popitem(last=False)


@case("ChainMap: the first one wins", {"a": 1}, {"a": 2, "b": 3})
def chain_maps(first, second):
    both = ChainMap(first, second)
    both["c"] = 9
    return both["a"], both["b"], first, sorted(both)


class Lower(UserDict):
    def __setitem__(self, key, value):
        super().__setitem__(key.lower(), value)


@case("UserDict of the script")
def user_dicts():
    table = Lower(A=1)
    table["B"] = 2
    return table.data, "a" in table, dict(table)


class Default(dict):
    def __missing__(self, key):
        self[key] = key * 2
        return self[key]


@case("__missing__ of a dict of the script")
def missing_keys():
    table = Default()
    return table["ab"], table.get("cd"), dict(table)


@case("views of a dict follow it", {"a": 1, "b": 2})
def views(table):
    keys, items = table.keys(), table.items()
    table["c"] = 3
    return list(keys), keys & {"a", "z"}, ("c", 3) in items, list(reversed(table))


@case("dict methods", {"a": 1})
def dict_methods(table):
    return table.setdefault("b", []), table.pop("a"), table.pop("zz", None), table, dict.fromkeys("xy", 0)


@case("a key that is not there", "nope", raises=KeyError)
def missing_key(key):
    return {"yes": 1}[key]


@case("list methods", [3, 1, 2])
def list_methods(values):
    values.sort(reverse=True)
    values.insert(1, 9)
    values.extend("a")
    return values, values.pop(0), values.index(9), values.count("a"), values.copy() is values, values.reverse(), values


@case("set methods", {1, 2, 3})
def set_methods(values):
    values.discard(9)
    values.update([4], {5})
    values.remove(1)
    values.intersection_update(range(2, 5))
    return values, values.symmetric_difference([4, 7]), frozenset(values)


@case("nested containers changed through two names")
def aliases():
    row = [0] * 2
    grid = [row] * 2
    grid[0][0] = 1
    other = [list(row) for _ in range(2)]
    other[0][0] = 5
    return grid, other


@case("sorting values of different kinds", [1, "a"], raises=TypeError)
def unsortable(values):
    return sorted(values)


@case("iterating the parts of a string, of bytes and of a dict")
def parts():
    return list("aé"), list(b"ab"), list({"k": 1}), [pair for pair in {"k": 1}.items()]
