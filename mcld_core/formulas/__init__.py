"""The formulas: values only; every derivative is the framework's."""
