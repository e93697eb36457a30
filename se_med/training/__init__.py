"""Training: from a configuration to a run folder with weights, logs and validated cases."""
