"""Learns a net's weights by the recipe of its spec; a run goes on after a stop bit for bit."""
