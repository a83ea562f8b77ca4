"""Relevance propagation: the engine, its rules, and the methods that are tables of rules."""
