"""Samplers: one method a file, a shared loop, and one home for time grids."""
