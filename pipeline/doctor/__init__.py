"""Look at a machine or an allocation before work is given to it, and say what stands in the way."""
