"""Pure functions of features and labels: arrays in, numbers out."""
