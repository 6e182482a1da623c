"""kill -9 anywhere: at most the rounds since the last checkpoint are lost."""

import signal

import pytest
from faults.places import Fault

fault = pytest.mark.fault


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        pytest.param(
            Fault("rollout", 4),
            2,
            marks=fault("`kill -9` in a rollout", "-9", "the last checkpoint"),
        ),
        pytest.param(
            Fault("backward", 5),
            4,
            marks=fault("`kill -9` in backward", "-9", "the last checkpoint"),
        ),
        pytest.param(
            Fault("step", 80),  # of 26 a round: in the middle of the fourth
            2,
            marks=fault("`kill -9` in an optimizer step", "-9", "the last checkpoint"),
        ),
        pytest.param(
            Fault("evaluation", 3),  # after round 4, which is saved behind it
            2,
            marks=fault("`kill -9` in an evaluation", "-9", "the last checkpoint"),
        ),
        pytest.param(
            Fault("torn metrics line", 3),
            2,
            marks=fault("`kill -9` in a metrics line", "-9", "the last checkpoint"),
        ),
        pytest.param(
            Fault("save begun", 2),
            2,
            marks=fault("`kill -9` as a save begins", "-9", "the checkpoint before"),
        ),
        pytest.param(
            Fault("weights written", 2),
            2,
            marks=fault("`kill -9` in a save, weights written", "-9", "the checkpoint before"),
        ),
        pytest.param(
            Fault("all but the manifest", 2),
            2,
            marks=fault("`kill -9` in a save, no manifest yet", "-9", "the checkpoint before"),
        ),
        pytest.param(
            Fault("sealed", 2),
            2,
            marks=fault("`kill -9` in a save, before the rename", "-9", "the checkpoint before"),
        ),
        pytest.param(
            Fault("in place", 2),
            4,
            marks=fault("`kill -9` in a save, after the rename", "-9", "the new checkpoint"),
        ),
    ],
    ids=lambda value: getattr(value, "place", ""),
)
def test_killed_run_goes_on_with_the_same_bits(begin, goes_on, place, kept):
    running = begin(place)
    assert running.code() == -signal.SIGKILL
    resumed = goes_on(running, kept)
    assert (running.run / "checkpoints" / "last").resolve().name == "round-6"
    if place.place in ("save begun", "weights written", "all but the manifest", "sealed"):
        assert "round-4.unfinished: a leftover, removed" in resumed.out


@fault("`kill -9` before the first checkpoint", "-9", "nothing; resume says how to begin again")
def test_run_killed_before_its_first_checkpoint_says_how_to_begin_again(begin, policy, goes_on):
    from faults.processes import resume

    running = begin(Fault("rollout", 2))
    assert running.code() == -signal.SIGKILL
    refused = resume(running.folder)
    assert refused.code() == 2
    assert "without a whole checkpoint" in refused.err and "--overwrite true" in refused.err
