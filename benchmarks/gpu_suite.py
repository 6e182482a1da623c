"""One command for a machine with a CUDA GPU: build, prove, measure.

    python benchmarks/gpu_suite.py [--wheels DIR] [--minutes 8] [--out FILE.jsonl]

Needs torch, triton, nvcc, pytest, pybind11 and setuptools; nothing is downloaded and nothing has to
be installed. In order: builds nsr_fast._cuda for this GPU, runs the tests marked gpu, times the row
kernels against a device copy and AdamW against torch's, profiles one loss, fills the table of the
vocabulary head's loss (T=8192, V=151,936, four widths, all rows and half of them active). Peers
come from DIR, as wheels. Every step appends JSON lines; what does not fit into the minutes is
recorded as not run. Exit code 1 when the build or a test fails: numbers of wrong kernels are not
worth having.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_suite.jsonl"
WIDTHS = (896, 3584, 1536, 2560)  # the two ends first, in case time runs out
TOKENS, VOCAB, CHUNK = 8192, 151_936, 2048
CASE_SECONDS = 25  # expected for one case of the table


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    if options.wheels:
        install_wheels(options.wheels)
    sys.path.insert(0, str(ROOT))
    where = environment()
    record(options.out, [{"op": "environment"}], where)
    if not options.no_build and not build():
        return 1
    if not options.no_tests:
        line = run_tests(options.tests, limit_s=0.5 * 60 * options.minutes)
        record(options.out, [line], where)
        if line["exit_code"] != 0:
            print(line["output"], file=sys.stderr)
            return 1
    if options.sanitize:
        record(options.out, sanitize(), where)
    record(options.out, time_rows(), where)
    record(options.out, time_adamw(), where)
    record(options.out, profile_loss(), where)
    for width in WIDTHS:
        for active in (1.0, 0.5):
            lines = time_case(width, active, deadline, has_peers=options.wheels is not None)
            record(options.out, lines, where)
    print(f"\nlines appended to {options.out}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder of peers' wheels")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tests", nargs="+", default=["tests/kernels"])
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--sanitize", action="store_true", help="memcheck and racecheck, slow")
    return parser.parse_args(arguments)


def record(path: Path, lines: list[dict], where: dict) -> None:
    """Append lines, each with the machine and versions it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line | where) + "\n" for line in lines)


def install_wheels(folder: Path) -> None:
    """Unpack wheels into a folder of their own, seen by this process and its children."""
    target = tempfile.mkdtemp(prefix="peers")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    wheels = sorted(str(path) for path in folder.glob("*.whl"))
    subprocess.run([*command, "--target", target, *wheels], check=True)
    sys.path.append(target)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), target])


# ---- build and prove ---------------------------------------------------------------------------


def environment() -> dict:
    import torch
    import triton

    if not torch.cuda.is_available():
        raise SystemExit("gpu_suite: torch finds no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    line = {
        "gpu": torch.cuda.get_device_name(),
        "capability": 10 * major + minor,
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "nvcc": output_of(["nvcc", "--version"]).split("release ")[-1].split(",")[0],
        "driver": output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "commit": output_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(line))
    return line


def output_of(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def build() -> bool:
    """nsr_fast._cuda (and _cpu) beside the package, for this GPU only."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    wanted = {"NSR_FAST_CUDA": "1", "NSR_FAST_CUDA_ARCHS": f"{10 * major + minor}"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    start = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, env=os.environ | wanted, timeout=300)
    print(f"build: exit code {result.returncode} after {time.monotonic() - start:.0f} s")
    return result.returncode == 0


def run_tests(paths: list[str], *, limit_s: float) -> dict:
    """The tests marked gpu, as one line: counts, seconds, and the end of the output on failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "--maxfail=10", "--durations=5"]
        command += [f"--junitxml={report}", *paths]
        start = time.monotonic()
        try:
            result = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s
            )
            code, text = result.returncode, result.stdout + result.stderr
        except subprocess.TimeoutExpired as error:
            code, text = 124, f"stopped after {limit_s:.0f} s: {(error.stdout or b'')[-3000:]}"
        seconds = round(time.monotonic() - start, 1)
        counts = count_cases(report) if report.exists() else {}
    if code == 0 and counts["skipped"] == counts["tests"]:
        code, text = 1, "every test was skipped"
    line = {"op": "tests", "paths": paths, "exit_code": code, "seconds": seconds} | counts
    print(json.dumps(line))
    return line | {"output": "" if code == 0 else text[-6000:]}


def count_cases(report: Path) -> dict[str, int]:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    return {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}


def sanitize() -> list[dict]:
    """compute-sanitizer over the small row tests; one line per tool."""
    lines = []
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        command += ["-m", "pytest", "-m", "gpu", "-x", "tests/kernels/test_gpu_rows.py"]
        command += ["-k", "(extreme or nan_zero or (every_edge and 4099)) and cuda"]
        if shutil.which(command[0]) is None:
            lines.append({"op": tool, "not_run": "compute-sanitizer is not on PATH"})
            continue
        try:
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
            line = {"exit_code": result.returncode, "output": result.stdout[-1500:]}
        except subprocess.TimeoutExpired:
            line = {"not_run": "stopped after 240 s"}
        lines.append({"op": tool} | line)
        print(json.dumps(lines[-1]))
    return lines


