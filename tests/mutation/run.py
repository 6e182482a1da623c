"""Put small errors into the product, one at a time, and count the ones the tests notice.

    python tests/mutation/run.py [NAME ...]

Works on a copy of this checkout. An error is killed when its tests fail; one that survives is a
hole in them. First the tests run on the copy as it is. Not part of `make test`: about ten minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; `tests` fail when it is replaced by `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str]


def mutants() -> list[Mutant]:
    table = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())
    return [Mutant(name, **entry) for name, entry in table.items()]


def main(names: list[str]) -> int:
    chosen = [m for m in mutants() if not names or m.name in names]
    with tempfile.TemporaryDirectory(dir=os.environ.get("MUTATION_DIR")) as folder:
        copy = copied(Path(folder) / "copy")
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        if failed := first_failure(copy, tests):
            print(f"the tests fail without any change: {failed}")
            return 2
        survivors = [mutant.name for mutant in chosen if not is_killed(copy, mutant)]
    print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} killed; survivors: {survivors or 'none'}"
    )
    return 1 if survivors else 0


def copied(copy: Path) -> Path:
    """Tracked and new files of the checkout, and the compiled modules."""
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    files += [str(path.relative_to(ROOT)) for path in (ROOT / "nsr_fast").glob("*.so")]
    for name in files:
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def is_killed(copy: Path, mutant: Mutant) -> bool:
    path = copy / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.name}: expected its text once in {mutant.file}; mend mutants.toml"
        )
    started = time.monotonic()
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        failed = first_failure(copy, mutant.tests)
    finally:
        path.write_text(text)
    verdict = f"killed by {failed}" if failed else "SURVIVED"
    print(f"{mutant.name:22} {time.monotonic() - started:5.1f} s  {verdict}", flush=True)
    return failed is not None


def first_failure(copy: Path, tests: list[str]) -> str | None:
    """The first failing test of the copy, None when all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not gpu and not slow", *tests]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=env, capture_output=True, text=True, timeout=DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        return f"the deadline of {DEADLINE_S} s"
    if done.returncode == 0:
        return None
    if done.returncode > 2:  # 1: a test failed; 2: the tests cannot be collected
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    lines = [s for s in done.stdout.splitlines() if s.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].split(" ", 1)[1] if lines else done.stdout[-500:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
