"""One command for a machine with a CUDA GPU: build, prove, measure.

    python benchmarks/gpu_suite.py [--wheels DIR] [--minutes 8] [--out FILE.jsonl]

Needs torch, triton, nvcc, pytest, pybind11 and setuptools; nothing is downloaded and nothing has to
be installed. In order: builds nsr_fast._cuda for this GPU, runs the tests marked gpu, times the row
kernels against a device copy and AdamW against torch's, profiles one loss, fills the table of the
vocabulary head's loss (T=8192, V=151,936, four widths, all rows and half of them active); with
--scripts also the trainer's update alone and NSR rounds through vLLM, into files beside --out.
Peers come from DIR, as wheels. Every step appends JSON lines; what does not fit into the minutes is
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
VLLM_TESTS = "tests/rollout/test_vllm_memory.py"
SCRIPTS = ("bench_trainer.py", "bench_shared_weights.py")


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
    from gpu_measure import profile_loss, time_adamw, time_case, time_rows

    record(options.out, time_rows(), where)
    record(options.out, time_adamw(), where)
    record(options.out, profile_loss(), where)
    for width in WIDTHS:
        for active in (1.0, 0.5):
            lines = time_case(width, active, deadline, has_peers=options.wheels is not None)
            record(options.out, lines, where)
    if options.scripts:
        record(options.out, [run_tests([VLLM_TESTS], limit_s=200)], where)
    for script in SCRIPTS if options.scripts else ():
        record(options.out, [run_script(script, options.out.parent, limit_s=300)], where)
    print(f"\nlines appended to {options.out}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder of peers' wheels")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tests", nargs="+", default=["tests/gpu", "tests/train/test_varlen.py"])
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--scripts", action="store_true", help="at most ten minutes more")
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


def environment() -> dict:
    import torch
    import triton

    from nsr_fast.bench.timing import code_fields

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
    } | code_fields()
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


def run_script(name: str, folder: Path, *, limit_s: float) -> dict:
    """A benchmark of its own, whose lines go to a file in `folder`; how it ended, as one line."""
    out = folder / f"{name.removeprefix('bench_').removesuffix('.py')}.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--out", str(out)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start = time.monotonic()
    try:
        result = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
        code, text = result.returncode, result.stdout + result.stderr
    except subprocess.TimeoutExpired:
        code, text = 124, f"stopped after {limit_s:.0f} s"
    line = {"op": name, "exit_code": code, "seconds": round(time.monotonic() - start, 1)}
    print(json.dumps(line), text[-1500:], sep="\n")
    return line | {"output": "" if code == 0 else text[-6000:]}


def sanitize() -> list[dict]:
    """compute-sanitizer over the small row tests; one line per tool."""
    lines = []
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable]
        command += ["-m", "pytest", "-m", "gpu", "-x", "tests/gpu/test_gpu_rows.py"]
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
