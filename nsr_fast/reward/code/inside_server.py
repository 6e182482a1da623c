"""The program's end of the channel between its process and the tests' process.

It answers requests one at a time: names, attributes, operations and calls, with plain data or with
numbers of its objects, each with what was printed meanwhile. Whatever the program does to this
process can change the values that it answers and nothing else. Follows inside_program.py.
"""

import builtins
import operator
import sys
import types

OPERATIONS = {
    **{f.__name__: f for f in (str, repr, len, bool, int, float, complex, hash, iter, next, abs)},
    **{f.__name__: f for f in (round, reversed, format)},
    **{name: getattr(operator, name) for name in ("neg", "pos", "invert", "index", "contains")},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem")},
    **{name: getattr(operator, name) for name in ("eq", "lt", "le", "gt", "ge")},
}
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift")
BINARY += ("and_", "or_", "xor")


def _reflected(apply):
    return lambda own, other: apply(other, own)


for _name in BINARY:
    OPERATIONS[_name] = getattr(operator, _name)
    OPERATIONS["r" + _name] = _reflected(OPERATIONS[_name])


def serve_calls(config, requests_at, replies_at):
    """The program, then the requests until the tests' process closes its end."""
    server = Server(requests_at, replies_at)
    status, server.namespace = execute(config["code"], "solution", config["prelude"])
    if status:
        return status
    server.own = {
        name: value
        for name, value in server.namespace.items()
        if name not in config["prelude"] or not is_imported(value, config["prelude"][name])
    }
    server.send(["ready"])
    server.answers()


def is_imported(value, origin):
    """Whether a name of the prelude still holds what the prelude gave it."""
    module, attribute = origin
    found = sys.modules.get(module)
    return value is (getattr(found, attribute, None) if attribute else found)


OPERATIONS["await"] = lambda coroutine: __import__("asyncio").run(coroutine)


def error_of(names, arguments):
    """The exception of a function of the tests: its nearest builtin ancestor."""
    kinds = [getattr(builtins, name, None) for name in names]
    return next(kind for kind in kinds if isinstance(kind, type))(*arguments)


