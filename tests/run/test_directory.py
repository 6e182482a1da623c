"""The run directory: what is kept of an earlier run."""

import pytest
import yaml

from nsr_fast.config import Config
from nsr_fast.errors import InputError
from nsr_fast.run.directory import RunDirectory, check_output_dir

ENVIRONMENT = {"packages": {"torch": "1"}}


def test_the_resolved_file_of_a_run_that_replaced_one_does_not_replace_it(tmp_path):
    keys = {"model": "m", "data": "d", "output_dir": str(tmp_path / "run")}
    for _ in range(2):
        run, _ = RunDirectory.create(Config.from_flat({**keys, "overwrite": True}), ENVIRONMENT)
    again = Config.from_flat(yaml.safe_load((run.path / "config.yaml").read_text()))
    with pytest.raises(InputError, match="already holds a run"):
        check_output_dir(again)
    assert again.run.output_dir == keys["output_dir"]
