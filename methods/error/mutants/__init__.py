"""Mutants of a network: a few weights changed, kept only where accuracy is; and what they predict."""
