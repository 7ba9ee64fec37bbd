"""Front ends: each reads what its users write and makes a `Request` of it."""
