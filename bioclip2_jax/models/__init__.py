"""The two towers, in Flax NNX; parameters are plain nested dicts."""
