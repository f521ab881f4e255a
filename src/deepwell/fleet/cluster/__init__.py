"""The grade `mesh` in a Kubernetes cluster: manifests applied by kubectl, and roll-outs driven by the ledger."""
