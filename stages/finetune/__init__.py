"""Fine-tune with label-smoothed cross-entropy and R3F under DeepSpeed ZeRO."""
