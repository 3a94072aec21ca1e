"""What others have made, beside ours: the same work in live processes, timed in turn, a column for each of them.

In: names of peers, or none for all. Out: a table and a results file (`run.py`). A peer is installed into an environment
of its own (`install.py`) and runs a program there that needs nothing of ours but its own folder (`programs/`); what is
compared, and the sizes of both sides, stands in `known.py`.
"""
