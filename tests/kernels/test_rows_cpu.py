"""The C++ row kernel, every instruction set this CPU has, against the float64 reference."""

import pytest
import torch
from linear_cases import assert_as_good_as
from row_cases import reference, rows_of

from nsr_fast.kernels.rows_cpu import instruction_sets

FIELDS = ("logprob", "entropy", "lse", "sum_p2", "sum_p2_logp")
backend = rows_of("cpu")
ISAS = instruction_sets()


def row_case(rows: int, vocab: int, *, scale: float = 3.0, dtype=torch.float32, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab, generator=g) * scale).to(dtype)
    target = torch.randint(0, vocab, (rows,), generator=g)
    return logits, target, torch.randn(rows, generator=g), torch.randn(rows, generator=g)


def check_all(logits, target, c, e, isa, *, grad_eps=None, **scaling):
    """Both ways to the gradient and the statistics, beside the same-dtype torch computation."""
    wide = logits.double()
    wide_e = None if e is None else e.double()
    truth = reference(wide, target, c.double(), wide_e, **scaling)
    plain = logits.clone()
    base = reference(plain, target, c, e, **scaling)
    fused = logits.clone()
    got = rows_of("cpu", isa)(fused, target, c, e, **scaling)
    split = logits.clone()
    stats = rows_of("cpu", isa)(split, target, **scaling)
    assert torch.equal(split, logits)
    rows_of("cpu", isa)(split, target, c, e, saved=(stats.lse, stats.entropy), **scaling)
    for name in FIELDS:
        assert torch.equal(getattr(got, name), getattr(stats, name))
        eps = 2e-6 if name != "lse" else 1e-6
        assert_as_good_as(
            getattr(got, name), getattr(truth, name), getattr(base, name), name=name, eps=eps
        )
    assert torch.equal(got.greedy, truth.greedy)
    assert bool((got.logprob <= 0).all())
    eps = 2e-6 if logits.dtype == torch.float32 else 8e-3
    assert_as_good_as(fused, wide, plain, name="fused grad", eps=eps)
    assert_as_good_as(split, wide, plain, name="split grad", eps=grad_eps or eps)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 2, 7, 8, 17, 1000, 2047, 2048, 2049, 5003])
def test_row_kernel_matches_float64_when_vocab_is_odd(vocab, dtype, isa):
    logits, target, c, e = row_case(5, vocab, dtype=dtype)
    check_all(logits, target, c, None, isa)
    check_all(logits, target, c, e, isa, temperature=0.7)


@pytest.mark.parametrize("isa", ISAS)
def test_row_kernel_matches_float64_at_the_qwen_vocabulary(isa):
    logits, target, c, e = row_case(3, 151_936)
    target[0] = 151_935
    check_all(logits, target, c, e, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("softcap", [0.5, 5.0, 30.0])
def test_row_kernel_matches_float64_with_softcap(softcap, isa):
    logits, target, c, e = row_case(7, 333, scale=softcap)
    logits[0, :50] *= 1e-3  # the small-argument branch of tanh
    check_all(logits, target, c, e, isa, softcap=softcap, temperature=1.3)


@pytest.mark.parametrize("isa", ISAS)
def test_row_kernel_survives_logits_of_ten_thousand(isa):
    logits, target, c, e = row_case(6, 4001, scale=1e4)
    logits[0], logits[1] = 1e4, -1e4
    # A float32 lse of 4e4 has a rounding of 2e-3, which row_grad_ turns into a relative error of p.
    check_all(logits, target, c, None, isa, grad_eps=4e-3)
    check_all(logits, target, c, e, isa, temperature=0.5, grad_eps=1e-2)


@pytest.mark.parametrize("isa", ISAS)
def test_masked_vocabulary_entries_get_no_probability(isa):
    logits, target, c, e = row_case(6, 4100)
    logits[:, ::3] = -torch.inf
    logits[0, :4099] = -torch.inf  # whole blocks masked, one entry left
    target = target // 3 * 3 + 1
    target[0] = 4099
    check_all(logits, target, c, e, isa)
    grad = logits.clone()
    rows_of("cpu", isa)(grad, target, c, None)
    assert bool((grad[:, ::3] == 0).all())


@pytest.mark.parametrize("isa", ISAS)
def test_masked_target_has_logprob_minus_infinity(isa):
    logits, target, c, _ = row_case(2, 50)
    logits[0, target[0]] = -torch.inf
    check_all(logits, target, c, None, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_row_of_only_minus_infinity_is_defined(isa):
    logits, target, c, e = row_case(2, 5000)
    logits[0] = -torch.inf
    check_all(logits, target, c, e, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 2500, 4999])
def test_nan_and_infinity_are_passed_on(place, bad, isa):
    logits, target, c, _ = row_case(3, 5000)
    logits[1] = -torch.inf
    logits[1, place] = bad
    stats = rows_of("cpu", isa)(logits, target, c, None)
    assert stats.logprob.isnan().tolist() == [False, True, False]
    assert stats.lse.isnan()[1] and stats.entropy.isnan()[1] and logits[1].isnan().any()
    assert not stats.greedy[1] and logits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("isa", ISAS)
def test_rows_without_coefficients_become_zero_even_if_nan(isa):
    logits, target, c, e = row_case(4, 99)
    logits[1:3] = torch.nan
    c[1:3], e[1:3] = 0.0, 0.0
    rows_of("cpu", isa)(logits, target, c, e)
    assert bool((logits[1:3] == 0).all()) and bool((logits[0] != 0).any())


def test_tile_may_be_a_slice_of_a_wider_buffer():
    logits, target, c, e = row_case(4, 101)
    wide = torch.full((4, 120), 7.0)
    wide[:, 3:104] = logits
    expected = logits.clone()
    backend(expected, target, c, e)
    backend(wide[:, 3:104], target, c, e)
    assert torch.equal(wide[:, 3:104], expected)
    assert bool((wide[:, :3] == 7).all()) and bool((wide[:, 104:] == 7).all())


def test_bits_do_not_depend_on_the_number_of_threads():
    logits, target, c, e = row_case(33, 3001)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        copy = logits.clone()
        stats = backend(copy, target, c, e)
        results.append(torch.cat([copy.flatten(), stats.logprob, stats.entropy]))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_gradient_rows_sum_to_zero():
    logits, target, c, e = row_case(9, 20_011)
    backend(logits, target, c, e)
    assert logits.double().sum(dim=1).abs().max() < 1e-5


def test_bad_tiles_are_refused():
    logits, target, c, _ = row_case(4, 10)
    with pytest.raises(ValueError, match="float32, bfloat16"):
        backend(logits.double(), target)
    with pytest.raises(ValueError, match="unit stride"):
        backend(logits.t(), torch.zeros(10, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"target: expected contiguous \[4\] int64"):
        backend(logits, target[:3])
    with pytest.raises(ValueError, match=r"target: expected values in \[0, 10\), got \[-1, "):
        backend(logits, target.index_fill(0, torch.tensor([1]), -1))
    with pytest.raises(ValueError, match=r"c: expected \[4\]"):
        backend(logits, target, c[:2], None)
    with pytest.raises(ValueError, match="isa"):
        rows_of("cpu", "vax")(logits, target)
