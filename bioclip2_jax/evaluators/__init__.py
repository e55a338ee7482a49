"""Evaluation protocols as pure functions: arrays of features and labels in, results out."""
