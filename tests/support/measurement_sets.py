"""Measurement sets in memory: tables that readers accept."""

from service.drill.measurements import table
from service.services.measurements import RUNS
from tests.support.measured_tables import RUN
from twin.fitting.tables import TABLES


def minimal_tables(**changes):
    """One row in each table; enough to be taken, not to be fitted."""
    tables = {name: table([dict.fromkeys(columns, "1")]) for name, columns in TABLES.items()}
    return tables | {RUNS: table([RUN])} | changes
