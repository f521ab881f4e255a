"""A support desk over documents: it answers with citations, declines what it does not know, and hands over to a person."""

from deepwell.agents.support.desk import ANSWERS, DeskOptions, DeskReply, SupportDesk
from deepwell.agents.support.handover import Handover
from deepwell.agents.support.signals import Signal, signal_of

__all__ = ["ANSWERS", "DeskOptions", "DeskReply", "Handover", "Signal", "SupportDesk", "signal_of"]
