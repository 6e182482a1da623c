"""Measuring: what the verbs `bench` and `check` and the scripts in benchmarks/ share."""
