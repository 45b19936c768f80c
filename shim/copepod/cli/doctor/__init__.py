"""`copepod doctor`: what this node has, lacks and should do, one line per fact.

It repairs nothing; each check is a function of a `Context`, whose seams the tests replace.
"""
