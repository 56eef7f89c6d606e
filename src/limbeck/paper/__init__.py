"""The experiments of the 2015 paper (arXiv 1503.02531), one file each, over the public API.

    limbeck paper mnist --data path/to/mnist --budget full --seeds 3

Each experiment is a function `run(lab) -> results`; `Lab` (lab.py) holds the data, trains a network once and saves it,
so that an interrupted run resumes. Nothing is chosen on the test set, except where the paper did so: that result is
shown as well, and marked.
"""
