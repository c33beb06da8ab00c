"""Measures what engines and their peers take on this machine, and how short it could be."""
