"""What the codec writes for each kind of value, and what each costs in memory once it is read. Standard library only.

None, bool, int, float, str, bytes, list and dict are MessagePack as it stands (dict keys may be of any kind). The rest:

====================  =================================================================================================
int beyond 64 bits    ext 1: two's complement, big endian
str with surrogates   ext 2: UTF-8 with surrogates passed
everything else       an array whose first element is ext 3 with one byte, the kind (below), then its fields
padding               0xC1 and anything, behind the value
====================  =================================================================================================

**Costs.** Objects take more room than their encoding: an empty list is one byte there and 64 here. So that nobody can make
a reader allocate more than ``EXPANSION`` times what was sent plus ``GRACE_BYTES``, the reader charges every value by the
constants below before it makes it. A writer charges at least as much, and pads what would exceed that: what takes much
memory costs its sender bandwidth. Padding starts at some 100,000 values that are not packed.
"""

from __future__ import annotations

from fleet.protocol.limits import MIB

EXT_INT, EXT_STR, EXT_KIND = 1, 2, 3
PAD = 0xC1

TUPLE, SET, FROZENSET = 1, 2, 3
DATETIME, DATE, TIME, TIMEDELTA, TIMEZONE, ZONEINFO = 4, 5, 6, 7, 8, 9
EXCEPTION = 10
FLOATS, INTS, BYTE_INTS, FLAGS, STRS = 11, 12, 13, 14, 15
"""Lists packed into one field: doubles, 64-bit ints, ints below 256, (False, True, None) as 0 to 2, and strings."""
PACKED_TUPLE, ROWS, COLUMNS = 16, 17, 18
"""A tuple as a packed list; a list of dicts (or tuples, or lists) of one shape column by column; a dict as two lists."""
COMPLEX, BYTEARRAY, MEMORYVIEW, DEQUE, COUNTER, DEFAULTDICT, ORDEREDDICT = 19, 20, 21, 22, 23, 24, 25
RANGE, SLICE, DECIMAL, FRACTION, UUID, PATH, ADDRESS, ARRAY, NAMESPACE, CONSTANT = (
    26,
    27,
    28,
    29,
    30,
    31,
    32,
    33,
    34,
    35,
)
NDARRAY, NUMPY_SCALAR = 36, 37
ENUM, INSTANCE, CLASS = 38, 39, 40
"""``CLASS`` stands only where a class is named for the first time; later an int says which one it was."""
PACKED_SET, PACKED_FROZENSET, INSTANCE_ROWS = 41, 42, 43
"""As ``PACKED_TUPLE``; a list of instances of one class, its fields column by column."""
OWN = 44
"""A class of the platform: its number (see ``own``), then its fields."""
KINDS = range(1, 45)

DATACLASS, NAMEDTUPLE, ATTRS, PYDANTIC, ENUMERATION = 1, 2, 3, 4, 5
"""How a class makes its instances: a name found at the reader must be of the same sort."""
SORTS = {DATACLASS: "a dataclass", NAMEDTUPLE: "a NamedTuple", ATTRS: "an attrs class", PYDANTIC: "a pydantic model",
         ENUMERATION: "an Enum"}  # fmt: skip

PACKED_MIN = 16
ROW_WIDTH_MAX = 16
"""Lists of longer tuples or lists are written row by row: each may be packed by itself."""
KEYS_MAX = 64
STR_MEAN_MAX = 256
FRACTION_BITS_MAX = 16_384
"""Reducing a fraction takes quadratic time: 0.4 ms at this size, 70 ms at sixteen times as much."""

EXPANSION = 4
GRACE_BYTES = 15 * MIB
"""One less than the 16 MiB that are promised: for what isn't charged."""
LIST_COST, ITEM_COST = 64, 48
"""An item: its place in a list that grows (9), and a number of 64 bits (36)."""
NUMBER_COST = 36
ROW_COST, CELL_COST = 80, 8
"""A tuple or a list whose elements are charged elsewhere."""
SET_COST, MEMBER_COST = 256, 176
TEXT_COST, BYTES_COST = 52, 36
WIDE_COST, WIDE_FACTOR, STRS_FACTOR = 84, 6, 8
"""Text beyond ASCII takes up to four bytes a character, and both the narrow and the wide form while it is read;
many strings are read as one, which is then cut up."""
INSTANCE_COST = 128
"""Of a class, besides its dict and fields."""
OBJECT_COST = 1024
"""Anything else, besides its fields."""
SMALL_DICT = 128
CHECKED_MIN, HASH_COST = 64, 48
"""Larger tables are checked for crafted hashes, which takes a list of them."""
SHORT_COST = TEXT_COST + 31


def dict_cost(entries: int) -> int:
    """The table of a dict: a power of two of places, two thirds of them in use. What is in it is charged besides.

    A large one besides the table before it, while it grows, and the lists of keys and values that it is made from.
    """
    places = 1 << (entries * 3 // 2).bit_length()
    if entries < SMALL_DICT:
        return 104 + max(places, 8) * 17
    return 200 + places * (30 if places > 0x10000 else 27) + 18 * entries


def set_cost(members: int) -> int:
    """A set of so many, and the list to make it from; with what they take as numbers."""
    each = MEMBER_COST if members <= 50_000 else MEMBER_COST * 3 // 4
    return SET_COST + (each + (HASH_COST if members > CHECKED_MIN else 0)) * members


DICT_COSTS = [dict_cost(entries) for entries in range(SMALL_DICT)]
