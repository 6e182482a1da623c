"""An evaluation that was logged, but after the checkpoint: the guards see it before going on."""

import pytest
from cli import seams
from cli.test_resume import completed, resumed, run
from cli.tiny_runs import write_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("inputs") / "policy")


@pytest.mark.parametrize("is_seen", [True, False])
def test_guards_see_each_evaluation_once(policy, tmp_path, monkeypatch, is_seen):
    from nsr_fast.train.guards import Guards

    state, seen = Guards.state, []
    if not is_seen:  # as a checkpoint that a stop in the evaluation left
        monkeypatch.setattr(f"{seams.GUARDS}.state", lambda self: state(self) | {"evaluated": 1})
    completed(run(tmp_path, policy, max_rounds=2, eval_rounds=1, save_rounds=1))
    monkeypatch.undo()
    look = Guards.after_evaluation

    def watched(self, record):
        seen.append(record["round"])
        return look(self, record)

    monkeypatch.setattr(f"{seams.GUARDS}.after_evaluation", watched)
    second = completed(resumed(tmp_path, max_rounds=3))
    assert seen == ([3] if is_seen else [2, 3])
    assert [e["round"] for e in second.evaluations] == [0, 1, 2, 3]
