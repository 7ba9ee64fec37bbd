"""What opens a channel: a module for each kind of store, by the library that knows it."""
