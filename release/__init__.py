"""What `make wheel` runs: a wheel for every Python and torch, built, checked and tried in clean environments."""
