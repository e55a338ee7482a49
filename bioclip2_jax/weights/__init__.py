"""Weights between our checkpoints and the files of open_clip, PyTorch and transformers.

All pass `Tensors` on (tensors.py): names, each with a shape and a function that reads it. Readers
make them with open_clip's names, whatever the file (open.py); writers take them (write.py);
layout.py holds the one table between open_clip's names and ours, read in both directions.
"""
