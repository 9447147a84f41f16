"""Compare scored runs: by how much they differ, whether that is more than chance, and where."""
