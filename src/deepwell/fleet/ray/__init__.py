"""Ray: pieces of work on the machines of a cluster, and replicas of the server under Ray Serve. Needs the extra `ray`."""
