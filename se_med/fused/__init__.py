"""Norm, activation and gate in one, and the loss, by kernels compiled for this processor; by torch where there are none.

Instance norm, leaky ReLU and the gates of channel and spatial excitation each read and write whole maps, and each keeps one for
the backward pass. Together they read a map twice and keep only what the convolution gave: see ``norm.c`` for the formulas.
"""
