"""Images and labels in, a classifier out."""