# ---- measure -----------------------------------------------------------------------------------


def time_rows() -> list[dict]:
    """Row operations in place on one tile, in bytes that must move, beside a device copy."""
    import torch

    from nsr_fast.kernels.bench import Inputs, time_interleaved

    lines = []
    for dtype in (torch.bfloat16, torch.float32):
        tile = (4.0 * torch.randn(CHUNK, VOCAB, device="cuda")).to(dtype)
        target = torch.randint(VOCAB, (CHUNK,), device="cuda")
        c = torch.full((CHUNK,), -1.0, device="cuda")
        inputs = Inputs(tile, tile[0], target, c, c)
        methods, moved = row_methods(inputs, torch.empty_like(tile))
        for name, timing in time_interleaved(methods, inputs, 20).items():
            line = timing.line()
            line["gb_per_s"] = round(moved[name] * tile.nbytes / line["median_ms"] / 1e6, 1)
            shape = {"R": CHUNK, "V": VOCAB}
            short = str(dtype).removeprefix("torch.")
            lines.append({"op": "row", "shape": shape, "dtype": short, "backend": name} | line)
            print(f"{short:9} {name:32} {line['median_ms']:8.3f} ms {line['gb_per_s']:8.1f} GB/s")
    return lines


def row_methods(inputs, other) -> tuple[dict, dict[str, int]]:
    """name -> method, and how many times the tile's bytes it must move."""
    from nsr_fast.kernels import row_cuda, row_triton

    methods, moved = {"copy": lambda x: other.copy_(x.hidden)}, {"copy": 2}
    held = row_triton.row_stats(inputs.hidden, inputs.target)

    def add(name: str, module, **path) -> None:
        methods[f"{name} stats"] = lambda x: module.row_stats(x.hidden, x.target, **path)
        methods[f"{name} stats_grad"] = lambda x: module.row_stats_grad_(
            x.hidden, x.target, x.token_weight, None, **path
        )
        moved.update({f"{name} stats": 1, f"{name} stats_grad": 2, f"{name} grad": 2})
        methods[f"{name} grad"] = lambda x: module.row_grad_(
            x.hidden, x.target, held.lse, held.entropy, x.token_weight, None
        )

    add("triton", row_triton)
    if (reason := row_cuda.reason_unavailable()) is not None:
        raise SystemExit(f"gpu_suite: backend cuda: {reason}")
    add("cuda block", row_cuda, path="block")
    if row_cuda._cuda.device_info(0)["capability"] >= 90:
        add("cuda cluster", row_cuda, path="cluster")
    return methods, moved


def time_adamw() -> list[dict]:
    """bench_adamw.py, beside this file, on 300 million parameters."""
    import torch
    from bench_adamw import run_cases

    return run_cases(300e6, torch.device("cuda"), 20)


def profile_loss() -> list[dict]:
    """Kernels of one forward and backward pass of the default loss, and the time between them."""
    import torch

    from nsr_fast.kernels.bench import Inputs
    from nsr_fast.kernels.bench_methods import ours

    options = {"device": "cuda", "dtype": torch.bfloat16}
    hidden = torch.randn(TOKENS, 896, **options).requires_grad_()
    weight = (torch.randn(VOCAB, 896, **options) / 30).requires_grad_()
    target = torch.randint(VOCAB, (TOKENS,), device="cuda")
    inputs = Inputs(hidden, weight, target, torch.full((TOKENS,), -1.0, device="cuda"), target)
    method = ours()
    for _ in range(2):
        method(inputs)
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    method(inputs)
    stop.record()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        method(inputs)
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    events = [e for e in profile.key_averages() if e.device_type == on_gpu]
    events.sort(key=lambda e: -e.self_device_time_total)
    kernels = [[e.key[:100], e.count, round(e.self_device_time_total / 1e3, 3)] for e in events]
    busy = sum(milliseconds for *_, milliseconds in kernels)
    wall = round(start.elapsed_time(stop), 3)
    print(f"profile at H=896: {busy:.2f} ms of kernels in {wall:.2f} ms; {kernels[:6]}")
    return [{"op": "profile", "H": 896, "wall_ms": wall, "kernel_ms": busy, "top": kernels[:12]}]


def time_case(width: int, active: float, deadline: float, *, has_peers: bool) -> list[dict]:
    """The table for one width and share of active rows, unless the time is up."""
    from nsr_fast.kernels.bench_run import run_bench

    if time.monotonic() + CASE_SECONDS > deadline:
        shape = {"T": TOKENS, "V": VOCAB, "H": width, "active": active}
        return [{"op": "linear_policy_loss", "shape": shape, "not_run": "out of time"}]
    arguments = ["--tokens", str(TOKENS), "--vocab", str(VOCAB), "--widths", str(width)]
    arguments += ["--active", str(active), "--repeats", "10", "--dtype", "bfloat16"]
    arguments += ["--peers"] if has_peers else []
    arguments += ["--no-errors"] if active < 1 else []
    return run_bench(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
