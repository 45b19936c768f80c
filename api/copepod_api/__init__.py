"""containerd's messages and services as Python: generated from api/protos, plus `any`.

Written by api/generate.py; nothing in here is edited by hand but `any.py`.
"""
