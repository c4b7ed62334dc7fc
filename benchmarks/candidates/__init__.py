"""What speed.py, memory.py and against.py measure, a module a framework."""
