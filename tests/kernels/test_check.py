"""The verb `nsr-fast check`: passes here, and notices a backend that is wrong."""

from nsr_fast.kernels import check, row_cpu


def test_every_backend_of_this_machine_is_good(capsys):
    assert check.run_check()
    text = capsys.readouterr().out
    assert "cpu        cpu     float32" in text and "reference  cpu     float64" in text
    assert all("ok" in line or "not run: " in line for line in text.splitlines()[1:])


def test_a_wrong_backend_is_noticed(monkeypatch):
    right = row_cpu.row_stats_grad_

    def slightly_wrong(logits, *args, **options):
        stats = right(logits, *args, **options)
        logits[0, -1] += 1e-3
        return stats

    monkeypatch.setattr(row_cpu, "row_stats_grad_", slightly_wrong)
    results = {(r.backend, r.dtype): r.is_good for r in check.check_backends()}
    assert results["cpu", "float32"] is False and results["reference", "float32"] is True
