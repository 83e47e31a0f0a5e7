"""Solvers for the largest canonical correlation: exact, and iterative for slowly changing pairs."""
