"""What gpu_suite.py measures: row kernels, AdamW, a profile and the table of the head's loss."""

import time

import torch

TOKENS, VOCAB, CHUNK = 8192, 151_936, 2048
CASE_SECONDS = 25  # expected for one case of the table


def time_rows() -> list[dict]:
    """Row operations in place on one tile, in bytes that must move, beside a device copy."""
    from nsr_fast.bench.timing import Inputs, time_interleaved

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
    from nsr_fast.kernels import rows_cuda
    from nsr_fast.kernels.rows import RowTile, backend_reason, row_pass_

    if (reason := backend_reason("cuda", None)) is not None:
        raise SystemExit(f"gpu_suite: backend cuda: {reason}")
    methods, moved = {"copy": lambda x: other.copy_(x.hidden)}, {"copy": 2}
    triton = RowTile(inputs.hidden, inputs.target, backend="triton")
    tiles, c = {"triton": triton}, inputs.token_weight
    held = row_pass_(triton)
    saved = (held.lse, held.entropy)
    is_hopper = rows_cuda._cuda.device_info(0)["capability"] >= 90
    for path in ("block", "cluster") if is_hopper else ("block",):
        tile = RowTile(inputs.hidden, inputs.target, backend="cuda", force=path)
        tiles[f"cuda {path}"] = tile
    for name, tile in tiles.items():
        methods[f"{name} stats"] = lambda _, tile=tile: row_pass_(tile)
        methods[f"{name} stats_grad"] = lambda _, tile=tile: row_pass_(tile, c)
        methods[f"{name} grad"] = lambda _, tile=tile: row_pass_(tile, c, saved=saved)
        moved.update({f"{name} stats": 1, f"{name} stats_grad": 2, f"{name} grad": 2})
    return methods, moved


def time_adamw() -> list[dict]:
    """bench_adamw.py, beside this file, on 300 million parameters."""
    from bench_adamw import run_cases

    return run_cases(300e6, torch.device("cuda"), 20)


def profile_loss() -> list[dict]:
    """Kernels of one forward and backward pass of the default loss, and the time between them."""
    from nsr_fast.bench.methods import ours
    from nsr_fast.bench.timing import Inputs

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
    from nsr_fast.bench.head_loss import run_bench

    if time.monotonic() + CASE_SECONDS > deadline:
        shape = {"T": TOKENS, "V": VOCAB, "H": width, "active": active}
        return [{"op": "linear_policy_loss", "shape": shape, "not_run": "out of time"}]
    arguments = ["--tokens", str(TOKENS), "--vocab", str(VOCAB), "--widths", str(width)]
    arguments += ["--active", str(active), "--repeats", "10", "--dtype", "bfloat16"]
    arguments += ["--peers"] if has_peers else []
    arguments += ["--no-errors"] if active < 1 else []
    return run_bench(arguments)
