"""Baselines to compare with, each credited to its authors."""
