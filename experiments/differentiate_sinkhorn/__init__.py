"""Colours and registration through the gradient of entropic transport."""
