"""policy_pass over a sharded head in 2 and 3 gloo processes against the unsharded operation."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from linear_cases import assert_as_good_as, head_case, leaves

from nsr_fast.kernels.head import SIDES, Head, TokenInputs
from nsr_fast.kernels.policy_loss import PassOptions, linear_policy_loss, policy_pass
from nsr_fast.kernels.vocab_parallel import vocab_shard
from nsr_fast.objective.terms import PpoClip

SIZES = {2: [37, 64], 3: [1, 50, 50]}
OPTIONS = {
    "plain": {},
    "all": {
        "temperature": 0.7,
        "softcap": 6.0,
        "entropy_coef": 0.2,
        "surrogate": PpoClip(0.2, 0.28, kl_coef=0.1),
        "old_logprob": torch.full((30,), -4.0),
        "ref_logprob": torch.full((30,), -4.5),
    },
}
FIELDS = ("logprob", "entropy", "sum_p2", "sum_p2_logp", "greedy", "c", "e", "is_clipped")


def case_of(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    case = head_case(30, 101, 7, dtype=dtype)
    case["token_weight"][4:9] = 0.0
    case["hidden"][5] = torch.nan
    case["hidden"][0] = case["weight"][case["target"][0]] * 4  # a greedy row
    case["bias"][50] = -torch.inf  # a masked entry, which no target uses
    case["target"][case["target"] == 50] = 51
    return case


def outputs(result, inputs) -> dict[str, torch.Tensor]:
    (result.loss * 3).backward()
    values = {name: getattr(result.stats, name) for name in FIELDS}
    grads = {f"grad{i}": x.grad for i, x in enumerate(inputs)}
    return {"loss": result.loss.detach(), "lse": result.lse, **values, **grads}


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    sizes = SIZES[world]
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for name, options in OPTIONS.items():
            case = case_of(dtype)
            hidden, weight, bias = leaves(case, "hidden", "weight", "bias")
            weight, bias = (x.detach()[rows].clone().requires_grad_() for x in (weight, bias))
            shard = vocab_shard(len(weight), sizes if name == "plain" else None)
            scaling = {key: options[key] for key in ("temperature", "softcap") if key in options}
            head = Head(weight, bias, **scaling, chunk_rows=8, shard=shard)
            side = {key: options[key] for key in SIDES if key in options}
            tokens = TokenInputs(hidden, case["target"], case["token_weight"], **side)
            entropy_coef = options.get("entropy_coef", 0.0)
            terms = options.get("surrogate")
            result = policy_pass(head, tokens, terms, PassOptions(entropy_coef))
            path = f"{folder}/{dtype}-{name}-{rank}.pt"
            torch.save(outputs(result, [hidden, weight, bias]), path)
    refusals = [refusal(shard_sizes=[5] * world), refusal(target=torch.tensor([101]))]
    Path(f"{folder}/refusals-{rank}").write_text("\n".join(refusals))
    dist.destroy_process_group()


def refusal(target: torch.Tensor | None = None, shard_sizes: list[int] | None = None) -> str:
    case = head_case(1, SIZES[dist.get_world_size()][dist.get_rank()], 3)
    target = case["target"] * 0 if target is None else target
    tokens = TokenInputs(case["hidden"], target, case["token_weight"])
    with pytest.raises(ValueError) as error:
        shard = vocab_shard(len(case["weight"]), shard_sizes)
        policy_pass(Head(case["weight"], shard=shard), tokens)
    return str(error.value)


@pytest.mark.parametrize("world", [2, 3])
def test_sharded_loss_and_gradients_equal_the_unsharded_ones(world, tmp_path):
    # One server imports torch for all workers, which fork from it before any thread exists.
    multiprocessing.set_forkserver_preload(["torch._dynamo", "nsr_fast.kernels.vocab_parallel"])
    torch.multiprocessing.start_processes(
        worker, (world, str(tmp_path)), nprocs=world, start_method="forkserver"
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for name, options in OPTIONS.items():
            truth, base = (whole(precision, dtype, options) for precision in (torch.float64, dtype))
            shards = [torch.load(tmp_path / f"{dtype}-{name}-{rank}.pt") for rank in range(world)]
            for shard in shards[1:]:
                same = [torch.equal(shard[key], shards[0][key]) for key in shard if key < "grad1"]
                assert all(same)
            got = dict(shards[0])
            for key in ("grad1", "grad2"):
                got[key] = torch.cat([shard[key] for shard in shards])
            for key, value in got.items():
                eps = {torch.bfloat16: 2e-2, torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
                assert_as_good_as(
                    value, truth[key], base[key], name=f"{dtype} {name} {key}", eps=eps
                )
    for rank in range(world):
        lines = (tmp_path / f"refusals-{rank}").read_text().splitlines()
        assert lines[0].startswith(f"shard_sizes: expected {world} sizes")
        assert lines[1].startswith("target: expected values in [0, 101), got 101")


def whole(precision, dtype, options) -> dict[str, torch.Tensor]:
    """Unsharded, computed in `precision` on inputs rounded to dtype."""
    case = case_of(dtype)
    inputs = leaves(case, "hidden", "weight", "bias", dtype=precision)
    args = (*inputs[:2], case["target"], case["token_weight"])
    return outputs(linear_policy_loss(*args, bias=inputs[2], **options), inputs)
