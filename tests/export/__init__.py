"""ONNX export: every framework by every kind of student."""
