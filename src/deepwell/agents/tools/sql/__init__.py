"""Tools that read SQLite files."""

from deepwell.agents.tools.sql.statement import StatementProblem, checked_statement
from deepwell.agents.tools.sql.tools import sql_tools

__all__ = ["StatementProblem", "checked_statement", "sql_tools"]
