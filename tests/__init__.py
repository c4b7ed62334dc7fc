"""The test suite: one set of tests for every backend."""