class Server:
    """The program's end of the channel; its objects are known to the tests by number."""

    def __init__(self, requests_at, replies_at):
        import io
        from json import dumps, loads

        self._receive = lambda: loads(sized_frame(requests_at))
        self.send = lambda tree: send_sized(replies_at, dumps(tree).encode())
        self._objects, self._numbers, self._foreign = [], {}, {}
        self._printed = sys.stdout = io.StringIO()
        self.namespace = self.own = {}

    def answers(self):
        """Answers requests; returns the value of a callback's reply when one comes."""
        while True:
            kind, *content = self._receive()
            if kind == "r":
                return decoded(content[0], self._resolved)
            if kind == "x":
                raise error_of(*content)
            try:
                reply = getattr(self, f"on_{kind}")(*content)
            except BaseException as error:
                reply = ["e", *self._described(error)]
            self.send([reply, self._text()])

    def on_names(self, names):
        """{name: tree} of those that the program defines."""
        found = {name: self.own[name] for name in names if name in self.own}
        return ["v", ["d", [[name, self._tree(value)] for name, value in found.items()]], []]

    def on_method(self, name):
        """The method of class Solution called name, else the function of that name."""
        solution = self.namespace.get("Solution")
        if isinstance(solution, type) and hasattr(solution, name):
            return ["v", self._exported(getattr(solution(), name)), []]
        return ["v", self._exported(self.namespace[name]), []]

    def on_call(self, number, arguments, keywords):
        values = [decoded(tree, self._resolved) for tree in arguments]
        named = {name: decoded(tree, self._resolved) for name, tree in keywords.items()}
        function = self._objects[number]
        result = function(*values, **named)
        given = [*values, *named.values()]
        trees = [*arguments, *keywords.values()]
        changes = [
            [place, tree]
            for place, (value, old) in enumerate(zip(given, trees))
            if isinstance(old, list) and old[0] in "ldeyDQn" and (tree := self._tree(value)) != old
        ]
        for place, value in enumerate(given):
            if value is result and isinstance(trees[place], list):
                return ["v", ["a", place], changes]
        is_made = isinstance(function, type) and isinstance(result, list | dict | set)
        is_own = is_made and function.__module__ == "solution"
        return ["v", self._exported(result) if is_own else self._tree(result), changes]

    def on_get(self, number, name):
        return ["v", self._tree(getattr(self._objects[number], name)), []]

    def on_set(self, number, name, tree):
        setattr(self._objects[number], name, decoded(tree, self._resolved))
        return ["v", None, []]

    def on_isinstance(self, number, other):
        return ["v", isinstance(self._objects[other], self._objects[number]), []]

    def on_do(self, operation, number, trees):
        values = [decoded(tree, self._resolved) for tree in trees]
        return ["v", self._tree(OPERATIONS[operation](self._objects[number], *values)), []]

    def callback(self, *message):
        """Asks the tests' process for a function or an object of its own."""
        self.send([list(message), self._text()])
        return self.answers()

    def _tree(self, value):
        return encoded(value, self._exported)

    def _exported(self, value):
        if isinstance(value, Callback | Foreign):
            tag = "f" if isinstance(value, Callback) else "o"
            return [tag, object.__getattribute__(value, "_at")[1]]
        if isinstance(value, types.ModuleType):
            return ["h", -1, "module", value.__name__]
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return ["h", self._number(value), "error", self._ancestors(value)]
            return ["h", self._number(value), "class", value.__name__]
        kind = "coroutine" if isinstance(value, types.CoroutineType) else "object"
        return ["h", self._number(value), kind, type(value).__name__]

    def _number(self, value):
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # kept, so that ids stay unique
        return self._numbers[id(value)]

    def _ancestors(self, kind):
        chain = [base for base in kind.__mro__ if issubclass(base, BaseException)]
        return [[base.__name__, base.__module__, self._number(base)] for base in chain]

    def _described(self, error):
        arguments = [self._tree(item) for item in error.args]
        attributes = {name: self._tree(value) for name, value in vars(error).items()}
        return self._ancestors(type(error)), arguments, attributes

    def _resolved(self, tree):
        tag, *content = tree
        if tag == "h":
            return self._objects[content[0]]
        if tag == "f":
            return Callback(self, content[0])
        if tag == "o":
            return self._foreign.setdefault(content[0], Foreign(self, content[0]))
        if tag == "i":
            return iter([decoded(item, self._resolved) for item in content[0]])
        if tag == "s":
            found = __import__(content[0], fromlist=["*"])
            for name in content[1].split("."):
                found = getattr(found, name)
            return found
        raise ValueError(f"expected a value, got {tag!r}")

    def _text(self):
        text = self._printed.getvalue()
        if text:
            self._printed.seek(0)
            self._printed.truncate()
        return text


class Callback:
    """A function of the tests; calling it asks the tests' process."""

    def __init__(self, server, number):
        self._at = (server, number)

    def __call__(self, *values, **named):
        server, number = self._at
        trees = [server._tree(value) for value in values]
        return server.callback("f", number, trees, {k: server._tree(v) for k, v in named.items()})


class Foreign:
    """An object of a class that the tests define; attributes are read and set across."""

    def __init__(self, server, number):
        object.__setattr__(self, "_at", (server, number))

    def __getattr__(self, name):
        server, number = object.__getattribute__(self, "_at")
        return server.callback("g", number, name)

    def __setattr__(self, name, value):
        server, number = object.__getattribute__(self, "_at")
        server.callback("s", number, name, server._tree(value))

    def __eq__(self, other):
        return isinstance(other, Foreign) and self._at[1] == other._at[1]

    def __hash__(self):
        return self._at[1]
