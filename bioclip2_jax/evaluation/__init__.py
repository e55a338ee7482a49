"""What a model is worth: questions, protocols, results, comparisons."""
