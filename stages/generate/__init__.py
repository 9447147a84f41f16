"""Summarise a split by beam search, in shards that do not depend on the number of workers."""
