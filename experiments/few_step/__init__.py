"""Generators of one step and of few, beside a flow of many steps."""
