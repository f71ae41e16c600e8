"""The verbs that read runs: `runs`, `show`, `compare`, `report`, `dashboard`."""

import argparse
from collections.abc import Callable

from jaxkit.cli import comparing, listing, reporting, showing


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The verbs that read runs, and change nothing in them."""
    runs = verb("runs", listing.runs, "list the runs below a directory: DIR/run, DIR/group/run")
    runs.add_argument("directory", nargs="?", default="runs", help="where to look (default: runs)")
    runs.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="NAME, one of = != > >= < <= ~, a value"
    )
    runs.add_argument("--sort", default="", metavar="NAMES", help="by these; -NAME (--sort=-NAME): largest first")
    runs.add_argument(
        "--columns", default="", metavar="NAMES", help="such as run,status,config.seed,timing.total,test/accuracy"
    )
    runs.add_argument("--limit", type=int, metavar="N", help="only the first N")
    show = verb("show", showing.show, "show one run: status, results, timing, where it comes from")
    show.add_argument("run", help="a run directory")
    compare = verb("compare", comparing.compare, "compare two runs, or two groups: A1 A2 A3 --with B1 B2 B3")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="two run directories, or those of group A")
    compare.add_argument(
        "--with", nargs="+", metavar="RUN", dest="others", help="group B; with the same seeds they are paired"
    )
    compare.add_argument("--diff", action="store_true", help="show the whole difference of the code")
    report = verb("report", reporting.report, "write one HTML file that needs no network")
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--output", metavar="FILE", help="where to (default, of one run: RUN/report.html)")
    dashboard = verb("dashboard", reporting.dashboard, "look at all runs live, in a browser on this machine")
    dashboard.add_argument("directory", nargs="?", default="runs", help="where the runs are (default: runs)")
    dashboard.add_argument("--port", type=int, default=8765, help="default: 8765; 0 for any that is free")
    dashboard.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; of this machine alone")
