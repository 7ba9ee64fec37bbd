"""Units that users give numbers in."""

GIB = 2**30  # bytes
