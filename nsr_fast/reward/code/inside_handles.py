"""What the tests see of the program: stand-ins for its functions, classes and objects.

A call goes across and comes back as plain data or as another stand-in. A stand-in never equals
plain data, and arithmetic with plain data stays on this side unless the tests themselves made the
object from a class: so an object that equals everything or absorbs arithmetic is just wrong.
Follows the text of inside_server.py.
"""


class Handle:
    """An object of the program by its number."""

    __slots__ = ("_nsr_is_made", "_nsr_kind", "_nsr_number", "_nsr_program")

    def __init__(self, program, number, kind):
        for name, value in (("program", program), ("number", number), ("kind", kind)):
            object.__setattr__(self, f"_nsr_{name}", value)
        object.__setattr__(self, "_nsr_is_made", False)

    def __getattr__(self, name):
        return self._nsr_program.request("get", self._nsr_number, name)

    def __setattr__(self, name, value):
        tree = self._nsr_program.tree(value)
        self._nsr_program.request("set", self._nsr_number, name, tree)

    def __call__(self, *values, **named):
        result = self._nsr_program.call(self._nsr_number, values, named)
        if self._nsr_is_made and self._nsr_kind == "class":
            return made(result)
        return result

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Handle):
            return False
        is_equal = applied(self, "eq", other) is True
        return is_equal and applied(self, "eq", self._nsr_program.stranger()) is not True

    def __ne__(self, other):
        return not self == other

    def __instancecheck__(self, other):
        if not isinstance(other, Handle) or self._nsr_kind != "class":
            return False
        numbers = self._nsr_number, other._nsr_number
        return self._nsr_program.request("isinstance", *numbers) is True

    def __iter__(self):
        iterator = applied(self, "iter")
        return items_of(iterator) if isinstance(iterator, Handle) else iter(iterator)

    def __contains__(self, item):
        if self._nsr_is_made:
            return applied(self, "contains", item) is True
        return any(item == own for own in self)

    def __enter__(self):
        return self._nsr_program.request("get", self._nsr_number, "__enter__")()

    def __exit__(self, *error):
        self._nsr_program.request("get", self._nsr_number, "__exit__")(None, None, None)


def applied(handle, operation, *values):
    """An operation on the program's object, in its process."""
    program = handle._nsr_program
    trees = [program.tree(value) for value in values]
    return program.request("do", operation, handle._nsr_number, trees)


def made(value):
    """A value that the tests made from a class of the program."""
    if isinstance(value, Handle):
        object.__setattr__(value, "_nsr_is_made", True)
    return value


def items_of(iterator):
    while True:
        try:
            item = applied(iterator, "next")
        except StopIteration:
            return
        yield item


def _unary(operation, is_plain):
    def apply(self, *values):
        result = applied(self, operation, *values)
        return result if is_plain or not self._nsr_is_made else made(result)

    return apply


def _order(operation):
    def apply(self, other):
        return applied(self, operation, other) if isinstance(other, Handle) else NotImplemented

    return apply


def _binary(operation):
    def apply(self, other, *more):
        if not isinstance(other, Handle) and not self._nsr_is_made:
            return NotImplemented
        if not isinstance(other, Handle) and operation in ("sub", "rsub"):
            return NotImplemented  # a tolerance: abs(f(2) - 3.14) < 1e-6
        result = applied(self, operation, other, *more)
        if isinstance(result, Handle) or isinstance(other, Handle):
            return made(result) if self._nsr_is_made else result
        return NotImplemented

    return apply


for _operation in ("str", "repr", "len", "bool", "int", "float", "complex", "hash", "next"):
    setattr(Handle, f"__{_operation}__", _unary(_operation, True))
for _operation in ("index", "round", "format", "getitem", "setitem", "delitem", "reversed"):
    setattr(Handle, f"__{_operation}__", _unary(_operation, True))
for _operation in ("abs", "neg", "pos", "invert"):
    setattr(Handle, f"__{_operation}__", _unary(_operation, False))
for _operation in ("lt", "le", "gt", "ge"):
    setattr(Handle, f"__{_operation}__", _order(_operation))
for _operation in BINARY:
    _bare = _operation.rstrip("_")
    setattr(Handle, f"__{_bare}__", _binary(_operation))
    setattr(Handle, f"__r{_bare}__", _binary("r" + _operation))
