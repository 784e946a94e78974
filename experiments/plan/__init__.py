"""What a training step needs on accelerators that are not here."""
