"""Promises about the package as a whole: light import, floors and doors of CONTRIBUTING.md."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOUSE = (ROOT / "CONTRIBUTING.md").read_text()
MODULES = sorted({*(ROOT / "nsr_fast").rglob("*.py"), *(ROOT / "kernels").glob("*.py")})
MODULES = [path for path in MODULES if "nsr_fast/kernels" not in path.as_posix()]


def test_import_loads_nothing_heavy():
    code = (
        "import sys, nsr_fast;"
        "heavy = {'torch', 'vllm', 'transformers', 'triton', 'sympy', 'matplotlib'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names_resolve():
    import nsr_fast

    for name in nsr_fast.__all__:
        assert getattr(nsr_fast, name) is not None, name


def test_kernels_is_never_a_top_level_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert (ROOT / "nsr_fast" / "kernels").is_symlink()
    for folder in ("kernels", "nsr_fast", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert "\nfrom kernels" not in text and "\nimport kernels" not in text, path


def test_every_import_goes_down_a_floor():
    """csrc stands for the compiled modules; rooms of one floor do not know each other."""
    (line,) = re.findall(r"^floors: (.*)$", HOUSE, re.MULTILINE)
    floors = [[room.strip() for room in floor.split(",")] for floor in line.split("<")]
    floor_of = {room: index for index, rooms in enumerate(floors) for room in rooms}
    seen = set()
    for path in MODULES:
        room = room_of(path)
        if room == "__init__":
            continue  # the public names, by name only
        seen.add(room)
        for module in imported(path):
            below = room_of_module(module)
            if below not in (None, room):
                assert floor_of[below] < floor_of[room], f"{path.relative_to(ROOT)}: {module}"
    assert seen == set(floor_of) - {"csrc"}


def test_no_circle_of_files():
    graph = {module_of(path): set(imported(path, at_top=True)) for path in MODULES}
    graph = {name: {n for n in names if n in graph} for name, names in graph.items()}
    while leaves := [name for name, names in graph.items() if not names]:
        for leaf in leaves:
            del graph[leaf]
        for names in graph.values():
            names.difference_update(leaves)
    assert not graph


def test_heavy_dependencies_have_one_door():
    doors = re.findall(r"^door: (.*) in (.*)$", HOUSE, re.MULTILINE)
    packages = {name.strip(): places for names, places in doors for name in names.split(",")}
    assert {"vllm", "triton", "sympy", "transformers", "matplotlib"} <= set(packages)
    for path in MODULES:
        name = path.relative_to(ROOT).as_posix()
        for package in {module.split(".")[0] for module in imported(path)} & set(packages):
            places = [place.strip() for place in packages[package].split(",")]
            ends = [p.removeprefix("files *") for p in places if p.startswith("files *")]
            starts = tuple(place for place in places if not place.startswith("files *"))
            assert name.startswith(starts), f"{name} imports {package}"
            assert not ends or name.endswith(tuple(ends)), f"{name} imports {package}"


def test_files_are_short():
    written = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    written += [p for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    long = {p.name: n for p in written if (n := len(p.read_text().splitlines())) > 300}
    assert not long


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"nsr_fast.{name}" if name.startswith("kernels.") else name


def room_of(path):
    return (
        "__init__"
        if path.parent.name == "nsr_fast" and path.stem == "__init__"
        else (room_of_module(module_of(path)))
    )


def room_of_module(module):
    """The room of an import of ours; csrc for the compiled modules, None for anything else."""
    parts = module.split(".")
    if parts[0] != "nsr_fast" or len(parts) == 1:
        return None
    parts_of_rooms = {"_cpu": "csrc", "_cuda": "csrc"}
    room = parts_of_rooms.get(parts[1], parts[1])
    room = "config" if room.startswith("config_") else room
    return None if room.startswith("__") else room


def imported(path, *, at_top=False):
    """Full names of the imported modules (and of the names that may be modules)."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_top else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
