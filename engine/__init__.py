"""A CNN in, a runnable engine out."""
