"""Promises about the package as a whole: light import, the kernels folder, no machine paths."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_import_loads_nothing_heavy():
    code = (
        "import sys, nsr_fast;"
        "heavy = {'torch', 'vllm', 'transformers', 'triton', 'sympy'} & set(sys.modules);"
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


def test_kernels_import_no_room_above_them():
    allowed = ("from nsr_fast.kernels", "from nsr_fast import _cpu", "from nsr_fast import _cuda")
    for path in (ROOT / "kernels").glob("*.py"):
        for line in map(str.strip, path.read_text().splitlines()):
            if line.startswith(("from nsr_fast", "import nsr_fast")):
                assert line.startswith(allowed), (path, line)


def test_heavy_dependencies_have_one_door():
    for path in [*(ROOT / "nsr_fast").rglob("*.py"), *(ROOT / "kernels").glob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for package in imported_packages(path):
            if package == "vllm":
                assert name.startswith("nsr_fast/rollout/vllm_"), name
            elif package == "triton":
                assert name.endswith("_triton.py"), name
            elif package in ("math_verify", "sympy", "latex2sympy2_extended"):
                assert name.startswith("nsr_fast/reward/"), name


def imported_packages(path):
    lines = (line.split() for line in path.read_text().splitlines())
    return [w[1].split(".")[0] for w in lines if len(w) > 1 and w[0] in ("import", "from")]
