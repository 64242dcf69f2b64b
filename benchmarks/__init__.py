"""Speed, for who develops this: cases under pytest-benchmark, GPUs, and the README's plots.

`npr bench` (:mod:`detector.bench`) measures; what is here uses its cases, clocks, floors and facts.
"""
