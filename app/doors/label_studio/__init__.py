"""Label Studio's ML backend, at /label-studio: the whole door of one tool, in a package because it has many parts.

Does not know how masks are made.
"""
