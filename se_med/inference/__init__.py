"""Whole volumes through a trained network and back to their own grid: weights on disk, windows, predictor, batches of files."""
