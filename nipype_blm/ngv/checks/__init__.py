"""What can be known before a circuit is computed: whether it can be."""
