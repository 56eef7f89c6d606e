"""The experiments of the 2015 paper (arXiv 1503.02531), one file each, over the public API.

    limbeck paper mnist --data path/to/mnist --budget full --seeds 3

Each experiment is a function `run(lab) -> results`; `Lab` (lab.py) holds the data, trains a net once and keeps it, so
that a run that was stopped goes on where it was. No choice is made on the test set, but where the paper's own way of
choosing is shown beside it and marked as such.
"""
