"""Where ArchNGV is: its environment, how it is made, and processes of it."""
