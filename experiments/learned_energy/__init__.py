"""A free energy learned from populations."""
