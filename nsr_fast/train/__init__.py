"""Training: setup -> loop -> round -> step. `nsr_fast.train.loop.train(config)` runs it all."""
