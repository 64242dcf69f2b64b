"""How fast everything is on this machine, beside what it replaces: `npr bench`.

A case (:mod:`detector.bench.cases`) is some work on some images, and what does it: ours, and its rivals. Each of them
has a process of its own (:mod:`detector.bench.worker`), in which it is built, and the processes take turns
(:mod:`detector.bench.frame`), so that what else the machine does falls on all alike.
"""
