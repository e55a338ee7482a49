"""What people do with a model: names for their pictures."""
