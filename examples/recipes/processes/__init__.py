"""Several processes and devices that train together, a module a framework."""
