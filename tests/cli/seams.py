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
WEIGHTS_UPDATED = "nsr_fast.rollout.transformers_engine.TransformersEngine.weights_updated"
TRUNK_PASS = "nsr_fast.train.step.hidden_states"  # of one pass; its hook runs in the backward
DEVICE_STEP = "nsr_fast.train.optimizer.step_on_device_"  # AdamW on one parameter
# the points of a save, in their order: nothing yet, the weights, all but the manifest, the manifest
SAVE_MODEL = "nsr_fast.run.checkpoint.save_model"
SEAL = "nsr_fast.run.checkpoint._seal"
PUT_IN_PLACE = "nsr_fast.run.checkpoint._put_in_place"
LINK = "nsr_fast.run.checkpoints.Checkpoints.link"
PRUNE = "nsr_fast.run.checkpoints.Checkpoints.prune"
LOG_ROUND = "nsr_fast.run.directory.RunDirectory.log_round"
GUARDS = "nsr_fast.train.guards.Guards"  # what they remember: state, restore
