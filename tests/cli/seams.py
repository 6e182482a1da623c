"""Every internal name that the tests of whole runs reach for, in one place.

Anything else they use is the command line, the files of a run and TransformersEngine.generate.
"""

RUN_CHECK = "nsr_fast.bench.check.run_check"  # what the verb `check` calls; returns a bool
COMPLETIONS_AT_ONCE = "nsr_fast.evaluate.sample._COMPLETIONS_AT_ONCE"  # of one evaluation part
ENGINE_GENERATE = "nsr_fast.rollout.transformers_engine.TransformersEngine.generate"
VLLM_ENGINE = "nsr_fast.rollout.vllm_engine.VllmEngine"
HOST_STEP = "nsr_fast.train.optimizer.step_on_host_"  # AdamW on a parameter's masters there
BUILD_LEARNER = "nsr_fast.train.loop.build_learner"  # a run's policy and engine, before its rounds
LOAD_POLICY = "nsr_fast.run.build.load_policy"
