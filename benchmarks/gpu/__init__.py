"""The GPU's ops measured so that numbers come home even if a kernel is wrong, hangs or takes the device with it.

What is measured is a list of rows (:mod:`benchmarks.gpu.plan`). The process that goes through them
(:mod:`benchmarks.gpu.runner`) never touches the device: a worker (:mod:`benchmarks.gpu.worker`) measures a row after
the other, each within a cap of time, and is replaced when it hangs, dies or has met an error that the device does not
forget. What became of a row is in the journal (:mod:`benchmarks.gpu.journal`) before the next one begins.
"""
