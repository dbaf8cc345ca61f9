"""Measurement sets in memory: tables that readers accept."""

import csv
import io

from service.services.measurements import RUNS
from tests.support.measured_tables import RUN
from twin.fitting.tables import TABLES


def table(rows):
    """Rows as the bytes of a CSV file, columns from the first one."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def minimal_tables(**changes):
    """One row in each table; enough to be taken, not to be fitted."""
    tables = {name: table([dict.fromkeys(columns, "1")]) for name, columns in TABLES.items()}
    return tables | {RUNS: table([RUN])} | changes
