"""Forward and backward passes of training, written out by hand where that saves time or memory."""
