"""The throughput suite: every stage as an absolute figure and as a share of a limit measured in the same run.

Input: nothing but a machine; sizes come from `sizes.py`. Output: a table and one results file (`suite.py`). What is
quoted as a ratio is timed in turn, round by round, so that it holds on a machine that is not quiet.
"""
