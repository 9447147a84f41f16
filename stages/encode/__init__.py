"""Turn text into token ids in Arrow shards, truncation counted."""
