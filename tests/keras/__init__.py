"""Tests of the Keras idiom, a process for each of Keras' backends."""
