"""MCP, the Model Context Protocol: the tools of other servers for Deepwell, and Deepwell's own for other clients.

Everything that the package `mcp` of the extra [agents] provides is imported here alone, and only when it is used.
"""
