"""Data: layouts, cases, folds, plans, preparation, and the stream of training patches."""
