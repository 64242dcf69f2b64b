"""Makes the detector in the box, default.safetensors, from nothing: `make weights`. :mod:`detector.box` finds it."""
