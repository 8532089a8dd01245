"""Train, evaluate and store classifiers."""
