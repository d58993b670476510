"""Placeholder; its lane writes the docstring."""
