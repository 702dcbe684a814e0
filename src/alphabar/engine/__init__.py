"""Ways to compute a network, and their measurement."""
