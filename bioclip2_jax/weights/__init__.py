"""Weights between our checkpoints and the files of open_clip, PyTorch and transformers.

Everything is a `Tensors` (tensors.py): names, shapes and a function that reads one. Readers make
one with open_clip's names, whatever the file (open.py); writers take one (write.py); layout.py
holds the one table between open_clip's names and ours, read in both directions.
"""
