"""The verb `nsr-fast check`: passes here, and notices a backend that is wrong."""

from nsr_fast.bench import check
from nsr_fast.kernels import rows_cpu


def test_every_backend_of_this_machine_is_good(capsys):
    assert check.run_check()
    text = capsys.readouterr().out
    assert "cpu        cpu     float32" in text and "reference  cpu     float64" in text
    assert all("ok" in line or "not run: " in line for line in text.splitlines()[1:])


def test_a_wrong_backend_is_noticed(monkeypatch):
    right = rows_cpu.launch

    def slightly_wrong(tile, stats, grad):
        right(tile, stats, grad)
        if grad is not None:
            tile.logits[0, -1] += 1e-3

    monkeypatch.setattr(rows_cpu, "launch", slightly_wrong)
    results = {(r.backend, r.dtype): r.is_good for r in check.check_backends()}
    assert results["cpu", "float32"] is False and results["reference", "float32"] is True
