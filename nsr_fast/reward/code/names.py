"""Names in Python texts: what a program defines, what tests ask of it, and usual imports.

Judges of programming problems put imports before the program; here only those that a text loads
and does not bind are bound. Names of builtins and usual imports are the program's own in a test
only where the test asks for nothing else of it, so that a program cannot replace `abs` or
`math.isclose` of its tests.
"""

import ast
import builtins
import importlib.util
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache

from nsr_fast.reward.code.backends import PACKAGES

_MODULES = (
    "bisect cmath collections copy datetime decimal fractions functools heapq io itertools json "
    "math operator os random re statistics string sys time typing"
)
_NAMES = {
    "abc": "ABC abstractmethod",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "collections": "Counter OrderedDict defaultdict deque namedtuple ChainMap",
    "copy": "deepcopy",
    "dataclasses": "dataclass field",
    "datetime": "date timedelta",
    "decimal": "Decimal getcontext",
    "enum": "Enum IntEnum",
    "fractions": "Fraction",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
    "heapq": "heapify heappop heappush heappushpop heapreplace nlargest nsmallest",
    "io": "BytesIO StringIO",
    "itertools": "accumulate chain combinations combinations_with_replacement cycle dropwhile "
    "filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee "
    "zip_longest count",
    "math": "acos asin atan atan2 ceil comb cos degrees exp factorial floor fmod fsum gcd hypot "
    "inf isclose isfinite isinf isnan isqrt lcm log log10 log2 nan perm pi prod radians sin sqrt "
    "tan trunc",
    "operator": "attrgetter itemgetter",
    "random": "randint shuffle",
    "statistics": "mean median",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "typing": "Any Callable DefaultDict Deque Dict FrozenSet Generator Generic Iterable Iterator "
    "List Mapping NamedTuple Optional Sequence Set Tuple Type TypeVar Union",
}
USUAL: dict[str, list] = {
    **{name: [module, name] for module, names in _NAMES.items() for name in names.split()},
    **{name: [name, None] for name in _MODULES.split()},
}
_BUILTINS = frozenset(dir(builtins))
# What tests compare and convert with, whatever the program calls so.
_TOOLS = (
    "abs all any bool dict float frozenset int isclose isfinite isinstance isnan issubclass len "
    "list max min print range repr round set sorted str sum tuple type zip"
)
_PREDICATES = frozenset(_TOOLS.split())
_TEST_PACKAGES = ("pytest", "hypothesis", "pandas", "scipy", "sympy", "sklearn", "torch")
_PARSING = threading.Lock()
_SHARED_MODULES = frozenset((*_MODULES.split(), "numpy", "unittest"))


@lru_cache(maxsize=256)
def parsed(text: str) -> ast.Module | None:
    """The tree of a Python text, None when it has none."""
    try:
        with _PARSING, warnings.catch_warnings():  # the filters are the process's
            warnings.simplefilter("ignore")  # of escapes as in "\\d"
            return ast.parse(text, "<program>")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def bound_names(body: Sequence[ast.stmt]) -> set[str]:
    """Names that statements bind in their own scope."""
    names: set[str] = set()
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending += ast.iter_child_nodes(node)
    return names


def imported_names(text: str) -> set[str]:
    """Names that a text binds by imports alone, at its top."""
    body = tree.body if (tree := parsed(text)) else []
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return bound_names(imports) - bound_names([node for node in body if node not in imports])


def loaded_names(tree: ast.AST) -> set[str]:
    """Names that a text loads anywhere."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in found if isinstance(node.ctx, ast.Load)}


def free_names(text: str) -> set[str]:
    """Names that a text loads and never binds, builtins aside."""
    tree = parsed(text)
    if tree is None:
        return set()
    stored = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            stored.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            stored.add(node.name)
    return loaded_names(tree) - stored - bound_names(tree.body) - _BUILTINS


def prelude_of(text: str) -> dict[str, list]:
    """{name: [module, attribute or None]}: the usual imports that a text relies on."""
    return {name: USUAL[name] for name in sorted(free_names(text)) if name in USUAL}


def asked_names(statements: Sequence[str], entry: str | None) -> set[str]:
    """Names that tests ask of the program: loaded, not bound by them, builtins only if alone."""
    trees = [tree for text in statements if (tree := parsed(text))]
    loaded = set().union(*map(loaded_names, trees))
    bound = set().union(*(bound_names(tree.body) for tree in trees))
    inner = {node.arg for tree in trees for node in ast.walk(tree) if isinstance(node, ast.arg)} | {
        node.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    imported = {
        alias.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in program_modules(statements)
        for alias in node.names
    }
    asked = (loaded - bound - inner) | imported | ({entry} if entry else set())
    return asked - {"__name__", "__file__"}


@lru_cache(maxsize=256)
def _imported_modules(text: str) -> frozenset[str]:
    tree = parsed(text)
    names = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return frozenset(names)


def imported_modules(statements: Sequence[str]) -> set[str]:
    """Modules that tests import and that are neither Python's nor packages of the sandbox."""
    names = set().union(*map(_imported_modules, statements))
    known = sys.stdlib_module_names | set(PACKAGES)
    return {name for name in names if name.partition(".")[0] not in known}


def program_modules(statements: Sequence[str]) -> set[str]:
    """What tests import that is no package known to anyone: the program, as `solution`."""
    return {name for name in imported_modules(statements) if not _is_package(name)}


@lru_cache(maxsize=256)
def _is_package(name: str) -> bool:
    top = name.partition(".")[0]
    if top in ("solution", "main") or top in sys.stdlib_module_names:
        return False
    return top in _TEST_PACKAGES or importlib.util.find_spec(top) is not None


def shared_out(asked: set[str], program: str, entry: str | None) -> tuple[set[str], dict]:
    """(names that are the program's, imports of the tests' own) of what the tests ask for."""
    tree = parsed(program)
    body = tree.body if tree else []
    defined = bound_names(body)
    imports = _imports(body)
    common = {name for name in asked if (name in _BUILTINS or name in USUAL) and name != entry}
    own = asked - common
    made = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= (common & made) - _BUILTINS - _PREDICATES - set(_MODULES.split())
    if not own & defined:
        candidates = common & defined
        own |= candidates - _PREDICATES or candidates
    prelude = {name: USUAL[name] for name in common - own if name in USUAL}
    prelude |= {name: imports[name] for name in asked & imports.keys() if name != entry}
    return own - prelude.keys(), prelude


def _imports(body: Sequence[ast.stmt]) -> dict[str, list]:
    """{name: [module, None]} of the known modules that a program imports at its top."""
    return {
        alias.asname or alias.name: [alias.name, None]
        for node in body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in _SHARED_MODULES
    }


def uncalled_tests(statements: Sequence[str]) -> list[str]:
    """Test functions without parameters that nothing in the tests calls."""
    trees = [tree for text in statements if (tree := parsed(text))]
    loaded = set().union(*map(loaded_names, trees))
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [
        node.name
        for node in functions
        if node.name.startswith("test") and node.name not in loaded and not node.args.args
    ]
