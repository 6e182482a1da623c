"""Values that cross between the program's process and the tests' process: plain data only.

None, bool, int, float and str stand for themselves in JSON, other plain data is [tag, ...]. What
has no plain form is given to `export`, which makes a reference of it. Only methods of the plain
types are used, so that no class of the program answers for its value. Runs on both sides inside
the sandbox, before the texts of the other inside_*.py.
"""

_LEAVES = frozenset((type(None), bool, int, float, str))
_ITERABLES = {"l": list, "u": tuple, "e": set, "z": frozenset}
_VIEWS = {type({}.keys()): "e", type({}.items()): "e", type({}.values()): "l"}
_NAMED_DICTS = ("Counter", "OrderedDict", "defaultdict")
_TIMES = {
    "date": ("year", "month", "day"),
    "datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond"),
    "time": ("hour", "minute", "second", "microsecond"),
    "timedelta": ("days", "seconds", "microseconds"),
}
_MAX_DEPTH = 150


class Record(tuple):
    """A named tuple: items also by name."""

    def __new__(cls, fields, items):
        record = tuple.__new__(cls, items)
        record._fields = tuple(fields)
        return record

    def __getattr__(self, name):
        fields = self.__dict__.get("_fields", ())
        if name not in fields:
            raise AttributeError(name)
        return self[fields.index(name)]

    def _asdict(self):
        return dict(zip(self._fields, self))


def encoded(value, export, depth=0):
    """The JSON tree of a value; subclasses of plain types are sent as their plain value."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if depth > _MAX_DEPTH:
        raise RecursionError("a value nested too deeply")
    if issubclass(kind, int):
        return int.__pos__(value)
    if issubclass(kind, float):
        return float.__pos__(value)
    if issubclass(kind, str):
        return str.__str__(value)
    for tag, base in _ITERABLES.items():
        if issubclass(kind, base):
            items = [
                item if type(item) in _LEAVES else encoded(item, export, depth + 1)
                for item in base.__iter__(value)
            ]
            fields = getattr(kind, "_fields", None) if tag == "u" else None
            if fields is None:
                fields = value.__dict__.get("_fields") if kind is Record else None
            return [tag, items] if fields is None else ["N", list(map(str, fields)), items]
    if issubclass(kind, dict):
        pairs = [
            [encoded(key, export, depth + 1), encoded(item, export, depth + 1)]
            for key, item in dict.items(value)
        ]
        is_named = kind.__module__ == "collections" and kind.__name__ in _NAMED_DICTS
        return ["D", kind.__name__, pairs] if is_named else ["d", pairs]
    tree = _rare(value, kind)
    if tree is not None:
        return tree
    if kind in _VIEWS:
        return [_VIEWS[kind], [encoded(item, export, depth + 1) for item in value]]
    if kind.__module__ == "collections" and kind.__name__ == "deque":
        return ["Q", value.maxlen, [encoded(item, export, depth + 1) for item in value]]
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return _array(value, export, depth)
    return export(value)


def _rare(value, kind):
    """The tree of plain scalars that JSON lacks; None for anything else."""
    if issubclass(kind, bytes | bytearray):
        return ["b" if issubclass(kind, bytes) else "y", bytes(value).hex()]
    if issubclass(kind, complex):
        return ["c", value.real, value.imag]
    if kind is range:
        return ["r", value.start, value.stop, value.step]
    module, name = kind.__module__, kind.__name__
    if (module, name) == ("fractions", "Fraction"):
        return ["q", value.numerator, value.denominator]
    if (module, name) == ("decimal", "Decimal"):
        return ["m", str(value)]
    if module == "datetime" and name in _TIMES and getattr(value, "tzinfo", None) is None:
        return ["t", name, [getattr(value, field) for field in _TIMES[name]]]
    return None


def _array(value, export, depth):
    """numpy: a scalar as its plain value, an array with its dtype."""
    plain = value.tolist()
    if not getattr(value, "shape", ()):
        return encoded(plain, export, depth + 1)
    kind = value.dtype.kind + str(value.dtype.itemsize)
    tree = encoded(plain, export, depth + 1)
    return ["n", kind, tree] if value.dtype.kind in "biuf" else tree


def decoded(tree, resolve):
    """The value of a tree; `resolve` reads references. Any exception: not a tree of encoded's."""
    if not isinstance(tree, list):
        if type(tree) not in _LEAVES:
            raise ValueError("expected a plain value")
        return tree
    tag = tree[0]
    if tag in _ITERABLES:
        (items,) = tree[1:]
        return _ITERABLES[tag](_items(items, resolve))
    if tag == "d":
        return dict(_pairs(tree[1], resolve))
    if tag == "D" and tree[1] in _NAMED_DICTS:
        import collections

        kind, pairs = getattr(collections, tree[1]), _pairs(tree[2], resolve)
        return kind(None, pairs) if tree[1] == "defaultdict" else kind(dict(pairs))
    if tag == "Q":
        import collections

        return collections.deque(_items(tree[2], resolve), tree[1])
    if tag == "N":
        return Record([str(field) for field in tree[1]], _items(tree[2], resolve))
    if tag == "n":
        import numpy

        return numpy.array(decoded(tree[2], resolve), dtype=_dtype(tree[1]))
    return _read_rare(tag, tree[1:]) if tag in _RARE else resolve(tree)


def _items(items, resolve):
    return [decoded(item, resolve) if isinstance(item, list | dict) else item for item in items]


def _pairs(pairs, resolve):
    return [(decoded(key, resolve), decoded(item, resolve)) for key, item in pairs]


def _dtype(text):
    if text[:1] not in ("b", "i", "u", "f") or text[1:] not in ("1", "2", "4", "8", "16"):
        raise ValueError("expected a plain dtype")
    return text


_RARE = frozenset("bycrqmt")


def _read_rare(tag, content):
    if tag == "b":
        return bytes.fromhex(*content)
    if tag == "y":
        return bytearray.fromhex(*content)
    if tag == "c":
        return complex(*map(float, content))
    if tag == "r":
        return range(*content)
    if tag == "q":
        from fractions import Fraction

        return Fraction(int(content[0]), int(content[1]))
    if tag == "m":
        from decimal import Decimal

        return Decimal(str(content[0]))
    import datetime

    name, numbers = content
    if name not in _TIMES:
        raise ValueError("expected a kind of time")
    return getattr(datetime, name)(*map(int, numbers))


def changed(old, new):
    """Makes the mutable `old` equal to `new` in place, for what a call did to its arguments.

    Parts of the same type stay the same objects. Returns the object to keep.
    """
    kind = type(old)
    if kind is not type(new):
        return new
    if kind is list:
        both = [changed(a, b) for a, b in zip(old, new)]
        old[:] = both + new[len(both) :]
    elif issubclass(kind, dict):
        kept = {
            key: changed(old[key], value) if key in old else value for key, value in new.items()
        }
        old.clear()
        old.update(kept)
    elif kind is set:
        old.clear()
        old.update(new)
    elif kind is bytearray:
        old[:] = new
    elif kind.__name__ == "deque":
        old.clear()
        old.extend(new)
    elif kind.__name__ == "ndarray" and old.shape == new.shape:
        old[...] = new
    else:
        return new
    return old
