"""Speed, measured side by side: `python -m benchmarks.run` measures and prints, `python -m benchmarks.table` prints."""
