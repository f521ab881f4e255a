"""Tools that a model may call: what one is, and those that come with Deepwell."""

from deepwell.agents.tools.calculator import calculator
from deepwell.agents.tools.files import file_tools
from deepwell.agents.tools.knowledge import KnowledgePassage, Searcher, knowledge_tool
from deepwell.agents.tools.python import python_tool
from deepwell.agents.tools.sql import sql_tools
from deepwell.agents.tools.tool import Clues, Example, Guide, Tool, ToolCallContext, ToolOutput

__all__ = [
    "Clues",
    "Example",
    "Guide",
    "KnowledgePassage",
    "Searcher",
    "Tool",
    "ToolCallContext",
    "ToolOutput",
    "calculator",
    "file_tools",
    "knowledge_tool",
    "python_tool",
    "sql_tools",
]
