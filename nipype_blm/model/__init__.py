"""What is asked for: configuration, design, contrasts, plan."""
