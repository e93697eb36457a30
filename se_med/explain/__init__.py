"""What the gates of a trained network do: whether they depend on the input, on what, and which of them could go."""
