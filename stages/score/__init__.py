"""Score predictions against raw references, beside baselines on the same rows."""
