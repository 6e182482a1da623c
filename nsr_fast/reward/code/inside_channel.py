"""The tests' end of the channel: requests to the program's process, and what its replies mean.

A reply is only ever the value of the request before it, built here from plain data; one that no
honest process sends ends the tests as failed. Follows the text of inside_handles.py.
"""

import os
import sys
import types


class Program:
    """The tests' end of the channel."""

    def __init__(self, replies_at, requests_at, max_bytes, end):
        from json import dumps, loads

        self._at, self._max_bytes, self._end = replies_at, max_bytes, end
        self._loads = loads
        self._send = lambda tree: send_sized(requests_at, dumps(tree).encode())
        self._handles, self._errors, self._own, self._own_numbers = {}, {}, [], {}
        self._arguments = []
        self.num_requests = 0

    def start(self):
        """Waits until the program was run to its end."""
        if self._receive() != ["ready"]:
            self._end(b"failed")

    def request(self, *message):
        """The value of the reply, or the program's exception; callbacks are answered meanwhile."""
        self.num_requests += 1
        self._send(list(message))
        while True:
            reply, text = self._pair(self._receive())
            if text:
                sys.stdout.write(text)
            if reply[0] == "v" and len(reply) == 3:
                return self._returned(*reply[1:])
            if reply[0] == "e" and len(reply) == 4:
                error = self._raised(*reply[1:])
                if isinstance(error, StopIteration | StopAsyncIteration) and "next" not in message:
                    error = RuntimeError("the program raised StopIteration")  # ends no loop here
                raise error
            self._send(self._answer(reply))

    def call(self, number, values, named):
        """A call, with what it did to its mutable arguments."""
        trees, keywords = (
            [self.tree(v) for v in values],
            {k: self.tree(v) for k, v in named.items()},
        )
        before, self._arguments = self._arguments, [*values, *named.values()]
        try:
            return self.request("call", number, trees, keywords)
        finally:
            self._arguments = before

    def tree(self, value):
        """The tree of a value of the tests."""
        return encoded(value, self._exported)

    def stranger(self):
        """A value that no object of the program has reason to equal."""
        return "stranger " + os.urandom(8).hex()

    def _receive(self):
        size = int.from_bytes(exactly(self._at, 8, at_end=self._gone), "little")
        if size > self._max_bytes:
            self._end(b"failed")
        data = exactly(self._at, size, at_end=self._gone)
        return self._checked(self._loads, data)

    def _gone(self, status):
        self._end(b"failed")

    def _checked(self, read, *data):
        """read(*data); what the program's process cannot have meant ends the tests."""
        try:
            return read(*data)
        except Exception:
            self._end(b"failed")

    def _pair(self, message):
        is_pair = isinstance(message, list) and len(message) == 2
        if not is_pair or not isinstance(message[0], list) or not isinstance(message[1], str):
            self._end(b"failed")
        return message

    def _returned(self, tree, changes):
        given = self._arguments
        for place, change in self._checked(list, changes):
            if type(place) is not int or not 0 <= place < len(given):
                self._end(b"failed")
            changed(given[place], self._checked(decoded, change, self._resolved))
        if isinstance(tree, list) and tree[:1] == ["a"]:
            return self._checked(given.__getitem__, tree[1])
        return self._checked(decoded, tree, self._resolved)

    def _raised(self, chain, arguments, attributes):
        def read():
            kind = self._error(chain)
            values = [decoded(tree, self._resolved) for tree in arguments]
            try:
                error = kind(*values)
            except TypeError:
                error = kind.__new__(kind)
            for name, tree in attributes.items():
                if name.isidentifier() and not name.startswith("_"):
                    error.__dict__[name] = decoded(tree, self._resolved)
            error.is_of_program = True
            return error

        return self._checked(read)

    def _error(self, chain):
        """The exception class of [[name, module, number], ...], the nearest ancestor first."""
        name, module, number = chain[0]
        package = module.partition(".")[0]  # a SkipTest of unittest would not be a failure
        if (package in sys.stdlib_module_names and package != "unittest") or module == "builtins":
            kind = getattr(sys.modules.get(module), name, None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                return kind
        if number not in self._errors:
            parent = self._error(chain[1:]) if len(chain) > 1 else Exception
            self._errors[number] = type(str(name), (parent,), {"_nsr_number": number})
        return self._errors[number]

    def _resolved(self, tree):
        tag, *content = tree
        if tag in ("f", "o"):
            (number,) = content
            return self._own[number]
        if tag != "h":
            raise ValueError("expected a reference")
        number, kind, about = content
        if kind == "error":
            return self._error(about)
        if kind == "module" or type(number) is not int:
            raise ValueError("a module is no value")
        if kind == "coroutine":
            return awaited_across(self, number)
        if number not in self._handles:
            self._handles[number] = Handle(self, number, kind)
        return self._handles[number]

    def _exported(self, value):
        if isinstance(value, Handle):
            return ["h", value._nsr_number]
        if isinstance(value, type) and "_nsr_number" in vars(value):
            return ["h", vars(value)["_nsr_number"]]
        module = getattr(value, "__module__", None)
        if isinstance(value, type | types.BuiltinFunctionType) and module in PLAIN_MODULES:
            return ["s", module, value.__qualname__]
        if id(value) not in self._own_numbers:
            self._own_numbers[id(value)] = len(self._own)
            self._own.append(value)
        number = self._own_numbers[id(value)]
        if callable(value):
            return ["f", number]
        if type(value).__module__ == "__main__":
            return ["o", number]
        if hasattr(value, "__next__"):
            return ["i", [self.tree(item) for item in value]]
        raise TypeError(f"a {type(value).__name__} cannot be given to the program")

    def _answer(self, message):
        """The reply to a request of the program for a function or an object of the tests."""
        try:
            kind, number, *content = message
            own = self._own[number]
            if kind == "f":
                values = [decoded(tree, self._resolved) for tree in content[0]]
                named = {name: decoded(tree, self._resolved) for name, tree in content[1].items()}
                return ["r", self.tree(own(*values, **named))]
            name = content[0]
            if name.startswith("_") or type(own).__module__ != "__main__":
                raise AttributeError(name)
            if kind == "g":
                return ["r", self.tree(getattr(own, name))]
            setattr(own, name, decoded(content[1], self._resolved))
            return ["r", None]
        except Exception as error:
            chain = [kind.__name__ for kind in type(error).__mro__]
            return ["x", chain, [item for item in error.args if isinstance(item, str | int)]]


async def awaited_across(program, number):
    return program.request("do", "await", number, [])


PLAIN_MODULES = ("builtins", "math", "operator", "_operator", "collections", "functools")
