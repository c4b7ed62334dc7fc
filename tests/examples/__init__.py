"""Tests of the examples and of what they share; run by ``nox -s examples``."""
