"""Scanning millions of files: what is meant (listing), what becomes of it (scoring), and where it is kept (output), and
between them Ray (engine, on a cluster), known to these two modules alone.

The unit is a block: some hundred files that are listed, scored by one actor and written as one Parquet file. Nothing
but its paths travels between processes: an actor opens the files itself and decodes them on threads, as `npr detect`
does, because pixels are many times a file's bytes and would be copied twice.
"""
