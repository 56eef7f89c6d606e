"""The report: a run's results as one page that opens from disk, with no network, no server and no torch.

    limbeck.write_report("runs/demo/results.json", "runs/demo/report.html")
    limbeck.write_report(results, "report.html")

What this room does not know: models, data sets, how a number came about.
"""

from limbeck.report.page import write_report

__all__ = ["write_report"]
