"""A user's file is one module that its neighbours and its child processes find."""

import subprocess
import sys

from nsr_fast.reward import load_reward

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from {source} import value

def scored(number):
    return value if number % 2 else -value

def f(completion_ids):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(scored, [ids[0] for ids in completion_ids]))
"""


def rewards(spec):
    return load_reward(spec)(["p", "p"], ["a", "b"], [[1], [2]], answer=["", ""])


def test_two_files_of_one_name_in_two_folders_stay_apart_and_import_in_children(tmp_path):
    for folder, value in (("a", 1.0), ("b", 4.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twin.py").write_text(POOL.format(source=f"beside_{folder}"))
        (tmp_path / folder / f"beside_{folder}.py").write_text(f"value = {value}\n")
    specs = [f"{tmp_path}/{folder}/twin.py:f" for folder in "ab"]
    assert rewards(", ".join(specs)) == [5.0, -5.0]


def test_a_file_named_like_a_module_of_python_does_not_replace_it(tmp_path):
    (tmp_path / "math.py").write_text(
        "def f(completion_ids):\n    return [float(ids[0]) for ids in completion_ids]\n"
    )
    assert rewards(f"{tmp_path}/math.py:f") == [1.0, 2.0]
    code = "import math; assert math.pi > 3; from math import sqrt"
    subprocess.run([sys.executable, "-c", code], check=True)
    import math

    assert math.pi > 3


def test_relative_imports_of_a_package(tmp_path):
    package = tmp_path / "judges_of_mine" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "numbers_of_mine.py").write_text("value = 2.0\n")
    (package / "judge.py").write_text(POOL.format(source=".numbers_of_mine"))
    assert rewards(f"{package}/judge.py:f") == [2.0, -2.0]


def test_a_file_loaded_again_is_run_again(tmp_path):
    path = tmp_path / "counts_itself.py"
    path.write_text(
        "n = 0\ndef f(completions):\n    global n\n    n += 1\n    return [n] * len(completions)\n"
    )
    assert rewards(f"{path}:f") == rewards(f"{path}:f") == [1.0, 1.0]
    assert rewards(f"{path}:f, {path}:f * 10") == [21.0, 21.0]
