"""The figures of the report, and panels of the picture of a circuit; text is in the templates."""
