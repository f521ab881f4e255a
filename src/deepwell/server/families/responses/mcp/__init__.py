"""The tool `mcp` of responses: tools of MCP servers, which the server lists and calls."""
