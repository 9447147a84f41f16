"""Bring the dataset and the pretrained model into the run; the only stage that uses the network."""
