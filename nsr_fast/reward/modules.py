"""A user's file as one module that its neighbours and its child processes can import.

The file's folder (and the folder above its packages) joins sys.path, which spawned children
inherit, and the module has its own name: r.py is `r`, p/q/r.py with p/q/__init__.py is `q.r`. Where
that name is taken by another module, the file is loaded through a shim of a name of its own.
"""

import atexit
import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

_SHIM = """import importlib.util, sys
spec = importlib.util.spec_from_file_location(__name__, {path!r})
module = sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def module_of_file(path: Path) -> ModuleType:
    """The file's module, freshly run; whatever its import raises passes through."""
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    folders = dict.fromkeys(map(str, (path.parent, root)))
    name = ".".join(parts)
    for folder in folders:  # behind everything that is installed, for what is imported later
        if folder not in sys.path:
            sys.path.append(folder)
    if not _is_free(name, path, root):
        name = _shim_of(path)
        return _run(name, path, list(folders))
    if len(parts) > 1:
        importlib.import_module(".".join(parts[:-1]))
    return _run(name, path, list(folders))


def _run(name: str, path: Path, folders: Sequence[str]) -> ModuleType:
    """Runs the file; while it does, its neighbours come first, as for `python FILE`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    sys.path[:0] = folders
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    finally:
        for folder in folders:
            sys.path.remove(folder)  # the first of the two
    return module


def _is_free(name: str, path: Path, root: Path) -> bool:
    """Whether `import name` finds this file here and in a child."""
    top = sys.modules.get(name.partition(".")[0])
    if name != name.partition(".")[0] and top is not None:
        package = getattr(top, "__file__", None) or ""
        if not Path(package).resolve().is_relative_to(root):
            return False
    importlib.invalidate_caches()
    try:
        loaded = sys.modules.get(name)
        spec = getattr(loaded, "__spec__", None) if loaded else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    origin = getattr(spec, "origin", None)
    return origin is not None and Path(origin).resolve() == path


def _shim_of(path: Path) -> str:
    """The name of a new importable module that runs the file."""
    mark = blake2b(str(path).encode(), digest_size=4).hexdigest()
    name = f"nsr_fast_user_{mark}_{path.stem}"
    folder = tempfile.mkdtemp(prefix="nsr_fast_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (Path(folder) / f"{name}.py").write_text(_SHIM.format(path=str(path)))
    sys.path.append(folder)
    return name
