"""`limbeck verify PATH`: checks the files of a stored set, and its targets against the teacher."""

from limbeck.commands.console import hush, say
from limbeck.commands.jobs import VerifyJob, read_job
from limbeck.commands.options import new_parser
from limbeck.commands.texts import open_teacher, refuse_unused_networks
from limbeck.errors import DataError
from limbeck.store.verify import verify


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    hush()
    parser = new_parser("verify", "Check every byte, row and target of a stored set.", "PATH")
    parser.add_argument("path", type=str, help="its folder or URL")
    parser.add_argument("--teacher", type=str, nargs="+", default=[], help="compare what this teacher says now")
    parser.add_argument("--mean", type=str, default="arithmetic", help="of an ensemble's probabilities")
    parser.add_argument("--network", type=str, nargs="+", default=[], help="of a teacher of your own, as in distill")
    parser.add_argument("--rows", type=int, default=32, help="how many rows to recompute with the teacher")
    job = read_job(VerifyJob, parser, words)
    teachers, networks = job.teacher, job.own.network
    refuse_unused_networks(networks, teachers.teacher)
    found = verify(job.path, open_teacher(teachers.teacher, teachers.mean, networks), rows=job.rows)
    for finding in found:
        say(finding)
    if found:
        findings = f"{len(found)} finding{'s' if len(found) > 1 else ''}"
        raise DataError(f"{job.path} is not what was written: {findings}, listed above.")
    compared = " and what the teacher says of some rows" if teachers.teacher else ""
    say(f"{job.path}: every file, row and target{compared} is as it was written.")
