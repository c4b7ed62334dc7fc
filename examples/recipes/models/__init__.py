"""Networks by name: tables in `networks`, layers in one module a framework."""
