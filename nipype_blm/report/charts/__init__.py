"""The figures of the report; its text is in the templates."""
