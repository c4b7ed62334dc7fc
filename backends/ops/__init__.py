"""The operations that the formulas are written in, once a framework."""
