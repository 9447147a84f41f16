"""Ranks, collectives, DeepSpeed and the environment: nothing outside this package touches them."""
