"""Flows of particles beside loops by hand."""
