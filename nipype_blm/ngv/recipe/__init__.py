"""What is asked of a circuit, and what each stage gets of that."""
