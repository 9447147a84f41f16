"""What is done: one folder a stage, readable alone."""
