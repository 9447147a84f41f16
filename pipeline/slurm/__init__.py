"""Runs as chains of Slurm jobs: what is asked for, what is in the queue, and what became of a job."""
