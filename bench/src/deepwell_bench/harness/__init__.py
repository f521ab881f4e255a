"""The parts that every benchmark uses: reports, comparisons, roofs, server and worker processes, the rows of targets.toml."""
