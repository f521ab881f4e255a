"""Tools that a model may call: what one is, and those that come with Deepwell."""

from deepwell.agents.tools.python import python_tool
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput

__all__ = ["Tool", "ToolCallContext", "ToolOutput", "python_tool"]
