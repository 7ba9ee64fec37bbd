"""One function for each stage of a run: files in, files out."""
