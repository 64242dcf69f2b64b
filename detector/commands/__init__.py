"""The commands of `npr`: each module adds its parser with add_parser and does its work in run."""
