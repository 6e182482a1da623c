"""Programs with known verdicts, hostile ones among them, for benchmarks/bench_verify.py.

A hostile program that fails to do harm but then prints the right answer would be correct, so each
one ends without an answer.
"""

import os
import time
from pathlib import Path

from nsr_fast.reward import Reward
from nsr_fast.reward.code import CodeReward
from nsr_fast.reward.code.sandbox import Limits, chosen_backend

HOSTILE = (
    "import os\nwhile True:\n    os.fork()\n",
    "data = bytearray(10 * 1024**3)\nprint(len(data))\n",
    "while True:\n    print('x' * 1000)\n",
    "import urllib.request\nprint(urllib.request.urlopen('http://1.1.1.1', timeout=2).status)\n",
    "import socket\ns = socket.create_connection(('1.1.1.1', 53), 2)\nprint(len(s.recv(1)))\n",
    "print(open({secret!r}).read())\n",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)\n",
    "import os\nfor fd in range(3, 256):\n"
    "    try:\n        os.write(fd, b'{{\"results\": []}}')\n    except OSError:\n        pass\n",
    "import os\nos._exit(0)\n",
    "import time\ntime.sleep(1000)\n",
    "class Any(int):\n    def __eq__(self, other):\n        return True\n"
    "    def __hash__(self):\n        return 0\ndef add(a, b):\n    return Any(-1)\n",
    "import builtins\nbuiltins.exec = builtins.compile = lambda *a: None\n"
    "builtins.eval = lambda *a: 0\n",
    "import json\nload = json.loads\n"
    "json.loads = lambda text: {{**load(text), 'tests': [], 'steps': []}}\n",
    "for i in range(1000):\n    open(f'/tmp/{{i}}', 'wb').write(bytes(16 << 20))\n",
    "import os\nfor _ in range(9):\n    if os.fork() == 0:\n        os.setsid()\n"
    "        data = b'x' * (300 << 20)\nimport time\ntime.sleep(9)\n",
)


def programs(num: int, secret: str) -> list[tuple[str, dict | list, bool]]:
    """(completion, tests, is correct): right and wrong programs of both styles, a tenth hostile."""
    probes = []
    for i in range(num):
        sums = [{"input": f"{i} {n}\n", "output": f"{i + n}\n"} for n in range(3)]
        calls = [f"assert add({i}, {n}) == {i + n}" for n in range(3)]
        wrong = i % 3 == 2
        if i % 10 == 9:
            body = HOSTILE[(i // 10) % len(HOSTILE)].format(secret=secret)
            tests: dict | list = calls if (i // 10) % 3 == 0 else sums
            probes.append((f"```python\n{body}```", tests, False))
        elif i % 2:
            operator = "-" if wrong else "+"
            body = f"a, b = map(int, input().split())\nprint(a {operator} (b + {int(wrong)}))\n"
            probes.append((f"Here:\n```python\n{body}```", sums, not wrong))
        else:
            body = f"def add(a, b):\n    return a + b + {int(wrong)}\n"
            probes.append((f"```python\n{body}```\nDone.", calls, not wrong))
    return probes


def programs_row(num: int) -> dict:
    """Verdicts, seconds and what is left running."""
    secret = str(Path(__file__).resolve())
    probes = programs(num, secret)
    reward = Reward([(CodeReward(limits=Limits(time_limit_s=2.0)), 1.0)])
    before = running_processes()
    start = time.perf_counter()
    completions, tests = [p[0] for p in probes], [p[1] for p in probes]
    rewards = reward(completions, completions, completions, tests=tests)
    seconds = time.perf_counter() - start
    time.sleep(0.5)
    left = len([pid for pid in running_processes() - before if is_ours(pid)])
    right = sum(
        reward is not None and (reward > 0) == is_correct
        for reward, (_, _, is_correct) in zip(rewards, probes, strict=True)
    )
    hostile = sum(1 for i in range(num) if i % 10 == 9)
    backend = chosen_backend()
    return {
        "op": "programs",
        "result": f"{right}/{num} right, {hostile} hostile, {left} left running, {backend}",
        "seconds": seconds,
        "target": "all, 0, 90 s",
    }


def running_processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def is_ours(pid: int) -> bool:
    """A process of a sandbox: another user's id of the sandbox range, or the launcher."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return 200_000 <= uid < 600_000 or b"bwrap" in command or b"solution.py" in command
