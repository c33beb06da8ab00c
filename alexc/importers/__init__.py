"""Nets that other tools wrote → a spec and its weights. One file a format, and one that writes."""
