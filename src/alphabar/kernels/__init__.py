"""Compiled kernels for the CPU. Nobody but the engine chooses them."""
