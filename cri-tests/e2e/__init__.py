"""What users of Kubernetes do with wasm pods, row by row, on a real cluster (rig.kube).

A row picks the runtime by RuntimeClass alone and may break only its own namespace.
"""
