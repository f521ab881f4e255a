"""A second, slow evaluator of logic programs and a generator of random ones, with which clingo's answers are checked."""
