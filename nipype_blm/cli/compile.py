"""placeholder."""


def add_compile(tools): ...
