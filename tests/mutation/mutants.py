"""Small errors that once passed every test, and the tests that must notice them.

Each replaces a text that stands once in its file. What they have in common: the parts were right
and tested, that a run passes the right thing to them was not.
"""

from dataclasses import dataclass

SETTINGS = "tests/cli/test_settings_reach_their_place.py"
ROUNDS = "tests/cli/test_round_wiring.py"
CHECKPOINTS = "tests/cli/test_checkpoints.py"
STEP = "tests/train/test_step.py"
GENERATE = "tests/rollout/test_generate.py"
POOL = "tests/reward/math/test_pool.py"
SANDBOX = "tests/reward/code/test_sandbox.py"
CODE = "tests/reward/code/test_code.py"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = [
    # the step: signs, clip range, cap
    Mutant(
        "step-entropy-sign",
        "nsr_fast/train/step.py",
        "entropy_coef=objective.entropy_coef / denominator",
        "entropy_coef=-objective.entropy_coef / denominator",
        (STEP,),
    ),
    Mutant(
        "step-eps-swap",
        "nsr_fast/objective/objective.py",
        "PpoClip(self.epsilon, self.epsilon_high, sampler_cap=cap)",
        "PpoClip(self.epsilon_high or self.epsilon, self.epsilon, sampler_cap=cap)",
        (STEP,),
    ),
    Mutant(
        "step-cap-dropped",
        "nsr_fast/objective/objective.py",
        "PpoClip(self.epsilon, self.epsilon_high, sampler_cap=cap)",
        "PpoClip(self.epsilon, self.epsilon_high)",
        (STEP,),
    ),
    # checkpoints
    Mutant(
        "ckpt-dtype",
        "nsr_fast/run/checkpoint.py",
        "tensor.detach().cpu().clone()",
        "tensor.detach().cpu().to(torch.bfloat16)",
        (CHECKPOINTS,),
    ),
    Mutant(
        "ckpt-optimizer",
        "nsr_fast/train/loop.py",
        '"optimizer": learner.optimizer.state_dict()',
        '"optimizer": {}',
        (CHECKPOINTS,),
    ),
    Mutant(
        "ckpt-inplace",
        "nsr_fast/run/checkpoint.py",
        "    if folder.exists():\n        shutil.rmtree(folder)\n    os.replace(unfinished, folder)",
        "    shutil.copytree(unfinished, folder, dirs_exist_ok=True)\n    shutil.rmtree(unfinished)",
        (CHECKPOINTS,),
    ),
    # the loop
    Mutant(
        "loop-repeat",
        "nsr_fast/train/loop.py",
        "config.round.prompts_per_round, keys.seed, n)",
        "config.round.prompts_per_round, keys.seed, 1)",
        (ROUNDS,),
    ),
    Mutant(
        "loop-eval-seed",
        "nsr_fast/train/loop.py",
        "        seed=config.run.seed,\n        progress=lambda",
        "        seed=config.run.seed + round_index,\n        progress=lambda",
        (CHECKPOINTS, ROUNDS),
    ),
    Mutant(
        "loop-eval-sampling",
        "nsr_fast/train/loop.py",
        "config.eval.sampling(config.sampling.max_completion_length)",
        "config.sampling.sampling",
        (SETTINGS,),
    ),
    Mutant(
        "loop-summary-swap",
        "nsr_fast/train/loop.py",
        "evaluations[0], evaluations[last])",
        "evaluations[last], evaluations[0])",
        ("tests/evaluate/test_sample.py",),
    ),
    Mutant(
        "loop-save",
        "nsr_fast/train/loop.py",
        "if n == last or (keys.save_rounds and n % keys.save_rounds == 0):",
        "if n == last:",
        (SETTINGS,),
    ),
    # the round
    Mutant(
        "round-seed",
        "nsr_fast/train/round.py",
        'sampling_seed(config.run.seed, "train", round_index, i)',
        'sampling_seed(config.run.seed, "train", 0, i)',
        (ROUNDS,),
    ),
    Mutant(
        "round-mask",
        "nsr_fast/run/build.py",
        "mask_truncated=config.reward.mask_truncated_completions",
        "mask_truncated=False",
        (SETTINGS,),
    ),
    Mutant(
        "round-order",
        "nsr_fast/rollout/collect.py",
        "tuple(rollouts[sample] for sample in samples)",
        "tuple(rollouts.values())",
        ("tests/rollout/test_collect.py", ROUNDS),
    ),
    # settings on their way
    Mutant(
        "setup-temp",
        "nsr_fast/train/round.py",
        "temperature = config.sampling.temperature",
        "temperature = 1.0",
        (SETTINGS,),
    ),
    Mutant(
        "setup-eps-high",
        "nsr_fast/objective/objective.py",
        'exclude={"objective", "psr_weight"}',
        'exclude={"objective", "psr_weight", "epsilon_high"}',
        (SETTINGS,),
    ),
    Mutant(
        "setup-entropy",
        "nsr_fast/objective/objective.py",
        'exclude={"objective", "psr_weight"}',
        'exclude={"objective", "psr_weight", "entropy_coef"}',
        (SETTINGS,),
    ),
    Mutant(
        "setup-minibatches",
        "nsr_fast/objective/objective.py",
        'exclude={"objective", "psr_weight"}',
        'exclude={"objective", "psr_weight", "minibatches"}',
        (SETTINGS,),
    ),
    Mutant(
        "setup-cap",
        "nsr_fast/objective/objective.py",
        'exclude={"objective", "psr_weight"}',
        'exclude={"objective", "psr_weight", "importance_sampling_cap"}',
        (SETTINGS,),
    ),
    Mutant(
        "setup-lambda",
        "nsr_fast/objective/objective.py",
        "Objective.w_reinforce(keys.psr_weight, **numbers)",
        "Objective.w_reinforce(**numbers)",
        (SETTINGS,),
    ),
    Mutant(
        "setup-warmup",
        "nsr_fast/train/optimizer.py",
        "/ max(1, keys.warmup_steps)",
        "/ max(1, 0)",
        (SETTINGS,),
    ),
    Mutant(
        "setup-overlap",
        "nsr_fast/run/build.py",
        "warnings=data_warnings(rows, eval_rows)",
        "warnings=data_warnings(rows)",
        (SETTINGS,),
    ),
    Mutant(
        "policy-stops",
        "nsr_fast/model/load.py",
        "        policy.generation_config.eos_token_id,\n        policy.config.eos_token_id,\n",
        "",
        (SETTINGS,),
    ),
    # engines
    Mutant(
        "roll-budget",
        "nsr_fast/rollout/budget.py",
        "self.num_tokens >= tokens",
        "self.num_tokens > tokens",
        ("tests/rollout",),
    ),
    Mutant(
        "vllm-stops",
        "nsr_fast/rollout/vllm_engine.py",
        "            stop_token_ids=self._stop_token_ids,\n",
        "",
        ("tests/rollout",),
    ),
    Mutant(
        "weights-reload-guard",
        "nsr_fast/rollout/weights.py",
        "in ([True, False], [False, True]):",
        "in ([],):",
        ("tests/rollout/test_weights.py",),
    ),
    Mutant(
        "te-draw",
        "nsr_fast/rollout/transformers_engine.py",
        "cdf = logprob.double().exp().cumsum(dim=-1)",
        "cdf = (logprob * self._temperature).log_softmax(-1).double().exp().cumsum(dim=-1)",
        (GENERATE,),
    ),
    # evaluation
    Mutant(
        "summary-pair",
        "nsr_fast/evaluate/summary.py",
        "paired_difference(before.num_correct, after.num_correct, num_samples, k)",
        "paired_difference(after.num_correct, before.num_correct, num_samples, k)",
        ("tests/evaluate/test_summary.py",),
    ),
    Mutant(
        "eval-offset",
        "nsr_fast/evaluate/sample.py",
        "            correct.append(",
        "            correct.insert(0, ",
        ("tests/evaluate/test_sample.py",),
    ),
    Mutant(
        "eval-unscored",
        "nsr_fast/evaluate/sample.py",
        "sum(rollout.is_correct is True for",
        "sum(rollout.is_correct is not False for",
        ("tests/evaluate/test_sample.py",),
    ),
    # data, command line
    Mutant(
        "data-bos",
        "nsr_fast/data/prompts.py",
        "tokenizer(texts, add_special_tokens=False)",
        "tokenizer(texts)",
        ("tests/data/test_prompts.py",),
    ),
    Mutant(
        "cli-engine",
        "nsr_fast/cli.py",
        "    except EngineFailure as error:\n        return _fail(error, 1)",
        "    except EngineFailure as error:\n        return _fail(error, 0)",
        (ROUNDS,),
    ),
    Mutant(
        "cli-check",
        "nsr_fast/cli.py",
        "return 0 if run_check() else 1",
        "return 0 if run_check() is not None else 1",
        (ROUNDS,),
    ),
    # rewards
    Mutant(
        "pool-wall-time",
        "nsr_fast/reward/math/pool.py",
        " or elapsed_s > MAX_WAITS * self._deadline_s",
        "",
        (POOL,),
    ),
    Mutant(
        "pool-stale-reply",
        "nsr_fast/reward/math/pool.py",
        'if "hello" in reply or reply["id"] == self._last_id:',
        'if "hello" in reply or reply["id"]:',
        (POOL,),
    ),
    Mutant(
        "worker-memory",
        "nsr_fast/reward/math/worker.py",
        "    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))\n",
        "",
        (POOL,),
    ),
    Mutant(
        "sandbox-files",
        "nsr_fast/reward/code/sandbox.py",
        'for f in ("/usr", "/bin", "/lib", "/lib64")',
        'for f in ("/usr", "/bin", "/lib", "/lib64", "/etc", "/home")',
        (SANDBOX,),
    ),
    Mutant(
        "sandbox-bwrap-net",
        "nsr_fast/reward/code/sandbox.py",
        'command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]',
        'command += ["--unshare-pid", "--unshare-ipc", "--unshare-uts"]',
        (SANDBOX,),
    ),
    Mutant(
        "sandbox-fsize",
        "nsr_fast/reward/code/inside_supervisor.py",
        '        ("RLIMIT_FSIZE", config["file_bytes"]),\n',
        "",
        (SANDBOX,),
    ),
    Mutant(
        "code-failed-wrong",
        "nsr_fast/reward/code/reward.py",
        "verdict = Verdict.WRONG if was_killed else Verdict.UNSCORED",
        "verdict = Verdict.WRONG",
        (CODE,),
    ),
    Mutant(
        "code-cache-key",
        "nsr_fast/reward/code/reward.py",
        "key = (rollout.text, repr(tests))",
        'key = (rollout.text, "")',
        (CODE,),
    ),
    # CUDA through the SIMT shim
    Mutant(
        "cu-edge",
        "csrc/cuda/row_cluster.cu",
        "  if (rank == 0) add_edge(sums, row, softcap, scale);",
        "  add_edge(sums, row, softcap, scale);",
        ("tests/shim/test_simt_rows.py",),
    ),
]
