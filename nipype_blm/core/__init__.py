"""Arrays in, arrays out: products, least squares, contrasts, tails."""
