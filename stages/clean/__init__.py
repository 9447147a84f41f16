"""Turn raw rows into clean examples, with a ledger entry for every row."""
