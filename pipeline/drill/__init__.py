"""A rehearsal of the worst: stages are stopped and killed on purpose, and must end as if nothing had been."""
