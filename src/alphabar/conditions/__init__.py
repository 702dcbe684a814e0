"""Encoders: each turns one kind of the user's input into its part of `Cond`, and owns its null value."""
