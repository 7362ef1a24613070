"""What every lower precision shares: which types a node takes, where casts go, how rounding shows.

In processing order: `schema` says what could change its type, a precision decides what should,
`islands` moves the borders to where the fewest casts are, `retype` writes the graph, and `rounding`
makes an FP32 engine show what a half-precision device would compute.
"""
