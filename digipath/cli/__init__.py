"""The command line: `digipath VERB …`; one file per group of verbs.

Exit codes: 0 done; 2 bad input or usage, one line says what; 3 done, but some tissue was left
unpredicted; 130 interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from digipath.cli import burden, evaluate, explain, grade, segment, slides, stage, train, weights
from digipath.cli.common import NOTICE
from digipath.errors import DigipathError

BAD_INPUT, INTERRUPTED = 2, 130

EXAMPLES = """examples:
  digipath segment slide.svs                       maps and report in ./slide.digipath
  digipath segment crop.jpg --mpp 0.5 --views 8    a plain image; mean over 8 views, with uncertainty
  digipath grade slide.svs                         glioma, tile by tile; map and report in ./slide.grade
  digipath grade --t1 … --t1c … --t2 … --flair …   glioma on MRI, with explanations
  digipath info slide.svs                          size, resolution, levels
  digipath weights list                            what can be run
  digipath stage node_1.svs node_2.svs --out patient   pN stage of a patient's lymph nodes
  digipath burden slide.digipath                   viable share of the tumour, with an interval
  digipath train --config my.toml --out networks   your own networks, from slides and outlines
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    # TensorFlow's C++ start-up notices would bury the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name may be no text at all
    try:
        with _terminable():
            return arguments.run(arguments)
    except DigipathError as error:
        print(f"digipath: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - what the interpreter flushes at its end
        return 0
    except OSError as error:
        print(f"digipath: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("digipath: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, as schedulers send it, end a run as Ctrl-C does: in order, and to be gone on with."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="digipath",
        description=f"Digital pathology from the scanner's file to a result. {NOTICE}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(run=_version_or_help(parser))
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for group in (segment, grade, explain, stage, burden, slides, train, evaluate, weights):
        group.add_verbs(verbs)
    return parser


def _version_or_help(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        if arguments.version:
            from importlib.metadata import version

            print(f"digipath {version('digipath')}")
        else:
            parser.print_help()
        return 0

    return run
