"""Parsers of a model's output into content, reasoning and tool calls: pure state machines over text that comes in pieces.

However the text is cut into pieces, the joined events are the same. Markup never reaches the content. Text that only
resembles markup does, unchanged. A call that the model got wrong is passed on as it stands: bad arguments are the model's
error, and the client sees arguments that do not parse.
"""
