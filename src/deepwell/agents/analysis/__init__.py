"""Questions to tables: CSV and SQLite files, read and queried in the sandbox by one read-only statement."""

from deepwell.agents.analysis.ask import Analysis, Analyst
from deepwell.agents.analysis.chart import check_chart, draw_bars
from deepwell.agents.analysis.query import CheckedQuery, QueryProblem, check_query
from deepwell.agents.analysis.run import Rows, run_query
from deepwell.agents.analysis.tables import Column, Table, Tables, load_tables

__all__ = [
    "Analysis",
    "Analyst",
    "CheckedQuery",
    "Column",
    "QueryProblem",
    "Rows",
    "Table",
    "Tables",
    "check_chart",
    "check_query",
    "draw_bars",
    "load_tables",
    "run_query",
]
