"""The documentation: its pages, what is generated into them, and what builds the site.

Depends on ``serving``, whose settings, parsers and tables the references are made of. Begin with
``build``.
"""
