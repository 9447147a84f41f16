"""How a stage is planned, run, committed, resumed and launched; knows nothing of summarization."""
