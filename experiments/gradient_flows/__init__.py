"""Particles, densities and porous media, each going down its functional."""
