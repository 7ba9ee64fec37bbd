def add_install(tools):
    pass
