"""What a model wrote, as content, reasoning and tool calls: pure state machines over text that comes in pieces.

However the text is cut into pieces, the events joined are the same. Markup never reaches the content; text that only
resembles it does, to the letter. A call that the model got wrong is passed on as it stands: bad arguments are the model's
error, which a client sees as arguments that do not parse.
"""
