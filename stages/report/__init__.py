"""Tell the run: one HTML page, a model card, a few lines for the console."""
