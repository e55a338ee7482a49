"""What the features know beyond the species they were trained to tell apart (paper, section 5)."""
