"""HTML pages that fetch nothing, and their charts, for the reports of builder and load tests.

Depends on no other package. Begin with ``html``.
"""
