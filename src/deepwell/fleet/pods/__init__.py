"""Grade 2: the parts of a deployment in containers of one pod, by podman."""
