"""What an observation is: a vector over the features of a space, read from an image."""
