"""Tests of what is PyTorch's alone."""
