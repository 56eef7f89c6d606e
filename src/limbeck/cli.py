"""The command `limbeck`: text becomes objects here, and only here.

    limbeck demo                                       see distillation work; on text with --language
    limbeck inspect D --student S                      see the data as the models will read it
    limbeck distill --data D --teacher T --student S   train a student; without --teacher, on labels alone
    limbeck tune --data D --teacher T --student S      find the temperature and the weight of the labels
    limbeck evaluate --data D --student S              measure students against a teacher and baselines
    limbeck report RUN                                 the run as one page, for a browser
    limbeck label --data D --teacher T                 run the teacher once, for any number of students
    limbeck verify PATH                                check a stored set against what was written
    limbeck info PATH                                  print the manifest of a stored set
    limbeck export RUN --to onnx                       a student as an ONNX file, checked
    limbeck paper EXPERIMENT                           the experiments of the 2015 paper

Each command builds its parser when it is used, so that `limbeck --help` imports neither torch nor transformers.
"""

import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from limbeck._version import __version__
from limbeck.errors import LimbeckError

COMMANDS = {
    "demo": "see distillation work on handwritten digits, in a minute; --language: on text, in two",
    "inspect": "show the first examples as the models will read them, and what is learned of them",
    "distill": "train a small model to behave like a big one; without --teacher, train it on labels",
    "tune": "find the temperature and the weight of the labels, on held-out examples",
    "evaluate": "measure students against a teacher and against baselines",
    "report": "draw a run's results as one page that opens in any browser",
    "label": "run a teacher once and store its targets for any number of students",
    "verify": "check that a stored set is unchanged since it was written",
    "info": "print the manifest of a stored set",
    "export": "write a student as an ONNX file that predicts the same, and measure its size and speed",
    "paper": "run an experiment of the 2015 paper and compare with its figures",
}

HELP = f"""usage: limbeck COMMAND [options]

Knowledge distillation: a small model learns to behave like a big one.

commands:
{chr(10).join(f"  {name:<10} {text}" for name, text in COMMANDS.items())}

limbeck COMMAND --help shows the main options; --debug shows the traceback of an error.
limbeck --version prints {__version__}.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 1 for what Limbeck refuses, 2 for a command line that it cannot read.

    130 where it was interrupted (Ctrl-C) and 143 where it was told to end (SIGTERM); a second signal ends it at once.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(
            f"limbeck: there is no command {words[0]!r}.{hint} The commands are {', '.join(COMMANDS)}.", file=sys.stderr
        )
        return 2
    from limbeck.commands.failures import message_of, takes_debug
    from limbeck.commands.flags import in_flags
    from limbeck.commands.full_disk import message_of_unwritable
    from limbeck.commands.known import refuse_unknown
    from limbeck.commands.signals import Stopped, next_step, stops_as_interrupts

    words, debug = takes_debug(words)
    try:
        with stops_as_interrupts():
            refuse_unknown(words[0], words[1:])
            import_module(f"limbeck.commands.{words[0]}").run(words[1:])
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        if isinstance(error, LimbeckError):
            message = in_flags(str(error), words[0])
        else:
            message = message_of_unwritable(error, words[0], words[1:]) or message_of(error, words[1:])
        print(f"limbeck {words[0]}: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped(signal.SIGINT)
        print(f"\nlimbeck {words[0]}: stopped ({stopped}). {next_step(words[0], words[1:])}", file=sys.stderr)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
