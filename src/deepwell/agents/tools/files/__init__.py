"""Tools over the files of one folder."""

from deepwell.agents.tools.files.folder import ConfinedFolder, FolderError
from deepwell.agents.tools.files.tools import file_tools

__all__ = ["ConfinedFolder", "FolderError", "file_tools"]
