"""A folder of results: its maps, their one reader, and comparisons of two of them."""
