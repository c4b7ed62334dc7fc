"""The three contrasts for tokens, time-series windows, several modalities and other teachers."""

if __name__ != "mcld_core.extensions":
    raise ImportError(
        f"this package is imported as 'mcld_core.extensions', not as {__name__!r}: "
        "install the clone (pip install .) and write `import mcld_core.extensions`"
    )
