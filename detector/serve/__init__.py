"""Verdicts over HTTP: a service with a queue, an interface for programs and a page for people.

What is here asks the detector and does not judge: every answer is that of :func:`detector.detection.detect`.
"""
