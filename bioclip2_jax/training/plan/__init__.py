"""The true train step, compiled for accelerators that need not be here."""
