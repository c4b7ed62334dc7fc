"""Tests of what the extensions add to the core."""
