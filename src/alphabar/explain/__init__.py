"""The derivation: its formulas, the functions that compute them, and short explanations in Chinese and English."""
