"""Logic programs: a part of clingo's language in which the same facts always have one answer."""
