"""`narrows bench`: load on an OpenAI-compatible server, measured from outside. Definitions:
docs/metrics.md.
"""
