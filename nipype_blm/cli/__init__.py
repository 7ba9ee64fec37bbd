"""Commands: parse, check, build, run."""
