"""Volumes in a BOSS, such as BossDB; only `client` needs the package intern."""
