"""The run that nothing stopped, and what every stopped one must come to."""

import pytest
from cli.tiny_runs import write_policy
from faults.processes import ROUNDS, lines, resume, start
from run_bits import difference

from nsr_fast.run.checkpoint import damage
from nsr_fast.run.checkpoints import Checkpoints


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("fault-inputs") / "policy")


@pytest.fixture(scope="session")
def whole(policy, tmp_path_factory):
    """The folder of the uninterrupted run."""
    running = start(tmp_path_factory.mktemp("whole"), policy)
    assert running.code() == 0, running.err
    assert [m["round"] for m in lines(running.run / "metrics.jsonl")] == [*range(1, ROUNDS + 1)]
    assert any(m["trained_tokens"] for m in lines(running.run / "metrics.jsonl"))
    return running.run


@pytest.fixture
def begin(policy, tmp_path):
    """begin(*faults, reward=, **settings) -> the running process."""
    return lambda *faults, **keys: start(tmp_path, policy, *faults, **keys)


@pytest.fixture
def goes_on(whole):
    """goes_on(running, kept) -> the last round's checkpoint is `kept` and whole, and the resumed
    run ends with the bits of the uninterrupted one."""

    def check(running, kept, **settings):
        checkpoints = Checkpoints(running.run / "checkpoints")
        assert checkpoints.newest_whole()[0] == kept, running.out
        for n in checkpoints.rounds():
            assert damage(checkpoints.path(n)) is None
        (running.folder / "well").touch()
        resumed = resume(running.folder, **settings)
        assert resumed.code() == 0, resumed.err
        assert f"going on after round {kept}" in resumed.out
        assert difference(whole, running.run) is None
        assert not list(running.run.rglob("*.unfinished"))
        return resumed

    return check
