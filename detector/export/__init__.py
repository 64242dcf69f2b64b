"""Detectors for inference engines: files in an engine's own format, which say what they are, and their reader.

:func:`detector.export.exported.save_exported` writes one, :func:`detector.export.exported.load_exported` reads it. A
format is a line here and a module `<name>_format` beside it, with `write`, `read_metadata` and `Engine`. Free of torch
and of engines.
"""

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "aoti": ".pt2"}
"""Formats by name, with what their files' names end with: ONNX, OpenVINO's IR (with a .bin beside it), AOTInductor."""
