"""The vocabulary head's loss against plain torch and the peers; appends the lines of record.

    python benchmarks/bench_linear_loss.py --cpu              CPU table (two cores, some minutes)
    python benchmarks/bench_linear_loss.py --peers           GPU table, peers of the extra `bench`
Options as in nsr_fast/bench/head_loss.py; --no-record leaves benchmarks/results/ alone.
"""

import sys
from pathlib import Path

from nsr_fast.bench.head_loss import run_bench
from nsr_fast.bench.timing import append_lines

RESULTS = Path(__file__).parent / "results" / "bench_linear_loss.jsonl"


def main(arguments: list[str]) -> None:
    record = "--no-record" not in arguments
    lines = run_bench([word for word in arguments if word != "--no-record"])
    if record:
        append_lines(RESULTS, lines)
        print(f"\n{len(lines)} lines appended to {RESULTS.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main(sys.argv[1:])
