"""`jaxkit report` and `jaxkit dashboard`: runs to look at, in one file or live."""

import argparse
import json

from jaxkit.cli import parsing
from jaxkit.errors import UsageError


def report(arguments: argparse.Namespace) -> int:
    """Writes the report of one or more runs as one HTML file."""
    from jaxkit.reports import report
    from jaxkit.runs import files

    runs = [parsing.path(run) for run in arguments.runs]
    if arguments.output is None and len(runs) > 1:
        raise UsageError("report: of several runs it needs --output=FILE.html")
    output = parsing.path(arguments.output) if arguments.output else runs[0] / "report.html"
    html = report.html(runs)
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"--output: {output} is no file in a directory that is there")
    try:
        files.write_text(output, html)
    except OSError as error:
        raise UsageError(
            f"{output}: cannot be written ({error.strerror}); choose another --output=FILE"
        ) from error
    print(json.dumps({"report": str(output), "bytes": output.stat().st_size}) if arguments.json else output)
    return 0


def dashboard(arguments: argparse.Namespace) -> int:
    """Serves the live dashboard until it is interrupted."""
    from jaxkit.reports import report, server, site

    made = site.site(parsing.path(arguments.directory))
    report.plotly()  # said now, rather than by an empty page
    said = "the dashboard is at {}; Ctrl-C ends it"
    started = lambda url: print(json.dumps({"url": url}) if arguments.json else said.format(url), flush=True)
    server.serve(made, host=arguments.host, port=arguments.port, started=started)
    return 0
