"""The papers' experiments, each from one command that goes on where it was killed."""
